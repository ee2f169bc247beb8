import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from tfprune import sparsity
from tfprune.sparsity import (
    ByEpoch,
    ConstantSparsity,
    GeometricDecay,
    PolynomialDecay,
    PruningSchedule,
    schedules,
)


def fired_steps(schedule, until=40):
    return [step for step in range(until) if schedule(step)[0]]


def test_constant_fires_every_frequency_steps_from_begin_on():
    schedule = ConstantSparsity(0.5, begin_step=3, frequency=10)
    assert fired_steps(schedule) == [3, 13, 23, 33]
    assert schedule(13) == (True, 0.5)


def test_begin_step_zero_fires_at_step_zero():
    assert fired_steps(ConstantSparsity(0.5, begin_step=0, frequency=100)) == [0]


def test_end_step_is_the_last_and_fires_off_the_frequency():
    assert fired_steps(ConstantSparsity(0.5, begin_step=0, end_step=25, frequency=10)) == [0, 10, 20, 25]
    assert fired_steps(PolynomialDecay(0, 0.5, begin_step=2, end_step=9, frequency=5)) == [2, 7, 9]
    assert fired_steps(GeometricDecay(0, 0.5, begin_step=2, end_step=9, frequency=5)) == [2, 7, 9]


def test_end_step_on_the_frequency_fires_once():
    assert fired_steps(ConstantSparsity(0.5, begin_step=5, end_step=15, frequency=10)) == [5, 15]


def test_polynomial_follows_its_formula():
    schedule = PolynomialDecay(0.2, 0.8, begin_step=10, end_step=30, power=3, frequency=1)
    assert schedule(10)[1] == pytest.approx(0.2)
    assert schedule(20)[1] == pytest.approx(0.8 - 0.6 * 0.5**3)
    assert schedule(25)[1] == pytest.approx(0.8 - 0.6 * 0.25**3)
    assert schedule(30)[1] == 0.8


def test_polynomial_power_one_is_linear():
    schedule = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=4, power=1)
    assert [schedule(step)[1] for step in range(5)] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


def test_geometric_removes_the_same_share_of_the_rest_at_each_step():
    schedule = GeometricDecay(0.5, 0.95, begin_step=1, end_step=4, frequency=1)
    density = np.array([1 - schedule(step)[1] for step in range(1, 5)])
    assert density[0] == pytest.approx(0.5)
    assert density[1:] / density[:-1] == pytest.approx([0.1 ** (1 / 3)] * 3)
    assert schedule(4)[1] == 0.95


@pytest.mark.parametrize("decay", [PolynomialDecay, GeometricDecay])
def test_before_begin_the_initial_after_end_the_final_sparsity(decay):
    schedule = decay(0.3, 0.7, begin_step=5, end_step=8)
    assert schedule(0)[1] == pytest.approx(0.3)
    assert schedule(100) == (False, 0.7)


@pytest.mark.parametrize("decay", [PolynomialDecay, GeometricDecay])
def test_a_decay_of_one_step_fires_once_at_its_final_sparsity(decay):
    schedule = decay(0.0, 0.7, begin_step=5, end_step=5)
    assert fired_steps(schedule) == [5]
    assert schedule(4) == (False, 0.0)
    assert schedule(5) == (True, 0.7)


