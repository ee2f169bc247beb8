"""One output of a network beside its labels: what it predicts, and the loss and metric that follow."""

import math
from dataclasses import dataclass

import keras
import numpy as np


@dataclass(frozen=True)
class Output:
    """An output and its labels.

    Attributes:
        name: Of the output, as `--loss=NAME:...` has it; empty for the only one.
        size: Its last axis; 1 where there is none.
        activation: What makes it, as `network.ending.activations` says.
        kind: What the labels are: "classes", the whole number of one class; "one_hot", a probability of each
            class; "binary", yes or no for each number; "numbers"; or "other", where they do not fit.
        misfit: Why no loss and no metric follow; empty if they do.
    """

    name: str
    size: int
    activation: str | None
    kind: str
    misfit: str = ""

    @property
    def from_logits(self) -> bool:
        """Whether it is logits and no probabilities."""
        return self.activation not in ("softmax", "sigmoid")

    @property
    def is_one_class(self) -> bool:
        """Whether it says one of several classes."""
        return self.kind in ("classes", "one_hot")

    def default_loss(self) -> keras.losses.Loss:
        """Returns the loss that follows from the output and its labels.

        Raises:
            ValueError: If none does.
        """
        if self.misfit:
            raise ValueError(self.misfit)
        if self.kind == "numbers":
            return keras.losses.MeanSquaredError()
        return {
            "classes": keras.losses.SparseCategoricalCrossentropy,
            "one_hot": keras.losses.CategoricalCrossentropy,
            "binary": keras.losses.BinaryCrossentropy,
        }[self.kind](from_logits=self.from_logits)

    def default_metric(self) -> keras.metrics.Metric:
        """Returns the metric that follows: `accuracy`, or the mean absolute error of numbers.

        Raises:
            ValueError: If none does.
        """
        if self.misfit:
            raise ValueError(self.misfit)
        if self.kind == "numbers":
            return keras.metrics.MeanAbsoluteError()
        return self.accuracy()

    def accuracy(self) -> keras.metrics.Metric:
        """Returns the accuracy that suits the labels.

        Raises:
            ValueError: If the labels are no classes.
        """
        if self.kind == "classes":
            return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        if self.kind == "one_hot":
            return keras.metrics.CategoricalAccuracy(name="accuracy")
        if self.kind == "binary":
            return keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0 if self.from_logits else 0.5)
        raise ValueError(
            "accuracy is of classes, and the labels are none: name another, such as mean_absolute_error"
        )

    def __str__(self) -> str:
        """Returns what a line says of it: `10 logits and whole-number labels`."""
        noun = dict.fromkeys(("numbers", "other"), "number").get(
            self.kind, "logit" if self.from_logits else ""
        )
        noun = (
            f"{noun}{'' if self.size == 1 else 's'}"
            if noun
            else _of(self.size, "probability", "probabilities")
        )
        labels = {
            "classes": "whole-number labels",
            "one_hot": "one-hot labels",
            "binary": "labels of 0 and 1",
        }
        return f"{self.size} {noun} and {labels.get(self.kind, 'labels of numbers')}"


def _of(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def output_of(
    name: str, shape: tuple[int, ...], activation: str | None, labels: np.ndarray, classes: int | None
) -> Output:
    """Returns an output beside its labels.

    Args:
        name: Of the output; empty for the only one.
        shape: Of one example's output.
        activation: What makes it, as `network.ending.activations` says.
        labels: Some or all, `[n, ...]`.
        classes: The number of the data's classes, where labels are their whole numbers; else None.

    Raises:
        ValueError: If the output is for another number of classes.
    """
    size = shape[-1] if shape else 1
    expected = labels.shape[1:]
    if classes is not None and classes != (2 if size == 1 else size):
        raise ValueError(f"it has {size} {_of(size, 'output', 'outputs')}, and there are {classes} classes")
    whole = labels.dtype.kind in "biu"
    zero_or_one = bool(np.all((labels == 0) | (labels == 1)))

    def kind_of() -> str:
        if size == 1:
            if math.prod(shape) != math.prod(expected):
                return "other"
            return "binary" if zero_or_one and (whole or activation == "sigmoid") else "numbers"
        if whole and expected in (shape[:-1], (*shape[:-1], 1)):
            return "classes"
        if expected != shape:
            return "other"
        sums_to_1 = bool(np.allclose(labels.sum(axis=-1), 1.0, atol=1e-4))
        if activation == "softmax" or (activation != "sigmoid" and zero_or_one and sums_to_1):
            return "one_hot"
        return "binary" if zero_or_one and (whole or activation == "sigmoid") else "numbers"

    kind, misfit = kind_of(), ""
    if kind == "classes" and not 0 <= int(labels.min()) <= int(labels.max()) < size:
        raise ValueError(f"it has {size} outputs, and the labels go from {labels.min()} to {labels.max()}")
    if kind == "classes" and activation == "sigmoid":
        kind, misfit = "other", f"{size} sigmoid outputs do not say which of the classes in the labels it is"
    elif kind == "other":
        where = f"output {name!r}" if name else "the output"
        misfit = f"{where}, {list(shape)}, does not fit labels of {labels.dtype} {list(expected)}"
    return Output(name, size, activation, kind, misfit)
