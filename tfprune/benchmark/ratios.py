"""The statistics of the benchmark: medians with quartiles, and ratios within rounds."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence


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
    """Summarizes how many times faster something is, round by round.

    What else the machine does in a round falls on both, so that the ratio within it says more than the
    ratio of two medians.

    Args:
        baseline: Seconds of what it is compared with, one value a round.
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
    """Returns which of `names` has the lowest median; None if none of them was timed.

    Args:
        seconds: Name to its seconds, one value a round.
        names: Those that may win.
    """
    timed = [name for name in names if name in seconds]
    return min(timed, key=lambda name: statistics.median(seconds[name]), default=None)
