"""`--help` of each binary."""

import dataclasses
import pathlib
import re
import sys

import pytest
from absl import flags

from tfprune.bin.flags import define_settings, parse_flags, setting_flags, values_of
from tfprune.bin.help import help_text
from tfprune.experiments.devices import Devices
from tfprune.runs.config import ExperimentConfig
from tfprune.settings import ABOVE_0, With, setting, settings_of

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow

TRAIN = [field.name for of in (ExperimentConfig, Devices) for field in dataclasses.fields(of)]
RUN = ["experiment", "output_dir", "data_dir"]
REPRODUCE = (
    "profile experiments seeds extra_flagfile output_dir data_dir training_engine data_parallel dry_run wait"
).split()
BENCHMARK = ["rounds", "batch_sizes", "threads", "contenders", "headline", "layers", "zstd"]


@pytest.mark.parametrize(
    "name, flags, first_words",
    [
        ("train", TRAIN, "Trains, prunes and fine-tunes one experiment"),
        ("evaluate", [*RUN, "summary"], "Evaluates a finished round"),
        (
            "export",
            [
                *RUN,
                "model",
                "inputs",
                "modules",
                "dense_export",
                "export_dir",
                "formats",
                "sparse_weights",
                "sparse_values",
                "calibration",
                "targets",
                "cpu",
                "shrink",
                "audit_images",
            ],
            "Exports a network",
        ),
        ("benchmark", [*RUN, *BENCHMARK], "Latency, size and memory"),
        ("compare", ["output_dir", "experiments", "html"], "Puts the runs of a folder beside each other"),
        ("demo", ["output_dir"], "Runs the demo"),
        ("browser", [*RUN, "page", "images"], "Writes a page that runs a network in the browser"),
        ("reproduce", REPRODUCE, "Runs the reference study"),
    ],
)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_says_what_it_does_and_names_the_flags(binary, monkeypatch, name, flags, first_words, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = binary(name, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith(first_words)
    assert f"python -m tfprune.bin.{name}" in done.stdout
    lines = done.stdout.splitlines()
    named = [line.strip().partition("=")[0] for line in lines if re.match(r"  --\w", line)]
    assert sorted(flag.removeprefix("--no").removeprefix("--") for flag in named) == sorted(
        [*flags, "flagfile"]
    )
    longest = max(lines, key=len)
    assert columns - 25 < len(longest) <= columns, longest
    # Of the whole machine nothing is known but the commands and the standard names.
    assert str(ROOT) not in done.stdout and sys.prefix not in done.stdout
    assert not re.search(r"(^|[\s=])/\w", done.stdout)


def test_help_of_train_has_a_heading_for_each_group(binary):
    groups = {said.group for of in (ExperimentConfig, Devices) for said in settings_of(of).values()}
    headings = re.findall(r"^(\w+):$", binary("train", "--help").stdout, flags=re.MULTILINE)
    assert headings == ["run", "data", "model", "pruning", "channels", "training", "device"]
    assert groups == set(headings)


@dataclasses.dataclass(frozen=True)
class Flags:
    name: str = setting(help="A name.", group="first")
    color: str = setting("red", "A color.", group="second", choices=("red", "blue"))
    rate: float = setting(1e-5, "A rate.", group="first", rule=ABOVE_0)
    sizes: tuple[int, ...] = setting((1, 8), "Sizes.", group="second")
    fast: bool = setting(False, "Goes fast.", group="second")
    safe: bool = setting(
        True, "Goes safely.", group="second", only_with=(With("fast"), With("color", ("red",)))
    )
    place: str = setting("", "A place " + "far away " * 8, group="second", role="place")


HELP = """\
What it does, in a paragraph that is
filled.

  program --name=value --color=blue \\
      --fast

Flags, each with its default. Of a flag
that is given twice the later one
counts.

first:
  --name=NAME
      A name.
      Required.
  --rate=1e-5
      A rate.
      Must be above 0 and finite.
  --flagfile=FILE
      Flags from a file, one
      --name=value a line; may be given
      more than once.

second:
  --color=red
      A color.
      One of red, blue.
  --sizes=1,8
      Sizes.
  --nofast
      Goes fast.
      --fast for the opposite.
  --safe
      Goes safely.
      --nosafe for the opposite.
      Only with --fast, or --color=red.
  --place=
      A place far away far away far away
      far away far away far away far
      away far away"""


@pytest.mark.one_backend
def test_the_form():
    registry = flags.FlagValues()
    define_settings(Flags, registry)
    documentation = (
        "What it does,\nin a paragraph that is filled.\n\n  program --name=value --color=blue --fast\n"
    )
    found = help_text(documentation, setting_flags(registry), 40)
    assert found == HELP
    # Each default as it is shown can be typed.
    shown = [line.strip() for line in found.splitlines() if re.match("  --(?!name|flagfile|place)", line)]
    assert len(shown) == 5
    parse_flags(["program", "--name=n", *shown], registry)
    assert values_of(Flags, registry) == Flags("n")
