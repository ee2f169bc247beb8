"""tfmot's `pruning_utils`: the check of m of n weights."""

from typing import Any

import numpy as np
from keras import ops

__all__ = ["is_pruned_m_by_n"]


def is_pruned_m_by_n(weights: Any, m_by_n: tuple[int, int] = (2, 4), last_channel: str = "C_OUT") -> bool:
    """Returns whether at least m of every n consecutive weights along the input channels are zero.

    Args:
        weights: A tensor, variable or array of two axes or more.
        m_by_n: (m, n).
        last_channel: "C_OUT" for a Keras kernel, whose last axis but one numbers the input channels; "C_IN"
            for one of TFLite's, whose last does.

    Raises:
        ValueError: If m is above n, or on another `last_channel`.
    """
    m, n = m_by_n
    if m > n:
        raise ValueError(f"`m_by_n` must be (m, n) with m at most n. Received: m_by_n={m_by_n}")
    if last_channel not in ("C_OUT", "C_IN"):
        raise ValueError(f"`last_channel` must be 'C_OUT' or 'C_IN'. Received: last_channel={last_channel!r}")
    values = np.asarray(ops.convert_to_numpy(weights))
    if last_channel == "C_OUT":
        values = np.moveaxis(values, -2, -1)
    left = np.add.reduceat(values != 0, np.arange(0, values.shape[-1], n), axis=-1, dtype=np.int64)
    return bool((left <= n - m).all())
