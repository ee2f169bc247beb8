"""The reference study, written once: its settings and its published figures.

Source: "Pruning of neural networks for computer vision tasks", course paper, Moscow State University, 2024
(in Russian). Accuracies are top-1 on the 10,000 test images, in percent, rounded as published; sparsity is
the fraction of zero weights in the convolution kernels. What the study states for all its experiments stands
with each setting, in `ExperimentConfig`.

A figure is a reproduction only if nothing differs. What the study leaves open (batch size, scope, policy of
AutoAugment, seed) may be chosen; `tfprune/flags/base.flags` gives the reasons.
"""

import functools
from dataclasses import dataclass, fields
from typing import Any

BASELINE = "baseline"
"""The section name of the two dense baselines, which the paper reports outside 4.3."""

CHANCE_ACCURACY_PERCENT = {"cifar10": 10.0, "cifar100": 1.0}
"""Accuracy of guessing, by dataset: what a figure published as "chance" stands for."""

CHANCE = "chance"


@dataclass(frozen=True)
class Start:
    """A round of the study that an experiment starts from.

    Attributes:
        section: Its section.
        dataset: The dataset of that section.
        round: The round; None for the section's last.
    """

    section: str
    dataset: str
    round: int | None = None


@dataclass(frozen=True)
class Published:
    """The published figures of one round.

    Attributes:
        sparsity: As published, in [0, 1).
        accuracy_percent: After (fine-)tuning.
        after_pruning: Accuracy right after pruning in percent, `CHANCE`, or None where nothing was pruned.
    """

    sparsity: float
    accuracy_percent: float
    after_pruning: float | str | None = None


@dataclass(frozen=True)
class PaperExperiment:
    """One experiment of the study: what it states, and what it measured, a figure a round.

    Attributes:
        settings: The settings that are this experiment's own, by name.
        start: The round that it starts from; None: ImageNet weights.
        rounds: The published rounds; of dense training one.
    """

    section: str
    dataset: str
    settings: dict[str, Any]
    start: Start | None
    rounds: tuple[Published, ...]

    @property
    def regime(self) -> str:
        """`"dense"`, `"one_shot"` or `"iterative"`. The sparse transfer trains in the dense regime."""
        return self.settings["regime"]

    @property
    def expected(self) -> dict[str, Any]:
        """The settings of its own, the target of pruning among them."""
        if self.regime == "dense":
            return {**self.settings, "target_sparsity": 0.0}
        return {**self.settings, "target_sparsity": self.rounds[-1].sparsity}


def _dense(
    section: str,
    dataset: str,
    epochs: int,
    rates: tuple[float, float],
    boundaries: tuple[int, ...],
    start: Start | None,
    published: Published,
) -> PaperExperiment:
    settings = {"regime": "dense", **_training((epochs,), *rates, boundaries)}
    return PaperExperiment(section, dataset, settings, start, (published,))


def _one_shot(
    section: str, dataset: str, epochs: int, boundary: int, sparsity: float, accuracy: float
) -> PaperExperiment:
    settings = {"regime": "one_shot", **_training((epochs,), 3e-4, 0.0, (boundary,))}
    rounds = (Published(sparsity, accuracy, CHANCE),)
    return PaperExperiment(section, dataset, settings, Start(BASELINE, dataset), rounds)


def _iterative(
    section: str,
    start: Start,
    epochs: tuple[int, ...],
    rate: float,
    *rounds: tuple[float, float, float],
) -> PaperExperiment:
    """Takes (sparsity, right after pruning, after fine-tuning) of each round."""
    settings = {
        "regime": "iterative",
        "schedule": "geometric",
        "rounds": len(rounds),
        **_training(epochs, rate, 0.0, ()),
    }
    published = tuple(Published(sparsity, tuned, after) for sparsity, after, tuned in rounds)
    return PaperExperiment(section, start.dataset, settings, start, published)


def _training(
    epochs: tuple[int, ...], rate: float, head_rate: float, boundaries: tuple[int, ...]
) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "learning_rate": rate,
        "head_learning_rate": head_rate,
        "lr_boundaries_epochs": boundaries,
    }


