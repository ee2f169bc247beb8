"""Runs the reference study, baselines and pruning experiments, in the order that their starts imply.

  python -m tfprune.bin.reproduce --profile=tiny
  python -m tfprune.bin.reproduce --profile=small --seeds=0,1,2 --dry_run
  KERAS_BACKEND=jax python -m tfprune.bin.reproduce --profile=full --output_dir=DIR

A profile is a flagfile that is laid over each of the experiments. Run the same command again after an
interruption: finished rounds are skipped, an unfinished one continues. One folder holds one study: choose
another --output_dir for another profile. --output_dir/index.html is kept up to date while it runs.

Several processes with the same command, on several hosts with one --output_dir too, share the study: each
takes the next experiment whose start is ready and that no other one has.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator

from absl import flags

from tfprune.bin.flagfiles import (
    experiment_from_flagfiles,
    experiment_names,
    own_flagfile,
    profile_flagfiles,
    shown,
)
from tfprune.bin.flags import define_settings
from tfprune.bin.main import run_main
from tfprune.bin.tensorflow_start import start_tensorflow
from tfprune.errors import UserError
from tfprune.runs.config import PATH, ExperimentConfig
from tfprune.runs.devices import DeviceSettings
from tfprune.settings import setting, settings_of, with_settings_of
from tfprune.text import printable

REFRESH_SECONDS = 30

# Of the experiments' flags, those that this binary sets, and the flag that it sets each by.
_SET_HERE = {
    name: "seeds" if said.role == "seed" else name
    for name, said in settings_of(ExperimentConfig).items()
    if said.role in ("place", "seed")
}


@dataclasses.dataclass(frozen=True)
@with_settings_of(DeviceSettings, only=("training_engine", "data_parallel"))
@with_settings_of(ExperimentConfig, only=("output_dir", "data_dir"), only_with=())
class Flags:
    """The flags; each field is the flag of the same name."""

    profile: str = setting(
        "small",
        "What to lay over every experiment. full: as in the paper, needs "
        "an accelerator. scratch: no ImageNet weights, 32x32, wants one. cpu: scratch with a quarter of the "
        "width, over a day on two cores. pretrained: EfficientNet-Lite0, 96x96, hours. small: hours. "
        "tiny: digits, minutes.",
        group="study",
    )
    experiments: tuple[str, ...] = setting(
        (),
        "Names of experiments. Empty: all that have a --paper_section. Those from which they "
        "start are added.",
        group="study",
    )
    seeds: tuple[str, ...] = setting(
        ("0",),
        "Seeds to run all experiments with; seed N other than 0 in folders EXPERIMENT_seedN.",
        group="study",
    )
    extra_flagfile: str = setting(
        "",
        "A flagfile to lay over every experiment, over its profile.",
        group="study",
        role="place",
        rule=PATH,
    )
    wait: bool = setting(
        True,
        "A process that finds nothing to take waits while others work: they may be killed, or other "
        "experiments start from theirs. --nowait: it ends.",
        group="study",
    )
    dry_run: bool = setting(
        False, "Prints the order, what is done and the time left; runs nothing.", group="study"
    )


def main() -> None:
    """Plans the study, then prints or runs it."""
    values = flags.FLAGS
    runs = plan_study()
    from tfprune.experiments.devices import Devices
    from tfprune.experiments.study.run import Study

    devices = Devices(training_engine=values.training_engine, data_parallel=values.data_parallel)
    devices.check()
    print(f"profile {values.profile}, --output_dir={values.output_dir}", flush=True)
    if values.dry_run:
        print(Study(runs, devices=devices).table())
        return
    failures = Study(
        runs,
        log=functools.partial(print, flush=True),
        on_change=functools.partial(write_live_page, values.output_dir),
        on_end=lambda: write_tables(
            values.output_dir, [run.experiment for run in runs if run.folder.exists()]
        ),
        devices=devices,
        wait=values.wait,
    ).run()
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise UserError(f"{len(failures)} of {len(runs)} runs are not finished: {reasons}")


def plan_study() -> list[ExperimentConfig]:
    """Returns the runs that the flags ask for, in order.

    Raises:
        UserError: On flags or flagfiles that make no study.
    """
    values = flags.FLAGS
    seeds = parse_seeds(values.seeds)
    available = experiment_names()
    load = functools.cache(load_experiment)
    chosen = values.experiments or studied_experiments(available)
    for name in chosen:
        load(name)
    start_tensorflow()  # All that is wrong with the flags and flagfiles was said before.
    from tfprune.experiments.study.plan import plan_runs, with_parents

    experiments = with_parents(chosen, available, load)
    added = [name for name in experiments if name not in chosen]
    if values.experiments and added:
        print(f"--experiments={','.join(chosen)}: with {', '.join(added)}, from which they start")
    return plan_runs(experiments.values(), seeds)


def studied_experiments(available: list[str]) -> list[str]:
    """Returns the experiments that mirror a section of the paper, by section.

    Their own flagfiles say so: the demo's need not make sense in every profile.
    """
    sections = sorted(
        (experiment_from_flagfiles([own_flagfile(name)]).paper_section, name) for name in available
    )
    return [name for section, name in sections if section]


def load_experiment(name: str) -> ExperimentConfig:
    """Returns an experiment's config in the profile that the flags ask for.

    Raises:
        UserError: On a flagfile that cannot be read, or that sets what this binary sets.
    """
    values = flags.FLAGS
    paths = profile_flagfiles(name, values.profile, values.extra_flagfile)
    config = experiment_from_flagfiles(paths)
    default = ExperimentConfig(experiment=name)
    for field in ("experiment", *_SET_HERE):
        if getattr(config, field) != getattr(default, field):
            given = f"must be given on the command line, as --{_SET_HERE.get(field)}"
            where = given if field in _SET_HERE else f"must be {name}"
            raise UserError(f"{shown(paths)}: {config.flag(field)}: {where}")
    return dataclasses.replace(config, output_dir=values.output_dir, data_dir=values.data_dir)


def parse_seeds(texts: list[str]) -> list[int]:
    """Parses `--seeds`.

    Raises:
        UserError: Not whole numbers of at least 0, or none, or one twice.
    """
    seeds = [int(text) if text.isascii() and text.isdigit() else -1 for text in texts]
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds={','.join(texts)}: must be different whole numbers of at least 0")
    return seeds


def write_live_page(output_dir: str, status: list[tuple[str, str, str]], ended: bool) -> None:
    """Writes `index.html` of all runs in the folder; it reloads itself until the study has ended."""
    with warned_of("the page"):
        from tfprune.compare.page.page import write_page

        path = write_page(output_dir, refresh_seconds=None if ended else REFRESH_SECONDS, status=status)
        if ended:
            print(f"wrote {path}", flush=True)


def write_tables(output_dir: str, names: list[str]) -> None:
    """Writes the comparison's files and prints its tables."""
    with warned_of("the comparison"):
        from tfprune.compare.report import write_comparison

        comparison = write_comparison(output_dir, names)
        print(comparison.text)
        for path in comparison.paths:
            print(f"wrote {path}")


@contextlib.contextmanager
def warned_of(what: str) -> Iterator[None]:
    """Makes any error inside a line: hours of training must not end because of a page."""
    try:
        yield
    except Exception as error:
        print(f"warning: {what} could not be written: {printable(str(error))}", file=sys.stderr, flush=True)


def run() -> None:
    """The command `tfprune-reproduce`."""
    run_main(
        main,
        __doc__,
        lambda: define_settings(Flags),
        ending="the step that runs is the last, then the page is brought up to date; finished rounds and "
        "epochs are kept",
        again="to go on from there",
    )


if __name__ == "__main__":
    run()
