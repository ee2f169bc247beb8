"""Compares a run with the section of the reference study that it names."""

from dataclasses import asdict
from typing import Any

from tfprune.runs.config import ExperimentConfig
from tfprune.runs.paper import Difference, PaperExperiment, datasets_of, experiment_of
from tfprune.runs.result import RoundResult
from tfprune.settings import OPEN, Rule, settings_of


def paper_differences(
    config: ExperimentConfig,
    used: dict[str, int],
    available: dict[str, int],
    start: RoundResult | None,
) -> tuple[Difference, ...]:
    """Returns where a run departs from its section of the study; none for a faithful run.

    Args:
        config: The run; its `paper_section` is one of `SECTIONS`.
        used: Examples used, by split.
        available: Examples that the dataset has, by split.
        start: The result of the round named by `--init_from`; None without one.
    """
    experiment = experiment_of(config.paper_section, config.dataset)
    stated = {name: said.paper for name, said in settings_of(config).items() if said.paper is not OPEN}
    if experiment is None:
        # On another dataset neither the epochs nor the images have a counterpart.
        values = {name: paper for name, paper in stated.items() if not isinstance(paper, Rule)}
        datasets = datasets_of(config.paper_section)
        return (Difference("dataset", config.dataset, datasets), *_departures(config, values))
    if config.regime == "dense":
        del stated["prune_layers"]
    examples = tuple(
        Difference(f"{split}_examples", used[split], available[split])
        for split in used
        if used[split] != available[split]
    )
    differences = _departures(config, {**stated, **experiment.expected}) + examples
    return differences + _start_differences(config, experiment, start)


def _departures(config: ExperimentConfig, stated: dict[str, Any]) -> tuple[Difference, ...]:
    values = config.to_json()
    found = []
    for name in (name for name in values if name in stated):
        paper = stated[name]
        if isinstance(paper, Rule):
            if not paper.holds(getattr(config, name)):
                found.append(Difference(name, values[name], paper.text))
        elif getattr(config, name) != paper:
            found.append(Difference(name, values[name], list(paper) if isinstance(paper, tuple) else paper))
    return tuple(found)


def _start_differences(
    config: ExperimentConfig, experiment: PaperExperiment, start: RoundResult | None
) -> tuple[Difference, ...]:
    expected = experiment.start
    if start is None:
        if expected is not None:
            return (Difference("init_from", "", asdict(expected)),)
        return () if config.weights == "imagenet" else (Difference("weights", config.weights, "imagenet"),)
    if expected is None:
        return (Difference("init_from", config.init_from, None),)
    theirs = start.config
    number = theirs.last_round if expected.round is None else expected.round
    if (theirs.paper_section, theirs.dataset, start.round) != (expected.section, expected.dataset, number):
        return (Difference("init_from", config.init_from, asdict(expected)),)
    if not start.differences:
        return ()
    return (Difference("init_from", config.init_from, asdict(expected), start.differences),)
