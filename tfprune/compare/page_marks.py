"""The colour and the shape that stand for an experiment in every picture of the page."""

import dataclasses
from collections.abc import Sequence

from tfprune.compare.page_html import code, escape
from tfprune.compare.paper import BASELINE_SECTION, PaperRow
from tfprune.compare.results import RoundResult
from tfprune.compare.seeds import Experiment
from tfprune.compare.svg import marker, segment

COLORS = 8

_SHAPES = {"one_shot": "circle", "iterative": "square", "gradual": "triangle", "sparse": "diamond"}
_TRANSFER_SHAPE = "cross"
_KINDS = {
    "one_shot": "one-shot",
    "iterative": "iterative",
    "gradual": "gradual, while training",
    "sparse": "sparse from the start",
}


@dataclasses.dataclass(frozen=True)
class Mark:
    """Classes of a line or a mark, and its shape."""

    color: str
    shape: str

    @property
    def hollow(self) -> str:
        """The same, not filled."""
        return f"{self.color} hollow"


def is_baseline(result: RoundResult | PaperRow) -> bool:
    """Whether it is a dense network without any pruned weight."""
    return result.regime == "dense" and not result.sparsity


def kind_in_words(result: RoundResult | PaperRow) -> str:
    """How it was pruned: `one-shot`, `iterative`, ..., `dense` or `sparse transfer`."""
    if result.regime == "dense":
        return "sparse transfer" if result.sparsity else "dense"
    return _KINDS[result.regime]


def shape_of(result: RoundResult | PaperRow) -> str:
    """The shape of a regime's marks, the paper's too."""
    return _SHAPES.get(result.regime, _TRANSFER_SHAPE)


def make_marks(experiments: Sequence[Experiment]) -> dict[str, Mark]:
    """A mark for each experiment, by name: colours go round within a dataset."""
    marks = {}
    used: dict[str, int] = {}
    for experiment in experiments:
        index = used.get(experiment.dataset, 0)
        used[experiment.dataset] = index + 1
        color = f"s{index % COLORS}" + (" again" if index >= COLORS else "")
        marks[experiment.name] = Mark(color, shape_of(experiment.first.result))
    return marks


def legend(experiments: Sequence[Experiment], marks: dict[str, Mark], paper: bool, kinds: bool = True) -> str:
    """A list of what the marks stand for, which wraps where the page is narrow.

    Args:
        experiments: Those that are drawn.
        marks: From `make_marks`.
        paper: Whether the paper's marks are explained too.
        kinds: Whether to say how each experiment was pruned.

    Returns:
        HTML.
    """
    entries = []
    for experiment in experiments:
        result, mark = experiment.first.result, marks[experiment.name]
        if is_baseline(result):
            sample = segment(1, 8, 23, 8, f"dense {mark.color}")
        else:
            sample = marker(12, 8, mark.shape, mark.color, radius=5)
        section = (
            f" ({escape(experiment.section)})" if experiment.section not in ("", BASELINE_SECTION) else ""
        )
        entries.append(
            (sample, f"{code(experiment.name)}{section}" + (f", {kind_in_words(result)}" if kinds else ""))
        )
    if paper:
        grey = segment(1, 8, 23, 8, "line paper") + marker(12, 8, "square", "paper hollow", radius=4)
        entries.append((grey, "the paper, with the section’s number; dashed: its dense network"))
    items = "".join(
        f'<li><svg viewBox="0 0 24 16" aria-hidden="true">{sample}</svg><span>{label}</span></li>'
        for sample, label in entries
    )
    return f'<ul class="legend">{items}</ul>'
