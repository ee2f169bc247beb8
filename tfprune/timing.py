"""Times several things by turns, so that whatever else the machine does falls on all, and compares them."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# Idle threads of OpenMP and of the runtimes' own pools spin for some milliseconds before they sleep (those of
# ONNX Runtime for up to 35), and would take cores from the next one.
PAUSE_SECONDS = 0.05
# A shorter turn repeats its call, and counts the mean.
LEAST_TURN_SECONDS = 0.01
# One so short is often undisturbed, even on a machine that does other things: for the fastest of many turns.
SHORT_TURN_SECONDS = 0.002
WARM_UP_CALLS = 3


@dataclasses.dataclass(frozen=True)
class Timings:
    """The seconds of all rounds.

    Attributes:
        seconds: Name to the seconds of one call, one value a round.
        failures: Name to the exception that it raised, in words; it has no seconds then.
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
        calls: Name to the function that is timed.
        rounds: The number of rounds, at least 1.
        seed: The seed of the orders.
        pause_seconds: The pause before each turn.
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


@dataclasses.dataclass(frozen=True)
class Summary:
    """A median and the range of the middle half.

    Attributes:
        median: The middle value.
        lower: First quartile.
        upper: Third quartile.
    """

    median: float
    lower: float
    upper: float


def summarize(values: Sequence[float]) -> Summary:
    """Returns the median and the quartiles, interpolated between values.

    Args:
        values: At least one.

    Raises:
        ValueError: There is none.
    """
    if not values:
        raise ValueError("`values` must not be empty")
    if len(values) == 1:
        return Summary(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, lower, upper)


def paired_speedup(baseline: Sequence[float], measured: Sequence[float]) -> Summary:
    """Summarizes by how many times something is faster, round by round.

    Whatever else the machine does in a round falls on both, so that the ratio within the round says more than
    the ratio of two medians.

    Args:
        baseline: The seconds of the other thing, one value a round.
        measured: Its own seconds in the same rounds.

    Returns:
        The summary of `baseline / measured`: above 1 is faster.

    Raises:
        ValueError: The numbers of rounds differ.
    """
    if len(baseline) != len(measured):
        raise ValueError(
            f"both must have the same rounds. Received: {len(baseline)} and {len(measured)} values"
        )
    return summarize([before / after for before, after in zip(baseline, measured, strict=True)])


def fastest(seconds: Mapping[str, Sequence[float]], names: Sequence[str]) -> str | None:
    """Returns the name with the lowest median; None if none of the names was timed.

    Args:
        seconds: Name to its seconds, one value a round.
        names: The names that may win.
    """
    timed = [name for name in names if name in seconds]
    return min(timed, key=lambda name: statistics.median(seconds[name]), default=None)
