"""Numbers, settings and results in words: plain text, which the page escapes."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Sequence

from tfprune.compare.rows import TOLERANCE_POINTS, Experiment, Row
from tfprune.memory import size_text
from tfprune.named import is_named
from tfprune.runs.config import RESNETS
from tfprune.runs.metric import ACCURACY, Metric, significant
from tfprune.runs.paper import BASELINE, Difference, PaperRow, paper_rows
from tfprune.runs.result import RoundResult
from tfprune.settings import OPEN, settings_of

NOTHING = "–"
"""The text of a cell without a value."""

SIZES_EXPLAINED = (
    " Parameters and MACs count zeros, too; where channels were cut, they are what is left of those of the "
    "whole network."
)
"""How to read the sizes of networks in a table with a network whose channels were cut."""

_DATASET_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_REGIMES = {
    "one_shot": "one-shot",
    "iterative": "iterative",
    "gradual": "gradual, while training",
    "sparse": "sparse from the start",
    "genetic": "genetic algorithm",
}
_CUTS = {
    "one_shot": "channels cut at once",
    "iterative": "channels cut in rounds",
    "gradual": "channels cut while training",
}


def number(value: float | None, decimals: int = 1, signed: bool = False) -> str:
    """Returns a number with a true minus sign."""
    if value is None:
        return NOTHING
    # Adding 0.0 turns -0.0 into 0.0, which is printed without a minus.
    rounded = round(value, decimals) + 0.0
    sign = "+" if signed and rounded > 0 else ""
    return f"{sign}{rounded:.{decimals}f}".replace("-", "−")


def figure(value: float, metric: Metric, signed: bool = False, digits: int = 4) -> str:
    """Returns a value of a metric, or a difference of two, without its unit."""
    if metric.in_percent:
        return number(value, signed=signed)
    sign = "+" if signed and value > 0 else ""
    return f"{sign}{significant(value, digits)}".replace("-", "−")


def metric_title(metric: Metric) -> str:
    """Returns a metric's name as written in headings."""
    return metric.name.replace("_", " ")


def metrics_explained(metrics: Iterable[Metric]) -> str:
    """Returns how to read the figures of tables with some metrics, in sentences."""
    parts = []
    for metric in sorted(metrics, key=lambda metric: metric != ACCURACY):
        if metric == ACCURACY:
            parts.append(
                "Accuracies, right after pruning and after training, are top-1 on the test images, in "
                "percent; drops are percentage points below the own dense network."
            )
            continue
        unit, points = (" in percent,", "in percentage points, ") if metric.in_percent else ("", "")
        better = "higher" if metric.higher_is_better else "lower"
        parts.append(
            f"{sentence(metric_title(metric))}, right after pruning and after training, is that on the test "
            f"data,{unit} and better where it is {better}; a drop is {points}how much worse it is than that "
            "of the own dense network."
        )
    return " ".join(parts)


def sentence(text: str) -> str:
    """Returns a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def examples(results: Iterable[RoundResult]) -> str:
    """Returns `images` where all data is known to be, else `examples`."""
    return "examples" if any(is_named(result.config.dataset) for result in results) else "images"


def count(amount: int, noun: str) -> str:
    """Returns `1 round`, `2 rounds`."""
    return f"{amount:,} {noun if amount == 1 else noun + 's'}"


def in_words(values: Iterable[str]) -> str:
    """Returns `a, b and c`."""
    values = list(values)
    return " and ".join(filter(None, [", ".join(values[:-1]), *values[-1:]]))


def all_of(amount: int) -> str:
    """Returns `Both experiments`."""
    return {1: "The one experiment", 2: "Both experiments"}.get(amount, f"All {amount} experiments")


def size(number_of_bytes: int | None) -> str:
    """Returns `5.36 MB` of 10^6 bytes, `194 kB`."""
    return NOTHING if number_of_bytes is None else size_text(number_of_bytes)


def amount(value: float) -> str:
    """Returns a large number of three digits: `1.16 G`, `21.3 M`, `842`."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:#.3g}".rstrip(".") + f" {unit}"
    return f"{value:.0f}"


def milliseconds(value: float) -> str:
    """Returns `3.2 ms`, of three digits."""
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def times(ratio: float) -> str:
    """Returns `27×`, of two digits."""
    return f"{ratio:.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×"


def excess(points: float) -> str:
    """Returns `0.5 worse`, `0.5 better` or `equal`: our drop beside the paper's.

    Two decimals where one would hide on which side of the limit the amount lies.
    """
    amount = number(abs(points), 2 if abs(points - TOLERANCE_POINTS) < 0.05 else 1)
    return "equal" if float(amount) == 0 else f"{amount} {'worse' if points > 0 else 'better'}"


def value(setting: object) -> str:
    """Returns a setting's value as it is written in a flagfile; `none` for an empty one."""
    if isinstance(setting, tuple | list):
        return ",".join(map(value, setting)) or "none"
    if isinstance(setting, dict):  # The round of the study that a run should start from.
        return f"{setting['section']} on {dataset_title(setting['dataset'])}" + (
            f", round {setting['round']}" if setting["round"] is not None else ""
        )
    if isinstance(setting, str) and os.path.isabs(os.path.expanduser(setting)):
        return os.path.basename(setting)  # Where a file lies on a machine is of no use on another.
    return f"{setting:g}" if isinstance(setting, float) else "none" if setting in (None, "") else str(setting)


def difference(found: Difference) -> str:
    """Returns `width 16 (paper: 64)`."""
    if found.inherited:
        return f"{found.setting} {value(found.ours)}, which is not in the paper's setting itself"
    return f"{found.setting} {value(found.ours)} (paper: {value(found.paper)})"


