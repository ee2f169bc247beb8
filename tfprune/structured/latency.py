"""Finds the first moves of an order after which a network is fast enough, by measuring some of them."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfprune.channels.cut import build_smaller
from tfprune.channels.groups import Traced
from tfprune.structured.order import Order

Seconds = Callable[[keras.Model], float]
RUNTIMES = ("tflite", "sparse")

# A measured time so little below the budget is no further looked at: two measurements differ as much.
_NEAR_ENOUGH = 0.03
_MOST_MEASUREMENTS = 8


def pair_of(model: keras.Model, runtime: str | Seconds, input_shape: Any) -> Callable[[keras.Model], tuple]:
    """Returns a function from another model to the seconds of a call of the first one and of the other.

    Raises:
        ValueError: If there is no such runtime.
    """
    if callable(runtime):
        whole = float(runtime(model))
        return lambda other: (whole, float(runtime(other)))
    if runtime not in RUNTIMES:
        raise ValueError(
            f"`runtime` must be one of {list(RUNTIMES)} or a function from a model to seconds. "
            f"Received: runtime={runtime!r}"
        )
    # The runtimes are extras: whoever measures no time does without.
    from tfprune.benchmark.latency import Stopwatch

    return Stopwatch(model, runtime, input_shape).seconds


def fast_enough(
    traced: Traced, order: Order, fraction: float, pair: Callable[[keras.Model], tuple]
) -> tuple[int, tuple[float, float]]:
    """Finds the slowest network that takes at most a fraction of the time, among those that are measured.

    Between two that were measured, one is tried whose MACs should give the time, if the time is linear in
    them; never too near to either, so that the search ends as by bisection.

    Returns:
        The number of moves, and the seconds before and after.

    Raises:
        ValueError: If the smallest network is too slow.
    """

    def measured(count: int) -> tuple[float, float]:
        stays = order.stays(count)
        return pair(build_smaller(traced.model, traced.trace.cuts, lambda at: stays[traced.sets[at]]))

    if not order.moves:
        best = pair(traced.model)
        return 0, (best[0], best[0])
    low, high = order.forced, len(order.moves)
    best = measured(high)
    slow, fast = 1.0, best[1] / best[0]
    if fast > fraction:
        raise ValueError(
            f"`latency` must be at least {fast:.2g}: the fewest channels that each group may keep take "
            f"{1e3 * best[1]:.3g} of {1e3 * best[0]:.3g} ms. Received: latency={fraction}"
        )
    for _ in range(_MOST_MEASUREMENTS):
        if high - low <= 1 or fast > fraction * (1 - _NEAR_ENOUGH):
            break
        share = np.clip((slow - fraction * (1 - _NEAR_ENOUGH / 2)) / max(slow - fast, 1e-9), 0.1, 0.9)
        most, least = (order.cost(count, "macs") for count in (low, high))
        wanted = most + share * (least - most)
        middle = order.fewest("macs", wanted, low + 1, high - 1)
        found = measured(middle)
        ratio = found[1] / found[0]
        if ratio <= fraction:
            high, best, fast = middle, found, ratio
        else:
            low, slow = middle, ratio
    return high, best
