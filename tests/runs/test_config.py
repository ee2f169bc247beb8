"""`ExperimentConfig` as text and as numbers."""

import dataclasses

import pytest

from tfprune.data import datasets, pipeline
from tfprune.errors import UserError
from tfprune.experiments.methods.registry import check_experiment
from tfprune.models import catalog, resnet
from tfprune.runs import config as names
from tfprune.runs.config import ExperimentConfig
from tfprune.settings import settings_of, without_effect
from tfprune.sparsity import masks, patterns, regrowth, scores

ODD = ExperimentConfig(
    experiment="odd",
    output_dir="~/some where",
    prune_layers="stage[34]_.*=?",
    target_sparsity=0.1 + 0.2,
    learning_rate=1e-5 / 3,
    epochs=(1, 2, 3),
    lr_boundaries_epochs=(),
    regime="iterative",
    rounds=3,
    layer_sparsity=("stage[12]_.*:0.5", "a=b:0.1"),
    spare_ends=True,
    block_size=(4, 1),
)


@pytest.mark.parametrize("config", [ExperimentConfig(experiment="defaults"), ODD])
def test_flags_round_trip(config):
    text = config.to_flags()
    assert ExperimentConfig.from_flags(text) == config
    names = [line.removeprefix("--").partition("=")[0] for line in text.splitlines()]
    left_out = [field.name for field in dataclasses.fields(config) if field.name not in names]
    assert set(left_out) == without_effect(config, settings_of(config)).keys()


def test_flags_are_a_flagfile():
    lines = ODD.to_flags().splitlines()
    assert "--epochs=1,2,3" in lines
    assert "--lr_boundaries_epochs=" in lines
    assert "--layer_sparsity=stage[12]_.*:0.5,a=b:0.1" in lines
    assert "--block_size=4,1" in lines
    assert "--spare_ends=True" in lines
    assert "--target_sparsity=0.30000000000000004" in lines


@pytest.mark.parametrize("line", ["--widht=4", "--width", "--width=four", "--epochs=1,two", "--spare_ends=1"])
def test_a_line_that_is_no_flag(line):
    with pytest.raises(UserError) as caught:
        ExperimentConfig.from_flags(f"--experiment=e\n{line}\n")
    assert line.removeprefix("--") in str(caught.value)


def test_differences_leave_out_places():
    config = ExperimentConfig(experiment="e", output_dir="here", data_dir="there", width=16, epochs=(1, 2))
    other = ExperimentConfig(experiment="e", output_dir="elsewhere", data_dir="", width=64, epochs=(3,))
    assert config.differing(other) == ["width", "epochs"]
    assert config.differing(config) == []


@pytest.mark.parametrize(
    "regime, rounds, last",
    [("dense", 1, 0), ("one_shot", 1, 1), ("gradual", 1, 1), ("sparse", 1, 1), ("iterative", 6, 6)],
)
def test_the_last_round(regime, rounds, last):
    assert ExperimentConfig(experiment="e", regime=regime, rounds=rounds).last_round == last


def test_epochs_are_one_number_or_one_a_round():
    several = ExperimentConfig(experiment="e", regime="iterative", rounds=3, epochs=(10, 12, 15))
    assert [several.settings(number).epochs for number in (1, 2, 3)] == [10, 12, 15]
    one = dataclasses.replace(several, epochs=(7,))
    assert [one.settings(number).epochs for number in (1, 2, 3)] == [7, 7, 7]
    assert ExperimentConfig(experiment="e", epochs=(9,)).settings(0).epochs == 9


def test_settings_carry_every_training_flag():
    config = ExperimentConfig(
        experiment="e",
        batch_size=3,
        learning_rate=0.1,
        head_learning_rate=0.2,
        lr_schedule="step",
        warmup_epochs=1.5,
        evaluate_every=2,
        lr_boundaries_epochs=(4, 5),
        lr_factor=0.3,
        weight_decay=0.4,
        epochs=(6,),
    )
    settings = config.settings(0)
    for field in dataclasses.fields(settings):
        expected = 6 if field.name == "epochs" else getattr(config, field.name)
        assert getattr(settings, field.name) == expected


def test_tfmot_takes_the_schedules_that_it_has():
    config = ExperimentConfig(
        experiment="e", pruning_engine="tfmot", scope="layer", target_sparsity=0.5, weights="none"
    )
    for regime, schedule in (
        ("one_shot", "constant"),
        ("iterative", "geometric"),
        ("iterative", "polynomial"),
        ("gradual", "polynomial"),
    ):
        check_experiment(dataclasses.replace(config, regime=regime, schedule=schedule))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_dir": "a\nb"}, "--output_dir=a\nb: must be one line of text in UTF-8"),
        ({"output_dir": "a\udcff"}, "--output_dir=a\udcff: must be one line of text in UTF-8"),
        ({"weights": "a\u2028b"}, "--weights=a\u2028b: must be one line of text in UTF-8"),
        ({"layer_sparsity": ("a\r:0.5",)}, "--layer_sparsity=a\r:0.5: must be one line of text in UTF-8"),
        (
            {"experiment": "n" * 201},
            f"--experiment={'n' * 201}: must be a folder name of at most 200 letters",
        ),
        ({"data_dir": "n" * 300}, f"--data_dir={'n' * 300}: must be an existing folder"),
        ({"data_dir": "~nobody_of_that_name"}, "--data_dir=~nobody_of_that_name: must be an existing folder"),
        ({"weights": "n" * 300}, f"--weights={'n' * 300}: must be imagenet, none or an existing"),
        ({"frequency": 2**63}, f"--frequency={2**63}: must be a whole number of 64 bits"),
        ({"rounds": 10**9}, f"--rounds={10**9}: must be at least 1 and at most 9999"),
        ({"power": float("inf")}, "--power=inf: must be above 0 and finite"),
        ({"warmup_epochs": float("nan")}, "--warmup_epochs=nan: must be finite"),
    ],
)
def test_values_that_no_flagfile_and_no_disk_can_hold(settings, message):
    config = ExperimentConfig(**{"experiment": "e", "weights": "none", **settings})
    with pytest.raises(UserError) as caught:
        config.check()
    assert str(caught.value).startswith(message)


def test_the_names_are_those_of_the_library():
    """They are written in `config`, because flags are read before the library is loaded."""
    assert names.DATASETS == datasets.DATASETS
    assert names.POLICIES == pipeline.AUTOAUGMENT_CHOICES
    assert names.RESNETS == tuple(resnet.BLOCKS_PER_STAGE) == catalog.ResNet.names
    assert names.MODELS == (*names.RESNETS, *catalog.EfficientNetLite0.names)
    assert names.STEMS == resnet.STEMS
    assert names.SCOPES == masks.SCOPES
    assert names.SCORES == tuple(scores.SCORES)
    assert names.GRANULARITIES == tuple(patterns.GRANULARITIES)
    assert names.POOLING_TYPES == patterns.POOLING_TYPES
    assert names.REGROWTHS == ("none", *regrowth.METHODS)