def dataset_title(dataset: str) -> str:
    """Returns a dataset's name as written in headings."""
    return _DATASET_TITLES.get(dataset, dataset)


def section_label(section: str) -> str:
    """Returns the section's number, or `Baseline`."""
    return "Baseline" if section == BASELINE else section


def section_title(section: str, dataset: str) -> str:
    """Returns `CIFAR-10, iterative from 4.3.2 to 0.995 in 6 rounds`, without the section's number."""
    rows, name = paper_rows(section, dataset), dataset_title(dataset)
    if not rows:
        return name
    regime, start, level = rows[0].experiment.regime, rows[0].experiment.start, f"{rows[-1].sparsity:g}"
    if section == BASELINE:
        return f"{name}, dense network"
    if regime == "dense":
        return f"{name}, sparse transfer: the {level}-sparse network of {start.section}"
    if regime == "one_shot":
        return f"{name}, one-shot to {level}"
    origin = "dense" if start.section == BASELINE else start.section
    if start.round is not None:
        origin += f", round {start.round},"
    return f"{name}, iterative from {origin} to {level} in {len(rows)} rounds"


def kind(row: Row | PaperRow) -> str:
    """Returns how a network was pruned: `one-shot`, `channels cut at once`, `dense`, ..."""
    ours = isinstance(row, Row)
    regime = row.result.config.regime if ours else row.experiment.regime
    if regime == "dense":
        if ours and row.result.is_cut:
            return "transfer of a cut network"
        return "sparse transfer" if (row.result if ours else row).sparsity else "dense"
    if ours and row.result.config.prune == "channels":
        return _CUTS[regime]
    return _REGIMES.get(regime, regime)  # A method without words of its own has its name.


def network(result: RoundResult) -> str:
    """Returns what was trained on what: `resnet34, width 16, ..., 10,000 of 50,000 training images`."""
    c, noun = result.config, examples([result])
    facts = [os.path.basename(c.model)]
    if c.model in RESNETS:
        facts += [f"width {c.width}", f"{c.stem} stem"]
    if noun == "images" and c.image_size:
        facts.append(f"{c.image_size}x{c.image_size}")
    for used, available, name in (
        (result.train_examples, result.train_examples_available, "training"),
        (result.test_examples, result.test_examples_available, "test"),
    ):
        of = f" of {available:,}" if available != used else ""
        facts.append(f"{used:,}{of} {name} {noun}")
    return ", ".join(facts)


# What `network`, `recipe` and the tables say of a run already.
_TOLD = frozenset(
    "experiment init_from paper_section dataset train_examples test_examples model width stem image_size "
    "weights regime schedule target_sparsity rounds regrowth scope prune channel_scope".split()
)


def settings(experiment: Experiment, among: Sequence[Experiment]) -> list[str]:
    """Returns how an experiment was made, apart from its network, its regime and the scope; often nothing.

    Named are the settings of pruning and those that the study states, where they are not the default; of the
    others those in which most runs of the dataset differ.

    Args:
        experiment: The experiment.
        among: All that are shown.
    """
    config = experiment.first.result.config
    configs = [e.first.result.config for e in among if e.dataset == experiment.dataset]
    of_images = examples([experiment.first.result]) == "images"
    facts = []
    for field in dataclasses.fields(config):
        said, own = settings_of(config)[field.name], getattr(config, field.name)
        prunes = said.group in ("pruning", "channels")
        if field.name in _TOLD or said.role in ("seed", "place") or (prunes and config.regime == "dense"):
            continue
        if field.name == "autoaugment" and not of_images:
            continue
        (most, _), *_ = collections.Counter(getattr(c, field.name) for c in configs).most_common(1)
        matters = prunes or said.words is not None or said.paper is not OPEN
        if own != (field.default if matters or said.role == "reference" else most):
            facts.append(
                said.words(own) if said.words and own != field.default else f"{field.name} {value(own)}"
            )
    return facts


def recipe(experiment: Experiment, among: Sequence[Experiment]) -> str:
    """Returns how an experiment was pruned and trained, as far as experiments of one study differ in it.

    Args:
        experiment: The experiment.
        among: All that are shown: settings in which it differs from most of its dataset are named.
    """
    config = experiment.first.result.config
    facts = [kind(experiment.first)]
    if config.regime == "sparse":
        facts[0] += f" ({config.regrowth})"
    if config.regime not in ("dense", "genetic"):
        scope = config.channel_scope if config.prune == "channels" else config.scope
        facts.append(f"scope {scope}")
    if config.regime == "gradual":
        facts.append(f"{config.schedule} schedule")
    if config.weights != "none" and not config.init_from and config.model.isidentifier():
        facts.append(f"{config.weights} weights")
    return ", ".join([*facts, *settings(experiment, among)])


def setting(experiment: Experiment, among: Sequence[Experiment]) -> str:
    """Returns an experiment's setting, with what sets it apart from the paper's where it names a section.

    Args:
        experiment: The experiment.
        among: All that are shown.
    """
    row = experiment.first
    text = f"{network(row.result)}; {recipe(experiment, among)}"
    if row.in_paper_setting or not experiment.section:
        return text
    return f"not the paper's setting: {text}; differs in {'; '.join(map(difference, row.differences))}"


def round_title(experiment: Experiment, number: int) -> str:
    """Returns `2/6`; `dense` training has no rounds."""
    return "–" if experiment.regime == "dense" else f"{number}/{experiment.announced_rounds}"
