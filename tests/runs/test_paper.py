"""The study's published figures, and where a run departs from its settings."""

import collections
import dataclasses

import pytest

from tests.support.run_folders import round_result, study_settings
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.differences import paper_differences
from tfprune.runs.paper import (
    SECTIONS,
    STUDY,
    Difference,
    equal_share_sparsities,
    match_paper_row,
    paper_rows,
)

ROWS = [row for one in STUDY for row in paper_rows(one.section, one.dataset)]

ALL = {"train": 50_000, "test": 10_000}
ONE_SHOT = ExperimentConfig(
    "e",
    paper_section="4.3.2",
    init_from="base",
    regime="one_shot",
    target_sparsity=0.95,
    epochs=(40,),
    learning_rate=3e-4,
    lr_boundaries_epochs=(30,),
)
BASELINE = ExperimentConfig("base", paper_section="baseline", head_learning_rate=1e-4)
ITS_START = {"section": "baseline", "dataset": "cifar10", "round": None}


def start_of(config=BASELINE, number=0, differences=(), **changes):
    """The result of a round that a run starts from."""
    return round_result(dataclasses.replace(config, **changes), number, differences=differences)


def found(config=ONE_SHOT, start=None, used=ALL, **changes):
    """The differences as (setting, ours, paper); those of a start that is faithful by default."""
    config = dataclasses.replace(config, **changes)
    start = start or (start_of() if config.init_from else None)
    differences = paper_differences(config, used, ALL, start)
    return [(one.setting, one.ours, one.paper) for one in differences]


def test_a_faithful_run_has_none():
    assert found() == []


@pytest.mark.parametrize("experiment", STUDY, ids=lambda one: f"{one.section} {one.dataset}")
def test_a_run_with_a_sections_settings_has_none_but_for_its_start(experiment):
    settings = study_settings(experiment.section, experiment.dataset)
    differences = found(ExperimentConfig("e", **settings))
    assert [setting for setting, _, _ in differences] == (["init_from"] if experiment.start else [])


def test_what_the_study_leaves_open_is_no_difference():
    open_points = {"batch_size": 64, "scope": "layer", "autoaugment": "imagenet", "seed": 5}
    assert found(**open_points, experiment="other") == []


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"width": 16}, ("width", 16, 64)),
        ({"model": "resnet18"}, ("model", "resnet18", "resnet34")),
        ({"stem": "cifar"}, ("stem", "cifar", "imagenet")),
        ({"image_size": 32}, ("image_size", 32, 224)),
        ({"epochs": (1,)}, ("epochs", [1], [40])),
        ({"learning_rate": 1e-3}, ("learning_rate", 0.001, 0.0003)),
        ({"head_learning_rate": 1e-3}, ("head_learning_rate", 0.001, 0.0)),
        ({"lr_boundaries_epochs": (20, 30)}, ("lr_boundaries_epochs", [20, 30], [30])),
        ({"lr_boundaries_epochs": ()}, ("lr_boundaries_epochs", [], [30])),
        ({"lr_factor": 0.5}, ("lr_factor", 0.5, 0.1)),
        ({"weight_decay": 0.0}, ("weight_decay", 0.0, 0.0005)),
        ({"mixed_precision": "float16"}, ("mixed_precision", "float16", "none")),
        ({"target_sparsity": 0.9}, ("target_sparsity", 0.9, 0.95)),
        ({"lr_schedule": "cosine"}, ("lr_schedule", "cosine", "step")),
        ({"warmup_epochs": 0.5}, ("warmup_epochs", 0.5, 0.0)),
        ({"distill_from": "base"}, ("distill_from", "base", "")),
        ({"batchnorm_after_pruning": "recalibrate"}, ("batchnorm_after_pruning", "recalibrate", "keep")),
        ({"search": "evolve"}, ("search", "evolve", "none")),
        ({"regime": "gradual"}, ("regime", "gradual", "one_shot")),
        ({"score": "taylor"}, ("score", "taylor", "magnitude")),
        ({"block_size": (2, 2)}, ("block_size", [2, 2], [1, 1])),
        ({"spare_ends": True}, ("spare_ends", True, False)),
        ({"autoaugment": "none"}, ("autoaugment", "none", "AutoAugment")),
        ({"prune_layers": "stem_conv"}, ("prune_layers", "stem_conv", "every convolution")),
        ({"dataset": "cifar100"}, ("dataset", "cifar100", ["cifar10"])),
        ({"used": {**ALL, "train": 2000}}, ("train_examples", 2000, 50_000)),
        ({"used": {**ALL, "test": 100}}, ("test_examples", 100, 10_000)),
    ],
)
def test_each_departure_is_named(changes, expected):
    assert found(**changes) == [expected]


@pytest.mark.parametrize(
    "start, number",
    [
        ({"paper_section": ""}, 0),
        ({"paper_section": "4.3.1"}, 0),
        ({"dataset": "cifar100"}, 0),
        ({"regime": "iterative", "rounds": 6}, 0),
    ],
)
def test_a_start_that_is_not_the_studys(start, number):
    assert found(start=start_of(number=number, **start)) == [("init_from", "base", ITS_START)]


def test_no_start_where_the_study_has_one():
    assert found(init_from="") == [("init_from", "", ITS_START)]


def test_a_start_that_is_no_reproduction_itself():
    inherited = (Difference("width", 16, 64), Difference("epochs", [1], [20]))
    (difference,) = paper_differences(ONE_SHOT, ALL, ALL, start_of(differences=inherited))
    assert (difference.setting, difference.ours, difference.paper) == ("init_from", "base", ITS_START)
    assert difference.inherited == inherited


