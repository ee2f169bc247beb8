r"""Measures what bringing the variance of outputs back gains in networks without BatchNorm, by method.

    python benchmarks/variance_repair.py --data_dir=DIR

Three networks are trained and then pruned without training, each layer but the last to the same share, by
--images training images without labels: `digits`, convolutions on the digits of scikit-learn, of several
--seeds; `vgg`, convolutions on 20,000 images of CIFAR-10; `convnext`, depthwise convolutions, dense layers
and LayerNorm on the same. Printed is the share of right answers on test images (597 digits; 2,000 of
CIFAR-10), the mean over the seeds, with `variance=False` and with `variance=True`, for each method and
sparsity.

Trained networks are kept in --folder, where it is given, and taken from there.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import app, flags  # noqa: E402

NETWORKS = flags.DEFINE_list("networks", ["digits", "vgg", "convnext"], "The networks.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where CIFAR-10 is prepared. Empty: TFDS's own folder.")
FOLDER = flags.DEFINE_string("folder", "", "Where trained networks are kept. Empty: nowhere.")
SEEDS = flags.DEFINE_integer("seeds", 3, "The number of networks for digits.", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 512, "Training images to measure on.", lower_bound=2)
SPARSITIES = flags.DEFINE_list("sparsities", ["0.5", "0.7", "0.8", "0.9"], "Sparsities.")
METHODS = flags.DEFINE_list("methods", ["magnitude", "wanda", "sparsegpt", "reconstruct"], "Methods.")

BATCH = 128


def data_of(name: str) -> tuple[Any, Any, Any, Any]:
    """Returns images and labels to train on, and those to test with."""
    import numpy as np

    if name == "digits":
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
        return images[:1200], labels[:1200], images[1200:], labels[1200:]
    import tensorflow_datasets as tfds

    folder = os.path.expanduser(DATA_DIR.value) or None
    parts: list[Any] = []
    for split in ("train[:20000]", "test[:2000]"):
        data = tfds.load("cifar10", split=split, data_dir=folder, as_supervised=True, batch_size=-1)
        parts += [np.asarray(part) for part in data]
    return tuple(parts)


def convolutions(shape: tuple[int, ...], stages: list[tuple[int, int]], width: int) -> Any:
    """Returns convolutions with an activation straight behind each, and two dense layers.

    Args:
        shape: The shape of an image.
        stages: Filters and convolutions before each pooling.
        width: Outputs of the first dense layer.
    """
    from keras import Input, Sequential, layers

    model = Sequential([Input(shape)])
    if shape[-1] == 3:
        model.add(layers.Rescaling(1 / 127.5, -1))
    options = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
    for filters, count in stages:
        for _ in range(count):
            model.add(layers.Conv2D(filters, 3, **options))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(width, activation="relu"))
    model.add(layers.Dense(10, name="head"))
    return model


def convnext() -> Any:
    """Returns a small ConvNeXt."""
    from keras import Input, Model, layers

    inputs = Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    x = layers.LayerNormalization()(layers.Conv2D(32, 4, strides=4)(x))
    for number, width in enumerate((32, 64)):
        if number:
            x = layers.Conv2D(width, 2, strides=2)(layers.LayerNormalization()(x))
        for _ in range(2):
            y = layers.LayerNormalization()(layers.DepthwiseConv2D(5, padding="same")(x))
            y = layers.Dense(4 * width, activation="gelu")(y)
            x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return Model(inputs, layers.Dense(10, name="head")(x))


def build(name: str) -> tuple[Any, int]:
    """Returns a network that is not trained, and the epochs to train it."""
    if name == "digits":
        return convolutions((8, 8, 1), [(16, 2), (32, 2)], 64), 20
    if name == "vgg":
        return convolutions((32, 32, 3), [(24, 2), (48, 2), (96, 2)], 128), 4
    return convnext(), 4


def trained(name: str, seed: int, images: Any, labels: Any) -> Any:
    """Returns a trained network, from the folder if it is there."""
    import keras

    path = Path(FOLDER.value).expanduser() / f"{name}{seed}.keras" if FOLDER.value else None
    if path is not None and path.exists():
        return keras.models.load_model(path, compile=False)
    keras.utils.set_random_seed(seed)
    model, epochs = build(name)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * len(images) // BATCH)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3 if name == "digits" else rate), loss)
    model.fit(images, labels, batch_size=64 if name == "digits" else BATCH, epochs=epochs, verbose=0)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model


def main(arguments: list[str]) -> None:
    """Prints a table for each network."""
    import numpy as np

    from tfprune import sparsity as library

    for name in NETWORKS.value:
        images, labels, test, answers = data_of(name)
        models = [
            trained(name, seed, images, labels) for seed in range(SEEDS.value if name == "digits" else 1)
        ]
        states = [model.get_weights() for model in models]

        def right(test: Any = test, answers: Any = answers, models: Any = models) -> float:
            found = [model.predict(test, batch_size=250, verbose=0).argmax(-1) for model in models]
            return 100 * float(np.mean([classes == answers for classes in found]))

        print(f"{name}: {right():.1f} % right", flush=True)
        print(f"{'sparsity':8}  {'method':12}  {'variance=False':>14}  {'variance=True':>14}")
        for sparsity in [float(text) for text in SPARSITIES.value]:
            for method in METHODS.value:
                figures = []
                for variance in (False, True):
                    for model, state in zip(models, states, strict=True):
                        model.set_weights(state)
                        library.prune_with_data(
                            model,
                            sparsity,
                            images[: IMAGES.value],
                            method=method,
                            allocation="uniform",
                            variance=variance,
                            spare="head",
                            verbose=0,
                        )
                    figures.append(right())
                without, restored = (f"{figure:.1f} %" for figure in figures)
                print(f"{sparsity:<8g}  {method:12}  {without:>14}  {restored:>14}", flush=True)


if __name__ == "__main__":
    app.run(main)
