"""Puts the runs of a folder beside each other and beside the reference study's figures.

  python -m tfprune.bin.compare
  python -m tfprune.bin.compare --experiments=demo_dense,demo_one_shot,demo_iterative
  python -m tfprune.bin.compare --html

Prints the tables and writes comparison.md, comparison.csv and comparison.png to --output_dir; with --html
also index.html, one page with every table and picture, which needs no other file. Runs that do not have the
study's settings are shown as what they are, never as a reproduction. Imports neither TensorFlow nor Keras.
"""

from dataclasses import dataclass

from absl import flags

from tfprune.bin.flags import define_settings
from tfprune.bin.main import run_main
from tfprune.runs.config import ExperimentConfig
from tfprune.settings import setting, with_settings_of


@dataclass(frozen=True)
@with_settings_of(ExperimentConfig, only=("output_dir",))
class Flags:
    """The flags; each field is the flag of the same name."""

    experiments: tuple[str, ...] = setting(
        (), "Run folders to compare. Empty: all in --output_dir.", group="run"
    )
    html: bool = setting(False, "Writes index.html too.", group="output")


def main() -> None:
    """Compares and names the files."""
    from tfprune.compare.page.page import write_page
    from tfprune.compare.report import write_comparison

    comparison = write_comparison(flags.FLAGS.output_dir, flags.FLAGS.experiments or None)
    print(comparison.text)
    for path in comparison.paths:
        print(f"wrote {path}")
    if flags.FLAGS.html:
        print(f"wrote {write_page(flags.FLAGS.output_dir, flags.FLAGS.experiments or None)}")


def run() -> None:
    """The command `tfprune-compare`."""
    run_main(main, __doc__, lambda: define_settings(Flags))


if __name__ == "__main__":
    run()
