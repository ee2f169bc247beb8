"""Where a run departs from the study's settings."""

import dataclasses

import pytest

from tfprune.compare.paper import PAPER_ROWS
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.paper import PAPER_SETTINGS, paper_differences

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
BASELINE = {
    "paper_section": "baseline",
    "dataset": "cifar10",
    "round": 0,
    "rounds": 0,
    "paper_setting_differences": [],
}


def differences(start=BASELINE, used=ALL, **changes):
    return paper_differences(dataclasses.replace(ONE_SHOT, **changes), used, ALL, start)


def test_a_faithful_run_has_none():
    assert differences() == []


def test_what_the_study_leaves_open_is_no_difference():
    open_points = {"batch_size": 64, "scope": "layer", "autoaugment": "imagenet", "seed": 5}
    assert differences(**open_points, experiment="other") == []


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"width": 16}, "width=16 (paper: 64)"),
        ({"model": "resnet18"}, "model=resnet18 (paper: resnet34)"),
        ({"stem": "cifar"}, "stem=cifar (paper: imagenet)"),
        ({"image_size": 32}, "image_size=32 (paper: 224)"),
        ({"epochs": (1,)}, "epochs=1 (paper: 40)"),
        ({"learning_rate": 1e-3}, "learning_rate=0.001 (paper: 0.0003)"),
        ({"head_learning_rate": 1e-3}, "head_learning_rate=0.001 (paper: 0.0)"),
        ({"lr_boundaries_epochs": (20, 30)}, "lr_boundaries_epochs=20,30 (paper: 30)"),
        ({"lr_boundaries_epochs": ()}, "lr_boundaries_epochs=none (paper: 30)"),
        ({"lr_factor": 0.5}, "lr_factor=0.5 (paper: 0.1)"),
        ({"weight_decay": 0.0}, "weight_decay=0.0 (paper: 0.0005)"),
        ({"mixed_precision": "float16"}, "mixed_precision=float16 (paper: none)"),
        ({"target_sparsity": 0.9}, "target_sparsity=0.9 (paper: 0.95)"),
        ({"lr_schedule": "cosine"}, "lr_schedule=cosine (paper: step)"),
        ({"warmup_epochs": 0.5}, "warmup_epochs=0.5 (paper: 0.0)"),
        ({"distill_from": "base"}, "distill_from=base (paper: none)"),
        ({"batchnorm_after_pruning": "recalibrate"}, "batchnorm_after_pruning=recalibrate (paper: keep)"),
        ({"regime": "gradual"}, "regime=gradual (paper: one_shot)"),
        ({"autoaugment": "none"}, "autoaugment=none (paper: AutoAugment)"),
        ({"prune_layers": "stem_conv"}, "prune_layers=stem_conv (paper: every convolution)"),
        ({"dataset": "cifar100"}, "dataset=cifar100 (paper: cifar10)"),
        ({"used": {**ALL, "train": 2000}}, "train_examples=2000 (paper: 50000)"),
        ({"used": {**ALL, "test": 100}}, "test_examples=100 (paper: 10000)"),
    ],
)
def test_each_departure_is_named(changes, expected):
    assert differences(**changes) == [expected]


@pytest.mark.parametrize(
    "start, expected",
    [
        (None, "init_from= (paper: baseline)"),
        ({**BASELINE, "paper_section": ""}, "init_from=base (paper: baseline on cifar10)"),
        ({**BASELINE, "paper_section": "4.3.1"}, "init_from=base (paper: baseline on cifar10)"),
        ({**BASELINE, "dataset": "cifar100"}, "init_from=base (paper: baseline on cifar10)"),
        ({**BASELINE, "round": 0, "rounds": 6}, "init_from=base (paper: baseline on cifar10)"),
        (
            {**BASELINE, "paper_setting_differences": ["width=16 (paper: 64)", "epochs=1 (paper: 20)"]},
            "init_from=base, itself with width=16 (paper: 64); epochs=1 (paper: 20)",
        ),
    ],
)
def test_a_start_that_is_not_the_studys(start, expected):
    changes = {"init_from": ""} if start is None else {}
    assert differences(start, **changes) == [expected]


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
    rounds = 1 if start_section == "4.3.2" else 6
    start = {
        **BASELINE,
        "paper_section": start_section,
        "dataset": dataset,
        "round": number,
        "rounds": rounds,
    }
    config = ExperimentConfig("e", paper_section=section, dataset="cifar100", init_from="it")
    wrong = [line for line in paper_differences(config, ALL, ALL, start) if line.startswith("init_from=it")]
    assert len(wrong) == (0 if right else 1)


def test_on_another_dataset_the_network_and_the_images_still_count():
    config = ExperimentConfig("e", paper_section="baseline", dataset="digits", width=4, epochs=(3,))
    assert paper_differences(config, ALL, ALL, None) == [
        "dataset=digits (paper: cifar10 or cifar100)",
        "width=4 (paper: 64)",
    ]


def test_a_baseline_starts_from_imagenet_weights():
    config = ExperimentConfig(
        "e", paper_section="baseline", epochs=(20,), learning_rate=1e-5, head_learning_rate=1e-4
    )
    assert paper_differences(config, ALL, ALL, None) == []
    random = dataclasses.replace(config, weights="none")
    assert paper_differences(random, ALL, ALL, None) == ["weights=none (paper: imagenet)"]
    other = dataclasses.replace(config, init_from="e0")
    assert paper_differences(other, ALL, ALL, BASELINE) == ["init_from=e0 (paper: ImageNet weights)"]


def test_the_settings_are_those_of_the_studys_rows():
    """The settings that runs are held against, and the rows that they are compared with, are one study."""
    last = {(row.section, row.dataset): row for row in PAPER_ROWS}  # rows are in the order of rounds
    assert PAPER_SETTINGS.keys() == last.keys()
    for key, setting in PAPER_SETTINGS.items():
        row = last[key]
        assert setting.regime == row.regime
        assert setting.rounds == max(row.round, 1)
        starts_from = (row.starts_from, row.starts_from_round) if row.starts_from else None
        assert setting.starts_from == starts_from
        if row.regime != "dense":
            assert setting.target_sparsity == row.sparsity
