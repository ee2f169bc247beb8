"""Expresses the channels that a layer took by those that stay, by their values on samples."""

from collections.abc import Callable

import numpy as np

from tfprune.network.gram import Covariance

METHODS = ("constant", "merge", "ridge")
RIDGE = 1e-3
"""The penalty of "ridge", as a share of the mean variance of the channels that stay.

To it comes `FEW` times the square of the number of these channels over that of the samples.
"""
FEW = 0.1
CHANNELS_A_SAMPLE = 8
"""For how many channels that stay a sample is needed, for "merge" and "ridge"."""

# Values of samples that are looked at together, at most.
_CHUNK = 2**22
# A variance below this share of the mean square is rounding.
_ROUNDING = 1e-12


class Regression:
    """Channels as sums of the channels that stay, each channel at several positions, perhaps.

    Args:
        kept: For each channel whether it stays.
        positions: The number of positions; each has means of its own, and all have the factors together.
        method: One of `METHODS`.
    """

    def __init__(self, kept: np.ndarray, positions: int, method: str) -> None:
        self._kept, self._method = kept, method
        self._channels, self._staying = len(kept), int(kept.sum())
        # The products of all values with those of the channels that stay.
        given = 0 if method == "constant" else self._staying
        self._covariance = Covariance(self._channels + self._staying, given, positions)

    @property
    def samples(self) -> int:
        """The number of samples of each channel, those of all positions together."""
        return self._covariance.samples

    @property
    def wanted(self) -> int:
        """The number of samples that are needed at least."""
        return 1 if self._method == "constant" else -(-self._staying // CHANNELS_A_SAMPLE)

    @property
    def finite(self) -> bool:
        """Whether all samples are finite."""
        return bool(np.isfinite(self._covariance.mean).all())

    def add(self, wanted: np.ndarray, given: np.ndarray) -> None:
        """Adds samples.

        Args:
            wanted: All channels, `[samples, positions, channels]`.
            given: The channels that stay, as they are now.
        """
        rows = max(1, _CHUNK // self._covariance.mean.size)
        for start in range(0, len(wanted), rows):
            self._add(wanted[start : start + rows], given[start : start + rows])

    def _add(self, wanted: np.ndarray, given: np.ndarray) -> None:
        values = np.concatenate([wanted, given], -1).astype(np.float64)
        values[..., : self._channels][..., self._kept] -= values[..., self._channels :]
        self._covariance.add(values)

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the factors, `[channels, staying]`, and the constants, `[positions, channels]`."""
        missing, given = np.split(self._covariance.mean, [self._channels], 1)
        factors = np.zeros((self._channels, self._staying))
        if self._covariance.given:
            shared, own = np.split(self._covariance.sums / self.samples, [self._channels])
            constant = np.diag(own) <= _ROUNDING * (given**2).mean(0)
            own[constant] = own[:, constant] = shared[:, constant] = 0
            if own.any():
                factors = _FACTORS[self._method](own, shared, self.samples)
        constants = missing - given @ factors.T
        if self._method != "ridge":
            # What stays is left as it is: where little of the variance is explained, less of it behind a mean
            # that is right again is worse than less of both.
            factors[self._kept] = 0
            constants[:, self._kept] = 0
        factors[self._kept] += np.eye(self._staying)
        return factors, constants


def _merged(own: np.ndarray, shared: np.ndarray, samples: int) -> np.ndarray:
    """Returns the factor of the one channel that correlates most, and zeros.

    Args:
        own: The covariances of the channels that stay.
        shared: Those of what is missing with them, `[channels, staying]`.
        samples: The number of samples that they are of.
    """
    variance = np.diag(own)
    scale = np.divide(shared, variance, out=np.zeros_like(shared), where=variance > 0)
    best = (shared * scale).argmax(1)[:, None]
    factors = np.zeros_like(shared)
    np.put_along_axis(factors, best, np.take_along_axis(scale, best, 1), 1)
    return factors


def _regressed(own: np.ndarray, shared: np.ndarray, samples: int) -> np.ndarray:
    """Returns the factors of ridge regression; arguments as those of `_merged`."""
    penalty = (RIDGE + FEW * (len(own) / samples) ** 2) * np.diag(own).mean()
    return np.linalg.solve(own + penalty * np.eye(len(own)), shared.T).T


_FACTORS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "merge": _merged,
    "ridge": _regressed,
}