@given(
    decay=st.sampled_from([PolynomialDecay, GeometricDecay]),
    sparsities=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(sorted),
    begin=st.integers(0, 20),
    length=st.integers(0, 50),
)
def test_decays_never_fall_and_end_at_the_final_sparsity(decay, sparsities, begin, length):
    initial, final = sparsities
    schedule = decay(initial, final, begin, begin + length, frequency=3)
    values = [schedule(step)[1] for step in range(begin + length + 2)]
    assert all(b >= a - 1e-12 for a, b in zip(values, values[1:], strict=False))
    assert values[-1] == final
    assert all(0 <= value < 1 for value in values)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: ConstantSparsity(1.0, 0), "target_sparsity"),
        (lambda: ConstantSparsity(-0.1, 0), "target_sparsity"),
        (lambda: ConstantSparsity(float("nan"), 0), "target_sparsity"),
        (lambda: ConstantSparsity(0.5, -1), "begin_step"),
        (lambda: ConstantSparsity(0.5, 1.5), "begin_step"),
        (lambda: ConstantSparsity(0.5, 5, end_step=4), "end_step"),
        (lambda: ConstantSparsity(0.5, 5, end_step=-2), "end_step"),
        (lambda: ConstantSparsity(0.5, 0, frequency=0), "frequency"),
        (lambda: ConstantSparsity(0.5, 0, frequency=2.5), "frequency"),
        (lambda: ConstantSparsity(0.5, 2**31), "begin_step"),
        (lambda: ConstantSparsity(0.5, 10**400), "begin_step"),
        (lambda: ConstantSparsity(0.5, float("nan")), "begin_step"),
        (lambda: ConstantSparsity(0.5, "5"), "begin_step"),
        (lambda: ConstantSparsity(0.5, 0, end_step=float("inf")), "end_step"),
        (lambda: ConstantSparsity(0.5, 0, end_step=None), "end_step"),
        (lambda: ConstantSparsity(0.5, 0, frequency=float("nan")), "frequency"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 2**31), "end_step"),
        (lambda: GeometricDecay(0.0, 0.5, 0, 2**63), "end_step"),
        (lambda: PolynomialDecay(0.0, 1.2, 0, 10), "final_sparsity"),
        (lambda: PolynomialDecay(-0.5, 0.5, 0, 10), "initial_sparsity"),
        (lambda: PolynomialDecay(0.8, 0.5, 0, 10), "final_sparsity"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, -1), "end_step"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, power=0), "power"),
        (lambda: GeometricDecay(0.0, 1.0, 0, 10), "final_sparsity"),
        (lambda: GeometricDecay(0.8, 0.5, 0, 10), "final_sparsity"),
        (lambda: GeometricDecay(0.0, 0.5, 11, 10), "end_step"),
    ],
)
def test_bad_arguments_are_named_with_their_value(make, name):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: "):
        make()


@pytest.mark.parametrize(
    "schedule",
    [
        ConstantSparsity(0.5, 2, 30, 7),
        PolynomialDecay(0.1, 0.9, 2, 33, power=2, frequency=4),
        GeometricDecay(0.1, 0.9, 2, 33, frequency=4),
    ],
)
def test_schedules_survive_serialization(schedule):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(copy) is type(schedule)
    assert copy.get_config() == schedule.get_config()
    assert [copy(step) for step in range(50)] == [schedule(step) for step in range(50)]


def test_steps_up_to_the_last_that_a_model_counts():
    last = 2**31 - 1
    assert PolynomialDecay(0.0, 0.5, last - 1, last, frequency=10**12)(last) == (True, 0.5)
    # Beyond it there is no end, and constants have none to come to.
    assert ConstantSparsity(0.5, last, end_step=10**12)(last) == (True, 0.5)


def test_repr_shows_the_arguments():
    assert repr(ConstantSparsity(0.5, 2)) == (
        "ConstantSparsity(target_sparsity=0.5, begin_step=2, end_step=-1, frequency=100)"
    )


def test_a_schedule_without_call_cannot_be_made():
    class Incomplete(PruningSchedule):
        def get_config(self):
            return {}

    with pytest.raises(TypeError):
        Incomplete()


class Foreign:
    """As a schedule written for tfmot: answers with tensors or arrays, and is a plain object."""

    def __init__(self, wrap, fires=(2, 5), end_step=8):
        self.wrap, self.fires, self.end_step = wrap, fires, end_step

    def __call__(self, step):
        return self.wrap(step in self.fires), self.wrap(np.float32(step / 16))


@pytest.mark.parametrize("wrap", [np.asarray, ops.convert_to_tensor, lambda x: x])
def test_last_due_takes_the_last_scheduled_step_of_a_foreign_schedule(wrap):
    schedule = Foreign(wrap)
    assert schedules.last_due(schedule, after=-1, until=1) is None
    assert schedules.last_due(schedule, after=1, until=2) == 2 / 16
    assert schedules.last_due(schedule, after=2, until=4) is None
    assert schedules.last_due(schedule, after=1, until=6) == 5 / 16


@pytest.mark.parametrize("wrap", [np.asarray, ops.convert_to_tensor])
def test_last_due_fires_at_a_foreign_end_step_that_the_schedule_misses(wrap):
    assert schedules.last_due(Foreign(wrap), after=7, until=8) == 8 / 16
    assert schedules.last_due(Foreign(wrap), after=8, until=20) is None
    assert schedules.last_due(Foreign(wrap, end_step=-1), after=5, until=20) is None


def test_last_due_includes_step_zero_before_training_only():
    schedule = ConstantSparsity(0.5, begin_step=0)
    assert schedules.last_due(schedule, after=-1, until=1) == 0.5
    assert schedules.last_due(schedule, after=0, until=1) is None


def test_last_due_accepts_a_function():
    assert schedules.last_due(lambda step: (step == 3, 0.25), after=0, until=4) == 0.25


