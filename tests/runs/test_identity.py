"""Repetitions of one experiment over seeds: no setting may differ but the seed and places."""

import dataclasses

import pytest

from tests.support.run_folders import RunFolders, write_round
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import read_runs
from tfprune.runs.paper import SECTIONS
from tfprune.settings import settings_of

SETTINGS = settings_of(ExperimentConfig)
FIELDS = {field.name: field for field in dataclasses.fields(ExperimentConfig)}
CANDIDATES = {
    str: ["another", *SECTIONS],
    int: [1, 2],
    float: [0.25, 2.5],
    bool: [False, True],
    tuple[int, ...]: [(2,), (1, 2), (2, 2)],
    tuple[str, ...]: [("stage1_.*:0.5",)],
}


def another_value(name):
    """A valid value that is not the default."""
    said, field = SETTINGS[name], FIELDS[name]
    candidates = said.choices if said.choices else CANDIDATES[field.type]
    return next(value for value in candidates if value != field.default and not said.broken_rule(value))


def identities(*folders):
    """The identity of every round in the folders, by run."""
    runs = [run for folder in folders for run in read_runs(folder)]
    return {run.folder: [result.config.identity() for result in run.rounds] for run in runs}


@pytest.mark.parametrize("name", SETTINGS)
def test_runs_that_differ_in_a_setting_are_no_repetitions(name, tmp_path):
    """The files of two runs with different seeds, of which one differs in one setting more."""
    first = RunFolders(tmp_path).config("e", seed=0)
    equal = dataclasses.replace(first, experiment="e_seed1", seed=1)
    changed = dataclasses.replace(equal, experiment="e_seed2", seed=2)
    if SETTINGS[name].role != "seed":
        value = str(tmp_path / "elsewhere") if SETTINGS[name].role == "place" else another_value(name)
        changed = dataclasses.replace(changed, **{name: value})
    for config in (first, equal, changed):
        write_round(config, 0)
    found = identities(*{config.output_dir for config in (first, equal, changed)})
    assert found[first.folder] == found[equal.folder] != []
    is_repetition = found[changed.folder] == found[first.folder]
    assert is_repetition == (SETTINGS[name].role in ("seed", "place"))


def test_every_setting_can_be_changed():
    """The test above covers a setting without being told of it."""
    for name in SETTINGS:
        if SETTINGS[name].role != "place":
            assert another_value(name) != FIELDS[name].default


def test_the_runs_of_the_defect_are_two_experiments(tmp_path):
    """40 epochs at sparsity 0.9, and 1 epoch at 0.5 in float16, without a section of the paper."""
    folders = RunFolders(tmp_path, dataset="digits", weights="none")
    folders.one_shot("e", "", 0.9, (10.0, 98.0), epochs=(40,), seed=0)
    folders.one_shot("e_seed1", "", 0.5, (10.0, 20.0), epochs=(1,), mixed_precision="float16", seed=1)
    first, second = identities(tmp_path).values()
    assert first[1] != second[1]


def test_the_names_of_other_runs_lose_their_seeds():
    """As the study names the repetitions of a run and of those that it starts and learns from."""
    first = ExperimentConfig("e", init_from="base/round_02", distill_from="teacher")
    second = ExperimentConfig(
        "e_seed12", seed=12, init_from="base_seed12/round_02", distill_from="teacher_seed12"
    )
    assert first.identity() == second.identity()
    assert first.identity()["init_from"] == "base/round_02"


@pytest.mark.parametrize(
    "experiment, init_from",
    [
        ("e_seed1", "base_seed1"),  # another seed than the run's
        ("e_seed12x", "base"),
        ("seed12", "base"),
        ("e_seed12", "base_seed12/round_01"),
    ],
)
def test_only_the_runs_own_seed_is_left_out(experiment, init_from):
    first = ExperimentConfig("e", init_from="base")
    assert ExperimentConfig(experiment, seed=12, init_from=init_from).identity() != first.identity()
