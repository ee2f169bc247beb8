"""The artifacts of one network: what each is called, and how each is written."""

import dataclasses
import os
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfprune.compiler.paths import choose_paths
from tfprune.export.deployable import weights_by_name
from tfprune.runtime import Graph, write_file

FORMATS = ("keras", "saved_model", "tflite", "sparse")
SPARSE_WEIGHTS = ("float16", "float32")


@dataclasses.dataclass(frozen=True)
class Artifact:
    """One exported file or folder.

    Attributes:
        name: Its name in the output folder.
        format: One of `FORMATS`.
        weights: How the weights are stored: `"float32"`, `"float16"`, `"float16 sparse"` or
            `"int8"`. It decides what the audit asks for.
    """

    name: str
    format: str
    weights: str


ARTIFACTS = (
    Artifact("model.keras", "keras", "float32"),
    Artifact("saved_model", "saved_model", "float32"),
    Artifact("model_float32.tflite", "tflite", "float32"),
    Artifact("model_float16.tflite", "tflite", "float16"),
    Artifact("model_float16_sparse.tflite", "tflite", "float16 sparse"),
    # int8 weights stay dense: sparse-encoded, the file does not load under the default delegate.
    Artifact("model_int8.tflite", "tflite", "int8"),
    Artifact("model.tfprune", "sparse", "float16"),
)


def chosen_artifacts(formats: Sequence[str], sparse_weights: str) -> list[Artifact]:
    """Lists what an export writes.

    Args:
        formats: Some of `FORMATS`.
        sparse_weights: How `model.tfprune` stores its weights, one of `SPARSE_WEIGHTS`.

    Returns:
        The artifacts, in the order of `ARTIFACTS`.

    Raises:
        ValueError: An argument is none of these.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"`formats` must name some of {FORMATS}. Received: formats={formats}")
    if sparse_weights not in SPARSE_WEIGHTS:
        raise ValueError(
            f"`sparse_weights` must be one of {SPARSE_WEIGHTS}. Received: sparse_weights={sparse_weights!r}"
        )
    return [
        dataclasses.replace(artifact, weights=sparse_weights) if artifact.format == "sparse" else artifact
        for artifact in ARTIFACTS
        if artifact.format in formats
    ]


def write_artifact(
    artifact: Artifact,
    model: keras.Model,
    folder: str,
    saved_model_folder: str,
    graph: Graph | None = None,
) -> None:
    """Writes one artifact.

    Args:
        artifact: Which.
        model: The network, as `deployable_copy` returns it.
        folder: Where to put it, under its name.
        saved_model_folder: The network's SavedModel, which TFLite files are converted from.
        graph: The network, compiled for the sparse runtime; each convolution's path is chosen here, by
            measuring both.
    """
    path = os.path.join(folder, artifact.name)
    if artifact.format == "keras":
        model.save(path)
    elif artifact.format == "saved_model":
        write_saved_model(model, path)
    elif artifact.format == "sparse":
        write_file(choose_paths(graph), path, artifact.weights)
    else:
        flatbuffer = convert_to_tflite(saved_model_folder, artifact.weights)
        with open(path, "wb") as file:
            file.write(flatbuffer)


def write_saved_model(model: keras.Model, folder: str) -> None:
    """Writes a SavedModel that holds each weight once.

    Its signature `serving_default` takes `image`, uint8 `[n, height, width, 3]` with any n, and
    returns `{"logits": float32 [n, classes]}`. `tf.saved_model.load(folder).weights` maps
    each weight's name (see `weights_by_name`) to its variable.

    `model.export` tracks the variables along two paths of objects and stores each under both; a
    module with one dictionary of the TensorFlow variables does not. It has to be these and not
    Keras's own variables, which the TFLite converter does not recognise as constants.

    Args:
        model: The network.
        folder: Where to write it.
    """
    image_shape = (None, *model.inputs[0].shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(image_shape, tf.uint8, name="image")])
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model(image, training=False)}

    module = tf.Module()
    module.weights = {name: weight.value for name, weight in weights_by_name(model).items()}
    module.serve = serve
    tf.saved_model.save(module, folder, signatures={"serving_default": serve})


def convert_to_tflite(saved_model_folder: str, weights: str) -> bytes:
    """Converts a SavedModel to a TFLite flatbuffer with the signature `serving_default`.

    The batch size stays open. LiteRT allocates one image at first and resizes to what it is given;
    XNNPACK, its default delegate, takes the operators either way.

    Args:
        saved_model_folder: The SavedModel.
        weights: As in `Artifact.weights`. int8 is dynamic-range quantisation: per-channel weights
            of tensors with at least 1,024 values, activations in float32. A sparse-encoded
            `Conv2DTranspose` returns NaN under LiteRT 2.3's default delegate (the audit finds it).

    Returns:
        The flatbuffer.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(
        saved_model_folder, signature_keys=["serving_default"]
    )
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights.startswith("float16"):
        converter.target_spec.supported_types = [tf.float16]
    if weights == "float16 sparse":
        converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    return converter.convert()
