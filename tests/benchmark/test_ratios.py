import pytest

from tfprune.benchmark.ratios import Summary, fastest, paired_speedup, summarize


def test_quartiles_are_interpolated():
    assert summarize([4.0, 1.0, 3.0, 2.0, 5.0]) == Summary(3.0, 2.0, 4.0)
    assert summarize([1.0, 2.0]) == Summary(1.5, 1.25, 1.75)
    assert summarize([7.0]) == Summary(7.0, 7.0, 7.0)


def test_nothing_has_no_median():
    with pytest.raises(ValueError, match="must not be empty"):
        summarize([])


def test_speedups_are_paired_within_rounds():
    """A machine that slows down falls on both: the ratio of medians would say 2, the rounds say 4."""
    baseline, measured = [8.0, 8.0, 40.0, 4.0], [2.0, 2.0, 10.0, 1.0]
    assert paired_speedup(baseline, measured) == Summary(4.0, 4.0, 4.0)
    assert paired_speedup([6.0, 2.0, 9.0], [1.0, 1.0, 3.0]).median == 3.0
    with pytest.raises(ValueError, match="the same rounds"):
        paired_speedup([1.0], [1.0, 2.0])


def test_the_fastest_is_by_median_and_among_those_named():
    seconds = {"a": [3.0, 3.0, 3.0], "b": [1.0, 4.0, 4.0], "c": [2.0, 2.0, 2.0]}
    assert fastest(seconds, ["a", "b"]) == "a"
    assert fastest(seconds, ["a", "b", "c", "absent"]) == "c"
    assert fastest(seconds, ["absent"]) is None
