"""Times several things in one run, by turns, so that what else the machine does falls on all alike."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping

import numpy as np

# Idle threads of OpenMP and of the runtimes' own pools spin for some milliseconds before they sleep (those of
# ONNX Runtime for up to 35), and would take cores from the next one.
PAUSE_SECONDS = 0.05
# A shorter turn repeats its call, and counts the mean.
LEAST_TURN_SECONDS = 0.01
WARM_UP_CALLS = 3


@dataclasses.dataclass(frozen=True)
class Timings:
    """What the rounds gave.

    Attributes:
        seconds: Name to the seconds of one call, one value a round.
        failures: Name to what it raised; it has no seconds then.
    """

    seconds: dict[str, list[float]]
    failures: dict[str, str]


def time_rounds(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    seed: int = 0,
    pause_seconds: float = PAUSE_SECONDS,
    least_turn_seconds: float = LEAST_TURN_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Runs every call once a round, in an order drawn anew for each round.

    A turn is a pause, one call that is not timed (it wakes the threads and puts back into the caches what
    the one before has driven out), and the timed call, repeated where it is short. All are warmed up
    before the first round.

    Args:
        calls: Name to what is timed.
        rounds: How many, at least 1.
        seed: Of the orders.
        pause_seconds: Before each turn.
        least_turn_seconds: A turn times as many calls as take about this long.
        clock: Seconds, for tests.

    Returns:
        The seconds. A call that raises is a failure and takes no further part.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1. Received: rounds={rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    failures: dict[str, str] = {}
    repeats: dict[str, int] = {}
    rng = np.random.default_rng(seed)

    def turn(name: str, warm_up: bool) -> None:
        call = calls[name]
        for _ in range(WARM_UP_CALLS if warm_up else 1):
            call()
        count = repeats.get(name, 1)
        start = clock()
        for _ in range(count):
            call()
        taken = (clock() - start) / count
        if warm_up:
            repeats[name] = max(1, math.ceil(least_turn_seconds / max(taken, 1e-9)))
        else:
            seconds[name].append(taken)

    for number in range(rounds + 1):
        for name in rng.permutation(list(calls)) if calls else ():
            if name in failures:
                continue
            time.sleep(pause_seconds)
            try:
                turn(name, warm_up=number == 0)
            except Exception as error:
                # Whatever a peer raises concerns that peer alone.
                failures[str(name)] = describe_failure(error)
    return Timings({name: taken for name, taken in seconds.items() if name not in failures}, failures)


def describe_failure(error: BaseException) -> str:
    """Returns an exception as one line: its type, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
