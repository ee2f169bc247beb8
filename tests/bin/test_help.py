"""`--help` of each binary."""

import dataclasses
import re

import pytest

from tfprune.experiments.devices import Devices
from tfprune.runs.config import ExperimentConfig
from tfprune.settings import settings_of

pytestmark = pytest.mark.slow

TRAIN = [field.name for of in (ExperimentConfig, Devices) for field in dataclasses.fields(of)]
RUN = ["experiment", "output_dir", "data_dir"]
REPRODUCE = "profile experiments seeds extra_flagfile output_dir data_dir data_parallel dry_run".split()
BENCHMARK = ["rounds", "batch_sizes", "threads", "contenders", "headline", "layers", "zstd"]


@pytest.mark.parametrize(
    "name, flags, first_words",
    [
        ("train", TRAIN, "Trains, prunes and fine-tunes one experiment"),
        ("evaluate", [*RUN, "summary"], "Evaluates a finished round"),
        ("export", [*RUN, "formats", "sparse_weights", "audit_images"], "Exports a finished round"),
        ("benchmark", [*RUN, *BENCHMARK], "Latency, size and memory"),
        ("compare", ["output_dir", "experiments", "html"], "Puts the runs of a folder beside each other"),
        ("demo", ["output_dir"], "Runs the demo"),
        ("reproduce", REPRODUCE, "Runs the reference study"),
    ],
)
def test_help_says_what_it_does_and_names_the_flags(binary, name, flags, first_words):
    done = binary(name, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith(first_words)
    assert f"python -m tfprune.bin.{name}" in done.stdout
    named = re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, flags=re.MULTILINE)
    assert sorted(named) == sorted(flags)


def test_help_of_train_has_a_heading_for_each_group(binary):
    groups = {said.group for of in (ExperimentConfig, Devices) for said in settings_of(of).values()}
    assert groups == {"run", "data", "model", "pruning", "training", "device"}
    headings = [line.removesuffix(" flags:") for line in binary("train", "--help").stdout.splitlines()]
    assert groups <= set(headings)
