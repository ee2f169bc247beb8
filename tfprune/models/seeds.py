"""Seeds of a network's layers, from one number."""

from collections.abc import Callable

import numpy as np


def seed_sequence(seed: int | None) -> Callable[[], int | None]:
    """Returns a function that gives every layer a seed of its own, in the order of the layers.

    Args:
        seed: The network's, at least 0; None for none, with which the function returns None.

    Raises:
        ValueError: If the seed is below 0.
    """
    if seed is None:
        return lambda: None
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0. Received: seed={seed}")
    children = np.random.SeedSequence(seed)
    return lambda: int(children.spawn(1)[0].generate_state(1)[0])
