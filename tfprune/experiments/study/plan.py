"""Plans the runs of a study: experiments and seeds, in the order that their starts imply; checks all."""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from tfprune.errors import UserError
from tfprune.experiments.channels import BUDGETS
from tfprune.experiments.methods.registry import check_experiment, method_of
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder
from tfprune.settings import settings_of

# Settings that name another experiment, as EXPERIMENT or EXPERIMENT/round_KK.
REFERENCES = tuple(name for name, said in settings_of(ExperimentConfig).items() if said.role == "reference")

# With any of these the zeros are not exactly the target's share of all kernels.
_COUNTING = (
    "prune",
    "prune_layers",
    "layer_sparsity",
    "spare_ends",
    "granularity",
    "block_size",
    "sparsity_m_by_n",
)

# A level's own rounding to whole weights.
_ROUNDING = 1e-4


def references(config: ExperimentConfig) -> dict[str, tuple[str, str]]:
    """Returns flag -> (experiment, round or empty) for what an experiment needs of others."""
    found = {name: getattr(config, name).partition("/")[::2] for name in REFERENCES}
    return {name: reference for name, reference in found.items() if reference[0]}


def with_parents(
    chosen: Iterable[str], available: Collection[str], load: Callable[[str], ExperimentConfig]
) -> dict[str, ExperimentConfig]:
    """Returns the chosen experiments and all that they go back to, each after its parents.

    Otherwise the order is that of `chosen`.

    Args:
        chosen: Names, all of them available.
        available: The names that can be loaded.
        load: Returns an experiment's config.

    Raises:
        UserError: If a parent is missing, or experiments start from each other in a circle.
    """
    ordered: dict[str, ExperimentConfig] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise UserError(f"--init_from={name}: experiments start from each other in a circle: {circle}")
        if name in ordered:
            return
        config = load(name)
        for flag, (parent, _) in references(config).items():
            if parent not in available:
                raise UserError(
                    f"{name}: {config.flag(flag)}: there is no such experiment; "
                    f"there are: {', '.join(available)}"
                )
            visit(parent, (*path, name))
        ordered[name] = config

    for name in chosen:
        visit(name, ())
    return ordered


def with_seed(config: ExperimentConfig, seed: int) -> ExperimentConfig:
    """Returns the repetition of an experiment with another seed; seed 0 is the experiment itself.

    Its run folder is `EXPERIMENT_seedN`, and so are those that it starts from.
    """
    if seed == 0:
        return dataclasses.replace(config, seed=0)
    changed = {}
    for flag, (name, round_name) in references(config).items():
        changed[flag] = f"{name}_seed{seed}" + (f"/{round_name}" if round_name else "")
    return dataclasses.replace(config, seed=seed, experiment=f"{config.experiment}_seed{seed}", **changed)


def plan_runs(experiments: Iterable[ExperimentConfig], seeds: Sequence[int]) -> list[ExperimentConfig]:
    """Returns the runs of a study: all experiments with the first seed, then all with the next."""
    experiments = list(experiments)
    return [with_seed(config, seed) for seed in seeds for config in experiments]


def check_plan(runs: Sequence[ExperimentConfig]) -> None:
    """Checks all that can be checked of all runs without data and weights, before the first one begins.

    Args:
        runs: The study's, each after those that it starts from.

    Raises:
        UserError: On a study folder that cannot be one, a config that cannot be run, a start that does not
            fit, or a run folder that was made with other flags; the message names the experiment.
    """
    folder = study_folder(runs).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{runs[0].flag('output_dir')}: must be a folder; {there} is none")
    by_name = {config.experiment: config for config in runs}
    for config in runs:
        try:
            check_experiment(config)
            for flag, (name, round_name) in references(config).items():
                _check_reference(config, flag, by_name[name], round_name)
            _check_start_sparsity(config, by_name)
            _check_start_share(config, by_name)
        except UserError as error:
            raise UserError(f"{config.experiment}: {error}") from error
        RunFolder(config.folder).check_claim(config)


def _check_reference(config: ExperimentConfig, flag: str, source: ExperimentConfig, round_name: str) -> None:
    names = [f"round_{number:02d}" for number in range(source.last_round + 1)]
    if round_name and round_name not in names:
        config.refuse(flag, f"{source.experiment} has the rounds {', '.join(names)}")
    same, purpose = {
        "init_from": (("model", "width", "stem"), "start from it"),
        "distill_from": (("dataset", "image_size"), "learn from it"),
    }[flag]
    for name in same:
        if getattr(config, name) != getattr(source, name):
            config.refuse(name, f"must be {source.experiment}'s, {source.flag(name)}, to {purpose}")


def _check_start_sparsity(config: ExperimentConfig, by_name: dict[str, ExperimentConfig]) -> None:
    """Checks the target against the sparsity that the start will have, where that is certain."""
    line = [config]
    while line[-1].init_from:
        line.append(by_name[references(line[-1])["init_from"][0]])
    default = ExperimentConfig(experiment="")
    if len(line) > 1 and all(
        getattr(one, name) == getattr(default, name) for one in line for name in _COUNTING
    ):
        source, round_name = references(config)["init_from"]
        planned = _planned_sparsity(by_name[source], round_name, by_name)
        method_of(config).check_target(planned - _ROUNDING)


def _check_start_share(config: ExperimentConfig, by_name: dict[str, ExperimentConfig]) -> None:
    """Checks that a run that cuts channels leaves no more than the start will have, where that is certain."""
    if not config.init_from or config.prune != "channels":
        return
    source, round_name = references(config)["init_from"]
    start = by_name[source]
    for name in BUDGETS:
        left = getattr(start, name)
        if not round_name and 0 < left < getattr(config, name):
            config.refuse(name, f"must be at most {left:g}, what {source} leaves")


def _planned_sparsity(
    config: ExperimentConfig, round_name: str, by_name: dict[str, ExperimentConfig]
) -> float:
    """Returns the sparsity asked of an experiment's round; of its last without a name."""
    number = int(round_name.removeprefix("round_")) if round_name else config.last_round
    start = 0.0
    if config.init_from:
        source, source_round = references(config)["init_from"]
        start = _planned_sparsity(by_name[source], source_round, by_name)
    return method_of(config).level(start, number) if number else start


def planned_sparsities(runs: Sequence[ExperimentConfig]) -> dict[str, list[float]]:
    """Returns run -> the sparsity asked of each of its rounds, the start among them."""
    by_name = {config.experiment: config for config in runs}
    return {
        name: [
            _planned_sparsity(config, f"round_{number:02d}", by_name)
            for number in range(config.last_round + 1)
        ]
        for name, config in by_name.items()
    }


def label(config: ExperimentConfig) -> str:
    """Returns the name of a run in a study's lines: its experiment and seed."""
    name = config.experiment.removesuffix(f"_seed{config.seed}") if config.seed else config.experiment
    return f"{name} (seed {config.seed})"


def study_folder(runs: Sequence[ExperimentConfig]) -> Path:
    """Returns the folder of a study's run folders."""
    return Path(os.path.expanduser(runs[0].output_dir))
