import pytest

from tfprune.timing import (
    WARM_UP_CALLS,
    Summary,
    describe_failure,
    fastest,
    paired_speedup,
    summarize,
    time_rounds,
)


class FakeMachine:
    """Calls that take given times on a clock of their own, and a log of who was called."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def clock(self):
        return self.now

    def call(self, name, seconds):
        def run():
            self.log.append(name)
            self.now += seconds

        return run


def rounds_of(machine, calls, rounds=4, **options):
    return time_rounds(calls, rounds, pause_seconds=0, clock=machine.clock, **options)


def test_every_round_times_everyone_once():
    machine = FakeMachine()
    calls = {name: machine.call(name, seconds) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 4.0))}
    timings = rounds_of(machine, calls)
    assert timings.failures == {}
    assert timings.seconds == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [4.0] * 4}
    # A turn is one call to wake up and one that is timed; a round has everybody's turn.
    warm_up = 3 * (WARM_UP_CALLS + 1)
    turns = machine.log[warm_up:]
    rounds = [turns[start : start + 6] for start in range(0, len(turns), 6)]
    assert len(rounds) == 4
    for turn in rounds:
        assert turn[::2] == turn[1::2] and sorted(turn[::2]) == ["a", "b", "c"]
    assert len({tuple(turn) for turn in rounds}) > 1  # The order changes.


def test_short_calls_are_repeated_and_count_their_mean():
    machine = FakeMachine()
    timings = rounds_of(machine, {"a": machine.call("a", 0.25)}, rounds=2, least_turn_seconds=1.0)
    assert timings.seconds == {"a": [0.25, 0.25]}
    assert len(machine.log) == WARM_UP_CALLS + 1 + 2 * (1 + 4)


def test_one_that_fails_is_out_and_the_others_go_on():
    machine = FakeMachine()
    left = [6]

    def breaks():
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("no memory\nsecond line")

    timings = rounds_of(machine, {"a": machine.call("a", 1.0), "b": breaks}, least_turn_seconds=0)
    assert timings.failures == {"b": "RuntimeError: no memory"}
    assert timings.seconds == {"a": [1.0] * 4}
    assert left == [0]  # Not called again.


def test_no_rounds_and_no_calls():
    with pytest.raises(ValueError, match="`rounds` must be at least 1"):
        time_rounds({}, 0)
    assert time_rounds({}, 1).seconds == {}


def test_a_failure_is_one_line():
    assert describe_failure(ValueError("a\nb")) == "ValueError: a"
    assert describe_failure(KeyboardInterrupt()) == "KeyboardInterrupt"


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
