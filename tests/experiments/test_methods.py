"""Ways of pruning: how sparse each round is, and where a new one goes."""

import pytest

from tfprune.errors import UserError
from tfprune.experiments.methods import registry
from tfprune.experiments.methods.method import Method
from tfprune.experiments.methods.registry import check_experiment, method_of
from tfprune.runs.config import LEARNING_METHODS, PRUNING_ENGINES, REGIMES, ExperimentConfig

ITERATIVE = {"experiment": "e", "regime": "iterative", "rounds": 6}


def sparsity_levels(config, start):
    method = method_of(config)
    return [method.level(start, number) for number in range(1, config.last_round + 1)]


def step_schedule(config, start, steps):
    return method_of(config).schedule(start, steps)


def test_the_papers_six_rounds_to_95():
    config = ExperimentConfig(**ITERATIVE, schedule="geometric", target_sparsity=0.95)
    levels = sparsity_levels(config, 0.0)
    assert [round(level, 3) for level in levels] == [0.393, 0.632, 0.776, 0.864, 0.918, 0.95]
    assert levels[-1] == 0.95


@pytest.mark.parametrize("start, target", [(0.95, 0.995), (0.7764, 0.95), (0.5, 0.5)])
def test_geometric_rounds_shrink_the_density_by_the_same_factor(start, target):
    config = ExperimentConfig(**ITERATIVE, schedule="geometric", target_sparsity=target)
    levels = [start, *sparsity_levels(config, start)]
    factor = ((1 - target) / (1 - start)) ** (1 / 6)
    for before, after in zip(levels, levels[1:], strict=False):
        assert (1 - after) / (1 - before) == pytest.approx(factor, abs=1e-9)


def test_polynomial_rounds():
    config = ExperimentConfig(**ITERATIVE, schedule="polynomial", power=2.0, target_sparsity=0.9)
    expected = [0.9 - 0.6 * (1 - k / 6) ** 2 for k in range(1, 7)]
    assert sparsity_levels(config, 0.3) == pytest.approx(expected, abs=1e-12)


def test_one_shot_is_one_round_and_dense_none():
    one_shot = ExperimentConfig("e", regime="one_shot", target_sparsity=0.95)
    assert sparsity_levels(one_shot, 0.2) == [0.95]
    assert sparsity_levels(ExperimentConfig("e"), 0.2) == []


@pytest.mark.parametrize(
    "steps, ramp_fraction, end", [(100, 0.5, 50), (100, 1.0, 100), (9, 0.5, 4), (1, 0.1, 1)]
)
def test_gradual_ends_its_ramp_at_a_share_of_the_steps(steps, ramp_fraction, end):
    config = ExperimentConfig(
        "e",
        regime="gradual",
        schedule="polynomial",
        target_sparsity=0.9,
        ramp_fraction=ramp_fraction,
        frequency=7,
    )
    schedule = step_schedule(config, 0.1, steps)
    assert schedule(0) == (True, pytest.approx(0.1))
    assert schedule(end) == (True, 0.9)
    assert schedule(end + 7)[0] is False
    assert schedule.frequency == 7


def test_sparse_has_its_target_from_the_start_and_moves_for_a_share_of_the_steps():
    config = ExperimentConfig(
        "e", regime="sparse", regrowth="set", target_sparsity=0.9, ramp_fraction=0.75, frequency=7
    )
    schedule = step_schedule(config, 0.0, 100)
    assert [step for step in range(101) if schedule(step)[0]] == [*range(0, 75, 7), 75]
    assert schedule(0) == (True, 0.9)
    assert step_schedule(config, 0.0, 11).end_step == 8
    with pytest.raises(UserError, match=r"--frequency=7: must be below 7, the steps in which the masks"):
        step_schedule(config, 0.0, 9)


def test_acdc_has_phases_that_end_without_masks_and_begins_dense():
    config = ExperimentConfig(
        "e", regime="gradual", method="acdc", target_sparsity=0.9, ramp_fraction=0.6, frequency=7
    )
    schedule = step_schedule(config, 0.0, 100)
    updates = {step: schedule(step)[1] for step in range(101) if schedule(step)[0]}
    # Eight lengths fit into 60 steps: one stays dense at the start, and as much as is left over.
    assert updates == {18: 0.9, 25: 0.0, 32: 0.9, 39: 0.0, 46: 0.9, 53: 0.0, 60: 0.9}
    with pytest.raises(UserError, match="--frequency=7: must be at most 6, for three phases in 20 steps"):
        step_schedule(config, 0.0, 33)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"regime": "one_shot", "method": "cs"}, "--method=cs: must be score, .* for --regime=one_shot"),
        ({"regime": "gradual", "method": "obc"}, "--method=obc: must be score, dst, cs or acdc for"),
        ({"regime": "gradual", "method": "cs", "score": "lamp"}, "--score=lamp: must be magnitude with"),
        ({"regime": "gradual", "method": "dst", "granularity": "channel"}, "--granularity=channel: must be"),
        ({"regime": "gradual", "method": "dst", "block_size": (2, 2)}, "--block_size=2,2: must be 1,1 with"),
        ({"regime": "gradual", "method": "acdc"}, "polynomial: must be constant with --method=acdc"),
    ],
)
def test_what_learned_masks_exclude(flags, message):
    schedule = "constant" if flags["regime"] == "one_shot" else "polynomial"
    config = ExperimentConfig("e", schedule=schedule, target_sparsity=0.9, **flags)
    with pytest.raises(UserError, match=message):
        method_of(config).check()


def test_a_target_may_equal_the_start_but_not_be_below():
    config = ExperimentConfig("e", regime="one_shot", target_sparsity=0.5)
    method_of(config).check_target(0.5)
    with pytest.raises(UserError, match=r"--target_sparsity=0.5: .* sparsity, 0.5001"):
        method_of(config).check_target(0.5001)
    method_of(ExperimentConfig("e", target_sparsity=0.0)).check_target(0.5)


def test_every_value_of_the_flags_is_registered():
    assert set(registry.METHODS) == set(REGIMES)
    assert {"tfprune", *registry.ENGINES} == set(PRUNING_ENGINES)
    assert tuple(registry.LEARNING) == LEARNING_METHODS


def test_a_new_method_is_a_class_and_a_line(monkeypatch):
    """With a rule of its own, which is checked before anything is loaded."""

    class Careful(Method):
        def check(self):
            super().check()
            if self.config.target_sparsity > 0.5:
                self.config.refuse("target_sparsity", "must be at most 0.5, to be careful")

    config = ExperimentConfig("e", regime="one_shot", target_sparsity=0.9, weights="none")
    check_experiment(config)
    monkeypatch.setitem(registry.METHODS, "one_shot", Careful)
    with pytest.raises(UserError, match="--target_sparsity=0.9: must be at most 0.5, to be careful"):
        check_experiment(config)
