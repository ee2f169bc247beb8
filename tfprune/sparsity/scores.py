"""How much each weight matters: a score maps weights to numbers of the same shape, larger = kept longer."""

from collections.abc import Callable

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]


def magnitude(weights: np.ndarray) -> np.ndarray:
    """The absolute value (L1): small weights go first."""
    return np.abs(weights)


SCORES: dict[str, Score] = {"magnitude": magnitude}


def get(name: str) -> Score:
    """Returns the score of that name.

    Raises:
        ValueError: If there is none; the message lists the valid names.
    """
    if name not in SCORES:
        raise ValueError(f"`score` must be one of {sorted(SCORES)}. Received: score={name!r}")
    return SCORES[name]
