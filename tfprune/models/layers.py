"""What the networks of this package have alike: the head, and the first values of convolutions."""

import keras


def logits(x: keras.KerasTensor, classes: int, seed: int | None) -> keras.KerasTensor:
    """Returns the logits of a new head.

    Args:
        x: Features `[n, channels]`.
        classes: The number of classes.
        seed: Of the initial weights.
    """
    return keras.layers.Dense(
        classes,
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        dtype="float32",  # 16 bits are too few for a loss
        name="head",
    )(x)


def he_normal(seed: int | None) -> keras.initializers.Initializer:
    """Returns PyTorch's `kaiming_normal_(mode="fan_out", nonlinearity="relu")`."""
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal", seed=seed
    )