_EPOCHS = (10, 10, 10, 10, 15, 15)
STUDY: tuple[PaperExperiment, ...] = (
    _dense(BASELINE, "cifar10", 20, (1e-5, 1e-4), (), None, Published(0.0, 96)),
    _one_shot("4.3.1", "cifar10", 40, 20, 0.995, 89),
    _one_shot("4.3.2", "cifar10", 40, 30, 0.95, 96),
    _iterative(
        "4.3.3",
        Start("4.3.2", "cifar10"),
        _EPOCHS,
        1e-4,
        (0.966, 96, 96),
        (0.977, 94, 96),
        (0.984, 88, 95.5),
        (0.989, 75, 95),
        (0.992, 61, 95),
        (0.995, 61, 94.5),
    ),
    _dense(BASELINE, "cifar100", 30, (1e-5, 1e-4), (), None, Published(0.0, 84)),
    _one_shot("4.3.4", "cifar100", 30, 19, 0.95, 80),
    _iterative(
        "4.3.5",
        Start(BASELINE, "cifar100"),
        _EPOCHS,
        3e-5,
        (0.39, 83, 84),
        (0.63, 74, 84),
        (0.77, 56, 83.5),
        (0.86, 28, 83),
        (0.92, 13, 82),
        (0.95, 4, 81),
    ),
    _iterative(
        "4.3.6",
        Start("4.3.5", "cifar100", 3),
        _EPOCHS,
        3e-5,
        (0.82, 52, 83.5),
        (0.86, 38.5, 83),
        (0.89, 29, 83),
        (0.92, 16, 82),
        (0.94, 16, 82),
        (0.95, 14.5, 82),
    ),
    _iterative(
        "4.3.7",
        Start("4.3.6", "cifar100"),
        (12, 12, 12, 12, 16, 16),
        3e-5,
        (0.965, 7.5, 79),
        (0.975, 10, 77.5),
        (0.982, 3, 75),
        (0.987, 7, 72.5),
        (0.99, 4, 71),
        (0.993, 3, 67),
    ),
    _dense(
        "4.3.8",
        "cifar100",
        55,
        (1e-3, 0.0),
        (20, 31, 46),
        Start("4.3.2", "cifar10"),
        Published(0.95, 77),
    ),
)
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(experiment.section for experiment in STUDY))
"""Every section name, in the paper's order."""

_BY_KEY = {(experiment.section, experiment.dataset): experiment for experiment in STUDY}
BASELINE_ACCURACY_PERCENT = {
    experiment.dataset: experiment.rounds[0].accuracy_percent
    for experiment in STUDY
    if experiment.section == BASELINE
}
"""Accuracy of the paper's dense networks after their last epoch, by dataset."""


def experiment_of(section: str, dataset: str) -> PaperExperiment | None:
    """Returns the experiment of a section on a dataset; None if the study has none."""
    return _BY_KEY.get((section, dataset))


def datasets_of(section: str) -> list[str]:
    """Returns the datasets that a section of the study is about."""
    return [experiment.dataset for experiment in STUDY if experiment.section == section]


@dataclass(frozen=True)
class PaperRow:
    """One published round, with what the study's rule says of it.

    Attributes:
        round: 0 for dense training, from 1 for pruning.
        sparsity_asked: The level that the paper's rule gives, of which the published one is the rounding.
    """

    experiment: PaperExperiment
    round: int
    published: Published
    sparsity_asked: float

    @property
    def sparsity(self) -> float:
        """The level as published, in [0, 1)."""
        return self.published.sparsity

    @property
    def accuracy_percent(self) -> float:
        """The accuracy after (fine-)tuning."""
        return self.published.accuracy_percent

    @property
    def after_pruning_is_chance(self) -> bool:
        """Whether the accuracy right after pruning is published as "chance" and not as a number."""
        return self.published.after_pruning == CHANCE

    @property
    def accuracy_after_pruning_percent(self) -> float | None:
        """The accuracy before fine-tuning; None where nothing was pruned."""
        if self.after_pruning_is_chance:
            return CHANCE_ACCURACY_PERCENT[self.experiment.dataset]
        return self.published.after_pruning

    @property
    def baseline_accuracy_percent(self) -> float:
        """The accuracy of the paper's dense network on the same dataset."""
        return BASELINE_ACCURACY_PERCENT[self.experiment.dataset]

    @property
    def drop_percent_points(self) -> float:
        """The paper's own baseline less `accuracy_percent`."""
        return self.baseline_accuracy_percent - self.accuracy_percent


def equal_share_sparsities(start: float, target: float, rounds: int) -> tuple[float, ...]:
    """Returns the levels at which every round removes the same share of the remaining weights.

    `1 - s_k = (1 - start) * ((1 - target) / (1 - start)) ** (k / rounds)` for k = 1 .. rounds.

    Example: `equal_share_sparsities(0.0, 0.95, 6)` is about
    `(0.393, 0.632, 0.776, 0.864, 0.918, 0.95)`.

    Args:
        start: Sparsity before the first round, in [0, 1).
        target: Sparsity after the last round, in [start, 1).
        rounds: Number of rounds, at least 1.

    Raises:
        ValueError: If an argument is out of range.
    """
    if not 0 <= start <= target < 1:
        raise ValueError(
            "`start` and `target` must satisfy 0 <= start <= target < 1. "
            f"Received: start={start}, target={target}"
        )
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1. Received: rounds={rounds}")
    factor = (1 - target) / (1 - start)
    return tuple(1 - (1 - start) * factor ** (k / rounds) for k in range(1, rounds + 1))


