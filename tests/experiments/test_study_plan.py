"""Order, seeds and the checks before the first training."""

import dataclasses

import pytest

from tests.support.study_runs import configs
from tfprune.errors import UserError
from tfprune.experiments.study.plan import (
    check_plan,
    label,
    plan_runs,
    planned_sparsities,
    references,
    with_parents,
    with_seed,
)
from tfprune.runs.folder import RunFolder


@pytest.fixture
def by_name(tmp_path):
    return configs(tmp_path)


def change(by_name, name, **flags):
    by_name[name] = dataclasses.replace(by_name[name], **flags)


def order(by_name, chosen):
    return list(with_parents(chosen, by_name, by_name.__getitem__))


@pytest.mark.parametrize(
    "chosen, expected",
    [
        (["base", "one_shot", "iterative"], ["base", "one_shot", "iterative"]),
        (["iterative", "one_shot", "base"], ["base", "one_shot", "iterative"]),
        (["transfer"], ["base", "one_shot", "iterative", "transfer"]),
        (["other", "one_shot"], ["other", "base", "one_shot"]),
        (["one_shot", "other", "one_shot"], ["base", "one_shot", "other"]),
        ([], []),
    ],
)
def test_starts_come_first_and_else_the_order_is_kept(by_name, chosen, expected):
    assert order(by_name, chosen) == expected


def test_a_circle_is_named(by_name):
    change(by_name, "base", init_from="iterative/round_01")
    with pytest.raises(UserError, match="in a circle: one_shot -> base -> iterative -> one_shot$"):
        order(by_name, ["one_shot"])


def test_an_experiment_that_starts_from_itself_is_a_circle(by_name):
    change(by_name, "other", init_from="other")
    with pytest.raises(UserError, match="in a circle: other -> other$"):
        order(by_name, ["other"])


def test_a_missing_start_is_named(by_name):
    change(by_name, "one_shot", init_from="nobody/round_01")
    with pytest.raises(
        UserError, match="^one_shot: --init_from=nobody/round_01: there is no such experiment"
    ):
        order(by_name, ["transfer"])


def test_seed_0_is_the_experiment_itself(by_name):
    for config in by_name.values():
        assert with_seed(config, 0) == config
        assert label(config) == f"{config.experiment} (seed 0)"


def test_another_seed_has_folders_of_its_own(by_name):
    config = with_seed(by_name["transfer"], 2)
    assert config.differing(by_name["transfer"]) == ["experiment", "seed", "init_from"]
    assert config.experiment == "transfer_seed2"
    assert config.seed == 2
    assert config.init_from == "iterative_seed2/round_02"
    assert with_seed(by_name["base"], 1).init_from == ""
    assert label(config) == "transfer (seed 2)"
    assert references(config) == {"init_from": ("iterative_seed2", "round_02")}


def test_a_teacher_is_a_start_too(by_name):
    change(by_name, "other", distill_from="iterative/round_01")
    assert order(by_name, ["other"]) == ["base", "one_shot", "iterative", "other"]
    assert with_seed(by_name["other"], 1).distill_from == "iterative_seed1/round_01"
    change(by_name, "other", distill_from="iterative/round_04")
    with pytest.raises(
        UserError, match="^other: --distill_from=iterative/round_04: iterative has the rounds"
    ):
        check_plan(list(by_name.values()))
    change(by_name, "other", distill_from="nobody")
    with pytest.raises(UserError, match="^other: --distill_from=nobody: there is no such experiment"):
        order(by_name, ["other"])


def test_a_study_is_one_seed_after_the_other(by_name):
    runs = plan_runs([by_name["base"], by_name["one_shot"]], [0, 3])
    assert [(config.experiment, config.seed) for config in runs] == [
        ("base", 0),
        ("one_shot", 0),
        ("base_seed3", 3),
        ("one_shot_seed3", 3),
    ]


def test_a_whole_plan_passes(by_name):
    check_plan(plan_runs(by_name.values(), [0, 1, 2]))


@pytest.mark.parametrize(
    "name, flags, message",
    [
        ("other", {"learning_rate": -1.0}, "other: --learning_rate=-1.0: must be"),
        (
            "transfer",
            {"init_from": "iterative/round_04"},
            "transfer: --init_from=iterative/round_04: iterative has the rounds round_00, round_01",
        ),
        ("one_shot", {"width": 8}, "one_shot: --width=8: must be base's, --width=4, to start from it"),
        ("transfer", {"stem": "imagenet"}, "transfer: --stem=imagenet: must be iterative's"),
        (
            "one_shot",
            {"distill_from": "other", "image_size": 16},
            "one_shot: --image_size=16: must be other's, --image_size=8, to learn from it",
        ),
        (
            "iterative",
            {"target_sparsity": 0.4},
            "iterative: --target_sparsity=0.4: must be at least the start",
        ),
    ],
)
def test_what_cannot_run_is_named_before_anything_runs(by_name, name, flags, message):
    change(by_name, name, **flags)
    with pytest.raises(UserError) as caught:
        check_plan(list(by_name.values()))
    assert str(caught.value).startswith(message)


def test_the_sparsity_of_a_middle_round_counts(by_name):
    """From 0.5 to 0.9 in three rounds: the second ends at 1 - 0.5 * 0.2 ** (2 / 3) = 0.829."""
    flags = {"init_from": "iterative/round_02", "regime": "one_shot"}
    change(by_name, "transfer", target_sparsity=0.83, **flags)
    check_plan(list(by_name.values()))
    change(by_name, "transfer", target_sparsity=0.82, **flags)
    with pytest.raises(UserError, match="sparsity, 0.82"):
        check_plan(list(by_name.values()))


def test_where_the_sparsity_is_uncertain_training_decides(by_name):
    change(by_name, "one_shot", prune_layers="stage1_.*")
    change(by_name, "iterative", target_sparsity=0.4)
    check_plan(list(by_name.values()))


def test_a_folder_with_other_flags_is_refused(by_name, tmp_path):
    run = RunFolder(by_name["other"].folder)
    run.make(by_name["other"])
    run.claim(by_name["other"])
    check_plan(list(by_name.values()))
    change(by_name, "other", batch_size=51)
    with pytest.raises(UserError, match=r"--experiment=other: .* other flags: --batch_size=51 \(was 50\)"):
        check_plan(list(by_name.values()))


def test_the_sparsity_of_each_round_is_known_before_it_begins(by_name):
    levels = planned_sparsities([*by_name.values()])
    assert levels["base"] == [0.0] and levels["one_shot"] == [0.0, 0.5]
    assert levels["iterative"] == pytest.approx([0.5, 0.7076, 0.829, 0.9], abs=1e-4)
    assert levels["transfer"] == [levels["iterative"][2]]
