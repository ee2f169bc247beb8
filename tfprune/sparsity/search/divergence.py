"""The distance of a network's outputs from those that it had: of classes by probabilities. NumPy only."""

from collections.abc import Sequence

import numpy as np

DIVERGENCES = ("probabilities", "logits", "squared")
# The least probability that is told from 0, and how near to 1 probabilities sum up in float16.
_LEAST, _NEAR_ONE = 1e-7, 5e-3


def divergence_of(outputs: np.ndarray) -> str:
    """Returns the divergence that fits outputs: "probabilities" if the last axis has such, else "squared".

    Logits look like any numbers: who has them says so.
    """
    numbers = np.asarray(outputs, np.float64)
    if numbers.ndim < 2 or numbers.shape[-1] < 2 or numbers.min() < 0:
        return "squared"
    return "probabilities" if np.abs(numbers.sum(-1) - 1).max() < _NEAR_ONE else "squared"


class Divergence:
    """The distance of outputs from those of the dense network, for each example.

    Of probabilities p of the dense network and q of another one it is the Kullback-Leibler divergence in
    nats, `sum p * log(p / q)`, the mean over positions if there are several; of logits that of their
    softmax. Of other numbers it is the squared error, summed over an example and divided by the mean over the
    examples of `sum (dense - mean)**2`, so that 1 is what a constant network has. Of several outputs it is
    the mean of theirs.

    Args:
        dense: The outputs of the dense network on all examples, one array an output.
        kinds: One of `DIVERGENCES` for each output.
    """

    def __init__(self, dense: Sequence[np.ndarray], kinds: Sequence[str]) -> None:
        self._parts = [_PARTS[kind](np.asarray(output)) for output, kind in zip(dense, kinds, strict=True)]

    def of(self, outputs: Sequence[np.ndarray], first: int) -> np.ndarray:
        """Returns the divergence of each example, float64; infinite where an output is not finite.

        Args:
            outputs: The outputs on some examples that follow one another, one array an output.
            first: The number of the first of these examples.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            each = [
                part.of(np.asarray(output, np.float64), slice(first, first + len(output)))
                for part, output in zip(self._parts, outputs, strict=True)
            ]
            mean = np.mean(each, axis=0)
        return np.where(np.isfinite(mean), mean, np.inf)


class _Probabilities:
    def __init__(self, dense: np.ndarray) -> None:
        self._dense = self._logs(dense.astype(np.float64))

    def of(self, outputs: np.ndarray, examples: slice) -> np.ndarray:
        dense = self._dense[examples]
        each = (np.exp(dense) * (dense - self._logs(outputs))).sum(-1)
        return np.maximum(each.reshape(len(each), -1).mean(1), 0)

    def _logs(self, numbers: np.ndarray) -> np.ndarray:
        return np.log(np.clip(numbers, _LEAST, None))


class _Logits(_Probabilities):
    def _logs(self, numbers: np.ndarray) -> np.ndarray:
        shifted = numbers - numbers.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class _Squared:
    def __init__(self, dense: np.ndarray) -> None:
        self._dense = dense.reshape(len(dense), -1).astype(np.float64)
        spread = np.square(self._dense - self._dense.mean(0)).sum(1).mean()
        self._scale = spread if spread > 0 else 1.0

    def of(self, outputs: np.ndarray, examples: slice) -> np.ndarray:
        return np.square(outputs.reshape(len(outputs), -1) - self._dense[examples]).sum(1) / self._scale


_PARTS = {"probabilities": _Probabilities, "logits": _Logits, "squared": _Squared}