@functools.cache
def paper_rows(section: str, dataset: str) -> tuple[PaperRow, ...]:
    """Returns the published rounds of a section on a dataset, in order; empty if there are none."""
    experiment = experiment_of(section, dataset)
    if experiment is None:
        return ()
    published = experiment.rounds
    if experiment.regime != "iterative":
        number = 0 if experiment.regime == "dense" else 1
        return (PaperRow(experiment, number, published[0], published[0].sparsity),)
    start = experiment.start
    before = paper_rows(start.section, start.dataset)[-1 if start.round is None else start.round - 1]
    asked = equal_share_sparsities(before.sparsity_asked, published[-1].sparsity, len(published))
    return tuple(
        PaperRow(experiment, number, one, level)
        for number, (one, level) in enumerate(zip(published, asked, strict=True), start=1)
    )


def match_paper_row(section: str, dataset: str, regime: str, sparsity: float) -> PaperRow | None:
    """Returns the published round of a section at a level of sparsity, or None.

    Rounds are matched by level and not by number, so that three rounds to 0.95 meet the paper's second,
    fourth and sixth of six.

    Args:
        section: The paper's section.
        dataset: Must be the section's: another dataset's accuracies are no orientation.
        regime: Must be the section's too.
        sparsity: The level asked, in [0, 1).

    Returns:
        The round whose density by the rule, `1 - sparsity_asked`, is nearest, if it is within 10 % of
        `1 - sparsity`. The densest-packed rounds of the paper lie 22 % apart.
    """
    density = 1 - sparsity
    rows = [row for row in paper_rows(section, dataset) if row.experiment.regime == regime]
    if not rows:
        return None
    row = min(rows, key=lambda row: abs((1 - row.sparsity_asked) - density))
    return row if abs((1 - row.sparsity_asked) - density) <= 0.1 * density else None


@dataclass(frozen=True)
class Difference:
    """A setting in which a run departs from its section of the study.

    Attributes:
        setting: Its name.
        ours: The run's value, as JSON has it.
        paper: The paper's: a value, the text of a rule ("every convolution"), a list of datasets, or, for
            `init_from`, a `Start` as a dictionary, or None for ImageNet weights.
        inherited: For `init_from` where the run starts from the right section: in what that run departs from
            it.
    """

    setting: str
    ours: Any
    paper: Any
    inherited: tuple["Difference", ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the difference as JSON has it."""
        found = {"setting": self.setting, "ours": self.ours, "paper": self.paper}
        if self.inherited:
            found["inherited"] = [difference.to_json() for difference in self.inherited]
        return found

    @classmethod
    def from_json(cls, value: Any) -> "Difference":
        """Reads what `to_json` returned.

        Raises:
            ValueError: If the value is something else.
        """
        keys = {"setting", "ours", "paper"}
        if not isinstance(value, dict) or not keys <= value.keys() or value.keys() - keys - {"inherited"}:
            raise ValueError(f"a difference must have setting, ours and paper. Received: {value!r}")
        inherited = value.get("inherited", [])
        if not isinstance(value["setting"], str) or not isinstance(inherited, list):
            raise ValueError(f"a difference must name a setting. Received: {value!r}")
        if not _is_value(value["ours"]) or not (_is_value(value["paper"]) or _is_start(value["paper"])):
            raise ValueError(f"a difference must have values of a setting. Received: {value!r}")
        return cls(
            value["setting"], value["ours"], value["paper"], tuple(cls.from_json(item) for item in inherited)
        )


def _is_value(value: Any) -> bool:
    """Returns whether a value from JSON can be a setting's."""
    items = value if isinstance(value, list) else [value]
    return all(item is None or isinstance(item, str | int | float) for item in items)


def _is_start(value: Any) -> bool:
    """Returns whether a value from JSON is a `Start` as a dictionary."""
    if not isinstance(value, dict) or value.keys() != {field.name for field in fields(Start)}:
        return False
    texts = isinstance(value["section"], str) and isinstance(value["dataset"], str)
    return texts and (value["round"] is None or type(value["round"]) is int)
