"""What the page says in words: sections' titles, runs' recipes, and what differs from the paper's setting."""

import re
from collections.abc import Sequence

from tfprune.compare.layout import dataset_title, describe_pruning, describe_training
from tfprune.compare.page_html import Head, code, escape, in_words, paragraph, table
from tfprune.compare.page_marks import kind_in_words
from tfprune.compare.paper import BASELINE_SECTION, PAPER_ROWS, PaperRow
from tfprune.compare.results import RoundResult
from tfprune.compare.seeds import Experiment

_DIFFERENCE = re.compile(r"(?P<name>\w+)=(?P<ours>.*) \(paper: (?P<paper>.*)\)")


def section_rows(section: str, dataset: str) -> list[PaperRow]:
    """The paper's rows of a section on a dataset, in order of rounds."""
    return [row for row in PAPER_ROWS if (row.section, row.dataset) == (section, dataset)]


def section_title(section: str, dataset: str) -> str:
    """`CIFAR-10, iterative from 4.3.2 (0.95) to 0.995, six rounds`, without the section's number."""
    rows = section_rows(section, dataset)
    if not rows:
        return dataset_title(dataset)
    first, last = rows[0], rows[-1]
    name = dataset_title(dataset)
    if section == BASELINE_SECTION:
        return f"{name}, dense network"
    if first.regime == "dense":
        return f"{name}, sparse transfer: the {first.sparsity:g}-sparse network of {first.starts_from}"
    if first.regime == "one_shot":
        return f"{name}, one-shot to {last.sparsity:g}"
    start = "dense" if first.starts_from == BASELINE_SECTION else first.starts_from
    if first.starts_from_round is not None:
        start += f", round {first.starts_from_round},"
    return f"{name}, iterative from {start} to {last.sparsity:g} in {len(rows)} rounds"


def section_label(section: str) -> str:
    """The section's number, or `Baseline`."""
    return "Baseline" if section == BASELINE_SECTION else section


def describe_recipe(result: RoundResult) -> str:
    """How a run was pruned and trained, as far as experiments of one study differ in it; plain text."""
    facts = [kind_in_words(result)]
    if result.regime != "dense":
        pruning = describe_pruning(result)
        if result.scope and "scope" not in pruning and "sparse from" not in pruning:
            facts.append(f"scope {result.scope}")
        if pruning and not pruning.startswith("sparse from the start"):
            facts.append(pruning)
        elif pruning:
            facts[0] = pruning
        if result.regime == "gradual" and result.schedule:
            facts.append(f"{result.schedule} schedule")
    if result.weights and result.weights != "none" and not result.init_from:
        facts.append(f"{result.weights} weights")
    return ", ".join(filter(None, [*facts, describe_training(result)]))


def own_differences(experiment: Experiment, common: Sequence[str] = ()) -> list[str]:
    """An experiment's differences without the common ones and without those of the network it starts from."""
    return [
        text
        for text in experiment.first.differences
        if text.partition(" (paper: ")[0] not in common and ", itself with " not in text
    ]


def common_differences(experiments: Sequence[Experiment]) -> dict[str, list[str]]:
    """`width=16` and the paper's values, for what all the experiments have and the paper has not.

    Args:
        experiments: That name a section of the paper and are not in its setting.

    Returns:
        The paper's values, of which there may be one a section, by the flag and our value.
    """
    values: dict[str, dict[str, list[str]]] = {}
    for experiment in experiments:
        for text in own_differences(experiment):
            match = _DIFFERENCE.fullmatch(text)
            if match:
                ours = f"{match['name']}={match['ours']}"
                papers = match["paper"].split(" or ")
                values.setdefault(ours, {}).setdefault(experiment.name, []).extend(papers)
    return {
        ours: list(dict.fromkeys(paper for papers in by_name.values() for paper in papers))
        for ours, by_name in values.items()
        if len(by_name) == len(experiments)
    }


def describe_difference(text: str) -> str:
    """HTML of `width=16 (paper: 64)`; an empty value is called none."""
    match = _DIFFERENCE.fullmatch(text)
    if not match:
        return escape(text)
    return f"{code(match['name'])} {_value(match['ours'])} (paper: {_value(match['paper'])})"


def statement(experiments: Sequence[Experiment]) -> str:
    """Says whether the figures are a reproduction, and in what they differ from the paper's setting.

    Args:
        experiments: All of the page.

    Returns:
        HTML.
    """
    in_section = [e for e in experiments if e.section]
    same = [e for e in in_section if e.in_paper_setting]
    other = [e for e in in_section if not e.in_paper_setting]
    outside = [e for e in experiments if not e.section]
    if not in_section:
        text = "<strong>Not a reproduction of the paper.</strong> No experiment here names a section of it."
        return f'<div class="statement">{paragraph(text)}</div>'
    rest = f" {_experiments(len(outside))} outside the paper’s sections." if outside else ""
    if not other:
        text = (
            f"<strong>A reproduction of the paper’s setting.</strong> {_all(len(same))} "
            f"{'has' if len(same) == 1 else 'have'} its settings, as far as it states them.{rest}"
        )
        return f'<div class="statement">{paragraph(text)}</div>'
    if same:
        names = in_words([code(e.name) for e in same])
        text = (
            f"<strong>In part a reproduction of the paper.</strong> In its setting: {names}. Not in it, "
            "so that the paper’s figures are orientation there: "
            f"{in_words([code(e.name) for e in other])}.{rest}"
        )
    else:
        text = (
            f"<strong>Not a reproduction of the paper.</strong> {_all(len(other))} "
            f"{'differs' if len(other) == 1 else 'differ'} from its setting, so "
            "the paper’s figures are orientation: compare the drops from each one’s own dense network, not "
            f"the accuracies.{rest}"
        )
    return f'<div class="statement">{paragraph(text)}</div>{_common_table(other)}'


def _all(amount: int) -> str:
    names = {1: "The one experiment", 2: "Both experiments"}.get(amount, f"All {amount} experiments")
    return f"{names} with a section of the paper"


def _experiments(amount: int) -> str:
    return "One further experiment lies" if amount == 1 else f"{amount} further experiments lie"


def _common_table(experiments: Sequence[Experiment]) -> str:
    common = common_differences(experiments)
    if not common:
        return ""
    rows = []
    for ours, papers in common.items():
        name, _, value = ours.partition("=")
        rows.append([code(name), _value(value), ", ".join(map(_value, papers))])
    who = "all of them" if len(experiments) > 1 else "it"
    caption = f"What differs from the paper’s setting in {who}; further differences stand beside each table."
    return table(caption, [Head("Setting", kind="text"), Head("Here"), Head("The paper")], rows)


def _value(text: str) -> str:
    return escape(text) if text else "none"
