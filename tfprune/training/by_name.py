"""Losses and metrics by their names: Keras's, and `package.module:name` of the user's own."""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras

from tfprune.named import is_named, load_named
from tfprune.network.metrics import direction_of
from tfprune.text import did_you_mean
from tfprune.training.output import Output


def loss_named(name: str, output: Output) -> Callable[[], Any]:
    """Returns a function that makes a loss for an output.

    A loss of Keras that can take logits takes them, where the output is no probabilities.

    Args:
        name: Keras's name of a loss, its class's or its function's; or `package.module:name` of a function, a
            loss, or the class of one that needs no arguments.
        output: The output.

    Raises:
        ValueError: If there is no such loss.
    """
    if is_named(name):
        return _own(name, keras.losses.Loss)
    return _of_keras(name, keras.losses, keras.losses.Loss, output)


def metric_named(name: str, output: Output) -> Callable[[], keras.metrics.Metric]:
    """Returns a function that makes a metric for an output; arguments as for `loss_named`.

    Raises:
        ValueError: If there is no such metric, or it does not suit the output.
    """
    if name in ("accuracy", "acc"):
        output.accuracy()
        return output.accuracy
    if is_named(name):
        make = _own(name, keras.metrics.Metric)
    else:
        make = _of_keras(name, keras.metrics, keras.metrics.Metric, output)
        made = make()
        if isinstance(made, _THRESHOLDED) and output.kind == "binary" and output.from_logits:
            raise ValueError(
                f"{name} needs probabilities, and the network gives logits: end it with a sigmoid"
            )
    return lambda: as_metric(make())


def make_known(entry: str) -> None:
    """Makes Keras find the loss or the metric of the user's own that an entry of a flag names, if it does.

    Args:
        entry: `package.module:name`, perhaps after `OUTPUT:`. One of Keras's, `OUTPUT:name`, looks the same
            as one whose module is gone: neither is an error here.
    """
    after_output = entry.partition(":")[2]
    name = after_output if is_named(after_output) else entry
    if is_named(name):
        with contextlib.suppress(ValueError):
            _own(name, object)


def as_metric(found: Any) -> keras.metrics.Metric:
    """Returns a metric, around a function that is none: the mean of its values."""
    if isinstance(found, keras.metrics.Metric):
        # Keras numbers the names that it makes up, and a figure must be called the same in every process.
        if re.fullmatch(rf"{_snake(type(found).__name__)}_\d+", found.name):
            found.name = _snake(type(found).__name__)
        return found
    metric = keras.metrics.MeanMetricWrapper(found, name=getattr(found, "__name__", type(found).__name__))
    if hasattr(found, "higher_is_better"):
        metric.higher_is_better = found.higher_is_better
    return metric


def is_accuracy(metric: keras.metrics.Metric) -> bool:
    """Returns whether a metric is an accuracy of Keras: a share of 1, shown in percent."""
    return type(metric).__module__.startswith("keras.") and type(metric).__name__.endswith("Accuracy")


def higher_is_better(metric: keras.metrics.Metric) -> bool:
    """Returns which way of a metric is better: as its attribute of that name says, or else Keras.

    Raises:
        ValueError: If neither does.
    """
    said = getattr(metric, "higher_is_better", None)
    found = said if isinstance(said, bool) else direction_of(metric)
    if found is None:
        raise ValueError(
            f"nothing says whether a higher {metric.name} is better: give it the attribute higher_is_better, "
            "True or False, or name another metric first"
        )
    return found


# Of logits they would make errors: a threshold is a probability.
_THRESHOLDED = (keras.metrics.Precision, keras.metrics.Recall, keras.metrics.FBetaScore)


@functools.cache
def _classes(module: ModuleType, base: type) -> dict[str, type]:
    """Returns the classes of a module of Keras, by their names and those of their functions."""
    found = {}
    for name, cls in vars(module).items():
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base:
            found |= {name: cls, _snake(name): cls}
    return found


def _snake(name: str) -> str:
    """Returns the name of a class as Keras makes those of objects of it."""
    parts = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", parts).lower()


def _of_keras(name: str, module: ModuleType, base: type, output: Output) -> Callable[[], Any]:
    classes = _classes(module, base)
    cls = classes.get(name)
    if cls is None:
        try:
            found = module.get(name)  # Such as mse.
        except (ValueError, TypeError):
            raise ValueError(
                f"{name!r} is none of Keras's, nor package.module:name{did_you_mean(name, classes)}"
            ) from None
        snake = getattr(found, "__name__", "")
        cls = type(found) if isinstance(found, base) else classes.get(snake)
        if cls is None:
            return lambda: module.get(name)
    parameters = inspect.signature(cls).parameters
    fitting = {
        "from_logits": output.from_logits,
        "num_classes": output.size,
        "sparse_y_true": output.kind == "classes",
        "sparse_y_pred": False,
    }
    given = {argument: value for argument, value in fitting.items() if argument in parameters}
    needed = [
        argument
        for argument, about in parameters.items()
        if about.default is about.empty
        and about.kind is about.POSITIONAL_OR_KEYWORD
        and argument not in given
    ]
    if needed:
        raise ValueError(
            f"{name} needs {', '.join(needed)}: name a function or an object of your own, package.module:name"
        )
    return lambda: cls(**given)


def _own(name: str, base: type) -> Callable[[], Any]:
    found = load_named(name)
    cls = found if inspect.isclass(found) else type(found)
    # A function, too, is an `object`; its own class is not what a file names.
    known = issubclass(cls, base) and not inspect.isfunction(found)
    if not known and not inspect.isfunction(found):
        raise ValueError(f"{name} must be a function or of the class {base.__name__}. Received: {found!r}")
    _register(cls if known else found, name)
    if inspect.isclass(found):
        return found
    if known:
        return lambda: cls.from_config(found.get_config())
    return lambda: found


def _register(named: Any, name: str) -> None:
    """Makes Keras find a class or a function in the files of a run, if it does not yet."""
    if keras.saving.get_registered_name(named) == named.__name__:
        keras.saving.register_keras_serializable(package=name.partition(":")[0])(named)