@pytest.mark.parametrize(
    "section, start_section, dataset, number, right",
    [
        ("4.3.8", "4.3.2", "cifar10", 1, True),  # the transfer: from the other dataset
        ("4.3.8", "4.3.2", "cifar100", 1, False),
        ("4.3.6", "4.3.5", "cifar100", 3, True),
        ("4.3.6", "4.3.5", "cifar100", 6, False),
        ("4.3.7", "4.3.6", "cifar100", 6, True),
        ("4.3.7", "4.3.6", "cifar100", 3, False),
    ],
)
def test_where_a_section_starts(section, start_section, dataset, number, right):
    regime, rounds = ("one_shot", 1) if start_section == "4.3.2" else ("iterative", 6)
    start = start_of(
        number=number, paper_section=start_section, dataset=dataset, regime=regime, rounds=rounds
    )
    config = ExperimentConfig("e", paper_section=section, dataset="cifar100", init_from="it")
    wrong = [one for one in found(config, start) if one[0] == "init_from"]
    assert len(wrong) == (0 if right else 1)


def test_on_another_dataset_the_network_and_the_images_still_count():
    config = ExperimentConfig("e", paper_section="baseline", dataset="digits", width=4, epochs=(3,))
    assert found(config) == [("dataset", "digits", ["cifar10", "cifar100"]), ("width", 4, 64)]


def test_a_baseline_starts_from_imagenet_weights():
    assert found(BASELINE) == []
    assert found(BASELINE, weights="none") == [("weights", "none", "imagenet")]
    assert found(BASELINE, init_from="e0") == [("init_from", "e0", None)]


def test_every_section_is_there_with_its_rounds():
    rounds = collections.Counter((row.experiment.section, row.experiment.dataset) for row in ROWS)
    assert rounds == {
        ("baseline", "cifar10"): 1,
        ("baseline", "cifar100"): 1,
        ("4.3.1", "cifar10"): 1,
        ("4.3.2", "cifar10"): 1,
        ("4.3.3", "cifar10"): 6,
        ("4.3.4", "cifar100"): 1,
        ("4.3.5", "cifar100"): 6,
        ("4.3.6", "cifar100"): 6,
        ("4.3.7", "cifar100"): 6,
        ("4.3.8", "cifar100"): 1,
    }
    assert sorted(SECTIONS[1:]) == list(SECTIONS[1:])


def test_equal_share_is_the_published_example():
    levels = equal_share_sparsities(0.0, 0.95, 6)
    assert [round(level, 3) for level in levels] == [0.393, 0.632, 0.776, 0.864, 0.918, 0.95]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0.5, 0.4, 3), "target=0.4"), ((0.0, 1.0, 3), "target=1.0"), ((0.0, 0.5, 0), "rounds=0")],
)
def test_equal_share_refuses_what_is_out_of_range(arguments, named):
    with pytest.raises(ValueError, match=named):
        equal_share_sparsities(*arguments)


def test_published_levels_follow_the_rule_within_what_was_cut():
    rows = [row for row in ROWS if row.experiment.regime == "iterative"]
    assert len(rows) == 4 * 6
    assert max(abs(row.sparsity - row.sparsity_asked) for row in rows) < 0.0072
    assert any(row.sparsity != row.sparsity_asked for row in rows)


def test_drops_are_from_the_papers_own_baseline():
    last = {row.experiment.section: row.drop_percent_points for row in ROWS}
    assert last == {
        "baseline": 0,
        "4.3.1": 96 - 89,
        "4.3.2": 0,
        "4.3.3": 96 - 94.5,
        "4.3.4": 84 - 80,
        "4.3.5": 84 - 81,
        "4.3.6": 84 - 82,
        "4.3.7": 84 - 67,
        "4.3.8": 84 - 77,
    }


def test_chance_is_a_tenth_or_a_hundredth_and_flagged():
    chance = {row.experiment.section: row for row in ROWS if row.after_pruning_is_chance}
    after = {section: row.accuracy_after_pruning_percent for section, row in chance.items()}
    assert after == {"4.3.1": 10, "4.3.2": 10, "4.3.4": 1}


def test_a_section_starts_below_its_first_level():
    row = paper_rows("4.3.6", "cifar100")[0]
    assert (row.experiment.start.section, row.experiment.start.round) == ("4.3.5", 3)
    start = paper_rows("4.3.5", "cifar100")[2]
    assert row.sparsity_asked > start.sparsity_asked


def test_rows_match_themselves_and_no_neighbour():
    for row in ROWS:
        of = row.experiment
        assert match_paper_row(of.section, of.dataset, of.regime, row.sparsity_asked) is row


def test_three_rounds_meet_every_other_of_six():
    levels = equal_share_sparsities(0.0, 0.95, 3)
    rows = [match_paper_row("4.3.5", "cifar100", "iterative", level) for level in levels]
    assert [row.round for row in rows] == [2, 4, 6]


@pytest.mark.parametrize(
    "arguments",
    [
        ("4.3.2", "digits", "one_shot", 0.95),
        ("4.3.2", "cifar10", "gradual", 0.95),
        ("4.3.2", "cifar10", "one_shot", 0.9),
        ("", "cifar10", "one_shot", 0.95),
    ],
)
def test_no_row_for_another_dataset_regime_level_or_section(arguments):
    assert match_paper_row(*arguments) is None