def test_last_due_rejects_a_sparsity_outside_zero_to_one():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\).*1\.0"):
        schedules.last_due(lambda step: (True, 1.0), after=0, until=1)


def tfmot_schedule(name, arguments):
    """An object as `tfmot.sparsity.keras` makes it, without tfmot."""

    def get_config(self):
        return {"class_name": name, "config": arguments}

    module = "tensorflow_model_optimization.python.core.sparsity.keras.pruning_schedule"
    return type(name, (), {"__module__": module, "get_config": get_config})()


def test_tfmots_own_schedules_become_ours():
    arguments = {"target_sparsity": 0.4, "begin_step": 1, "end_step": 9, "frequency": 3}
    adopted = schedules.adopt(tfmot_schedule("ConstantSparsity", arguments))
    assert type(adopted) is ConstantSparsity
    assert adopted.get_config() == arguments
    arguments = {
        "initial_sparsity": 0.1,
        "final_sparsity": 0.4,
        "power": 2,
        "begin_step": 1,
        "end_step": 9,
        "frequency": 3,
    }
    adopted = schedules.adopt(tfmot_schedule("PolynomialDecay", arguments))
    assert type(adopted) is PolynomialDecay
    assert adopted.get_config() == arguments


def test_other_schedules_stay_what_they_are():
    own, foreign = ConstantSparsity(0.5, 0), Foreign(np.asarray)
    custom = tfmot_schedule("Mine", {})
    assert schedules.adopt(own) is own
    assert schedules.adopt(foreign) is foreign
    assert schedules.adopt(custom) is custom
    assert schedules.adopt(None) is None


@keras.saving.register_keras_serializable("test_schedules")
class Written(PruningSchedule):
    """A schedule as it is written for tfmot: its checks come from the base class, its config has a frame."""

    def __init__(self, sparsity, begin_step, end_step, frequency=10):
        self._validate_step(begin_step, end_step, frequency, True)
        self._validate_sparsity(sparsity, "sparsity")
        self.sparsity, self.begin_step, self.end_step, self.frequency = (
            sparsity,
            begin_step,
            end_step,
            frequency,
        )

    def __call__(self, step):
        return self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency), self.sparsity

    def get_config(self):
        names = ("sparsity", "begin_step", "end_step", "frequency")
        return {"class_name": type(self).__name__, "config": {name: getattr(self, name) for name in names}}


def test_a_schedule_written_for_tfmot_acts_when_tfmots_do():
    schedule = Written(0.5, 5, 35)
    assert [step for step in range(50) if schedule(step)[0]] == [5, 15, 25, 35]
    assert [step for step in range(30) if Written(0.5, 5, -1)(step)[0]] == [5, 15, 25]


def test_a_schedule_written_for_tfmot_is_saved_and_read(tmp_path, mlp):
    schedule = Written(0.5, 5, 35)
    assert repr(schedule) == "Written(sparsity=0.5, begin_step=5, end_step=35, frequency=10)"
    sparsity.prune_low_magnitude(mlp(), schedule).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for wrapper in sparsity.pruned_layers(loaded):
        assert isinstance(wrapper.pruning_schedule, Written)
        assert wrapper.pruning_schedule.get_config() == schedule.get_config()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1.0, 0, -1), "`sparsity` must be in"),
        ((0.5, -1, -1), "`begin_step` must be from 0"),
        ((0.5, 3, 2), "`end_step` must be at least `begin_step`, or -1"),
        ((0.5, 0, 1, 0), "`frequency` must be at least 1"),
    ],
)
def test_the_checks_of_tfmots_base_class(arguments, message):
    with pytest.raises(ValueError, match=message):
        Written(*arguments)
    with pytest.raises(ValueError, match="`end_step` must be at least `begin_step`[.]"):
        Written._validate_step(None, 0, -1, 1, False)


@pytest.mark.parametrize("value", ["most", None, [0.5], {}])
def test_a_sparsity_that_is_no_number_is_named(value):
    made = {
        "target_sparsity": [lambda: ConstantSparsity(value, 0), lambda: ByEpoch(value, 3)],
        "final_sparsity": [lambda: PolynomialDecay(0.0, value, 0, 9)],
        "initial_sparsity": [
            lambda: PolynomialDecay(value, 0.5, 0, 9),
            lambda: ByEpoch(0.5, 3, initial_sparsity=value),
        ],
    }
    for name, calls in made.items():
        for call in calls:
            with pytest.raises(ValueError) as caught:
                call()
            message = f"`{name}` must be a number in [0, 1). Received: {name}={value!r}"
            assert str(caught.value) == message
