"""The names of what can be written; apart, so that they are known before TensorFlow is loaded."""

FORMATS = ("keras", "saved_model", "tflite", "sparse")
# How `model.tfprune` can store its weights; the first is the default.
SPARSE_WEIGHTS = ("float16", "float32")
