"""What Keras knows of its metrics beside their values."""

import keras

_UP, _DOWN = "up", "down"


def direction_of(metric: keras.metrics.Metric) -> bool | None:
    """Returns whether a higher value of a metric is the better one; None where Keras does not say."""
    return {_UP: True, _DOWN: False}.get(getattr(metric, "_direction", None))
