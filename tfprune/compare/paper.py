"""The reference study's results, one row for every published accuracy.

Source: "Pruning of neural networks for computer vision tasks", course paper, Moscow State
University, 2024 (in Russian). Top-1 accuracies on the 10,000 test images, in percent, rounded as
published; sparsity is the fraction of zero weights in the convolution kernels.
"""

import dataclasses

BASELINE_SECTION = "baseline"
"""The section name of the two dense baselines, which the paper reports outside 4.3."""

BASELINE_ACCURACY_PERCENT = {"cifar10": 96.0, "cifar100": 84.0}
"""Accuracy of the paper's dense networks after their last epoch, by dataset."""

CHANCE_ACCURACY_PERCENT = {"cifar10": 10.0, "cifar100": 1.0}
"""Accuracy of guessing, by dataset: what a row published as "chance" stands for."""


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """One published result: a baseline, a one-shot run or one round of an iterative run.

    Attributes:
        section: The paper's section, such as `"4.3.2"`, or `"baseline"`.
        dataset: `"cifar10"` or `"cifar100"`.
        regime: `"dense"`, `"one_shot"` or `"iterative"`. The sparse transfer (4.3.8) is
            `"dense"`: it trains with fixed masks.
        starts_from: The section whose result it starts from; `""` for the baselines.
        starts_from_round: The round of that section, `None` for its last one.
        round: 0 for dense training, from 1 for pruning.
        sparsity: As published, in [0, 1).
        sparsity_asked: The level that the paper's rule gives, of which `sparsity` is the
            published rounding.
        accuracy_after_pruning_percent: Before fine-tuning; `None` where nothing was pruned.
        after_pruning_is_chance: Published as "chance" and not as a number.
        accuracy_percent: After (fine-)tuning.
    """

    section: str
    dataset: str
    regime: str
    starts_from: str
    starts_from_round: int | None
    round: int
    sparsity: float
    sparsity_asked: float
    accuracy_after_pruning_percent: float | None
    after_pruning_is_chance: bool
    accuracy_percent: float

    @property
    def baseline_accuracy_percent(self) -> float:
        """Accuracy of the paper's dense network on the same dataset."""
        return BASELINE_ACCURACY_PERCENT[self.dataset]

    @property
    def drop_percent_points(self) -> float:
        """How far `accuracy_percent` lies below the paper's own baseline."""
        return self.baseline_accuracy_percent - self.accuracy_percent


def equal_share_sparsities(start: float, target: float, rounds: int) -> tuple[float, ...]:
    """Levels at which every round removes the same share of the remaining weights.

    `1 - s_k = (1 - start) * ((1 - target) / (1 - start)) ** (k / rounds)` for k = 1 .. rounds.

    Example: `equal_share_sparsities(0.0, 0.95, 6)` is about
    `(0.393, 0.632, 0.776, 0.864, 0.918, 0.95)`.

    Args:
        start: Sparsity before the first round, in [0, 1).
        target: Sparsity after the last round, in [start, 1).
        rounds: Number of rounds, at least 1.

    Returns:
        The sparsity after each round.

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


def _dense(
    section: str, dataset: str, accuracy_percent: float, starts_from: str = "", sparsity: float = 0
) -> tuple[PaperRow, ...]:
    row = PaperRow(
        section=section,
        dataset=dataset,
        regime="dense",
        starts_from=starts_from,
        starts_from_round=None,
        round=0,
        sparsity=sparsity,
        sparsity_asked=sparsity,
        accuracy_after_pruning_percent=None,
        after_pruning_is_chance=False,
        accuracy_percent=accuracy_percent,
    )
    return (row,)


def _one_shot(section: str, dataset: str, sparsity: float, accuracy_percent: float) -> tuple[PaperRow, ...]:
    row = PaperRow(
        section=section,
        dataset=dataset,
        regime="one_shot",
        starts_from=BASELINE_SECTION,
        starts_from_round=None,
        round=1,
        sparsity=sparsity,
        sparsity_asked=sparsity,
        accuracy_after_pruning_percent=CHANCE_ACCURACY_PERCENT[dataset],
        after_pruning_is_chance=True,
        accuracy_percent=accuracy_percent,
    )
    return (row,)


def _iterative(
    section: str,
    dataset: str,
    starts_from: str,
    starts_from_round: int | None,
    start_sparsity: float,
    published: tuple[tuple[float, float, float], ...],
) -> tuple[PaperRow, ...]:
    """Rows of `(sparsity, right after pruning, after fine-tuning)`, one a round."""
    asked = equal_share_sparsities(start_sparsity, published[-1][0], len(published))
    return tuple(
        PaperRow(
            section=section,
            dataset=dataset,
            regime="iterative",
            starts_from=starts_from,
            starts_from_round=starts_from_round,
            round=number,
            sparsity=sparsity,
            sparsity_asked=sparsity_asked,
            accuracy_after_pruning_percent=after_pruning,
            after_pruning_is_chance=False,
            accuracy_percent=accuracy,
        )
        for number, ((sparsity, after_pruning, accuracy), sparsity_asked) in enumerate(
            zip(published, asked, strict=True), start=1
        )
    )


_SECTION_433 = _iterative(
    "4.3.3",
    "cifar10",
    "4.3.2",
    None,
    0.95,
    (
        (0.966, 96, 96),
        (0.977, 94, 96),
        (0.984, 88, 95.5),
        (0.989, 75, 95),
        (0.992, 61, 95),
        (0.995, 61, 94.5),
    ),
)
_SECTION_435 = _iterative(
    "4.3.5",
    "cifar100",
    BASELINE_SECTION,
    None,
    0.0,
    (
        (0.39, 83, 84),
        (0.63, 74, 84),
        (0.77, 56, 83.5),
        (0.86, 28, 83),
        (0.92, 13, 82),
        (0.95, 4, 81),
    ),
)
_SECTION_436 = _iterative(
    "4.3.6",
    "cifar100",
    "4.3.5",
    3,
    _SECTION_435[2].sparsity_asked,  # 0.776, published as 0.77
    (
        (0.82, 52, 83.5),
        (0.86, 38.5, 83),
        (0.89, 29, 83),
        (0.92, 16, 82),
        (0.94, 16, 82),
        (0.95, 14.5, 82),
    ),
)
_SECTION_437 = _iterative(
    "4.3.7",
    "cifar100",
    "4.3.6",
    None,
    0.95,
    (
        (0.965, 7.5, 79),
        (0.975, 10, 77.5),
        (0.982, 3, 75),
        (0.987, 7, 72.5),
        (0.99, 4, 71),
        (0.993, 3, 67),
    ),
)

PAPER_ROWS: tuple[PaperRow, ...] = (
    *_dense(BASELINE_SECTION, "cifar10", BASELINE_ACCURACY_PERCENT["cifar10"]),
    *_one_shot("4.3.1", "cifar10", 0.995, 89),
    *_one_shot("4.3.2", "cifar10", 0.95, 96),
    *_SECTION_433,
    *_dense(BASELINE_SECTION, "cifar100", BASELINE_ACCURACY_PERCENT["cifar100"]),
    *_one_shot("4.3.4", "cifar100", 0.95, 80),
    *_SECTION_435,
    *_SECTION_436,
    *_SECTION_437,
    *_dense("4.3.8", "cifar100", 77, starts_from="4.3.2", sparsity=0.95),
)

PAPER_SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(row.section for row in PAPER_ROWS))
"""Every section name, in the paper's order."""


def paper_rows(section: str, dataset: str) -> tuple[PaperRow, ...]:
    """The rows of one section on one dataset, in order of rounds; empty if there is none."""
    return tuple(row for row in PAPER_ROWS if (row.section, row.dataset) == (section, dataset))


def match_paper_row(section: str, dataset: str, regime: str, sparsity: float) -> PaperRow | None:
    """The row of a section at a level of sparsity, or `None`.

    Rows are matched by level and not by number, so that three rounds to 0.95 meet the paper's
    second, fourth and sixth of six.

    Args:
        section: The paper's section.
        dataset: Must be the section's: another dataset's accuracies are no orientation.
        regime: Must be the section's too.
        sparsity: The level asked, in [0, 1).

    Returns:
        The row whose density by the rule, `1 - sparsity_asked`, is nearest, if it is within 10 %
        of `1 - sparsity`. The densest-packed rows of the paper lie 22 % apart.
    """
    density = 1 - sparsity
    rows = [row for row in paper_rows(section, dataset) if row.regime == regime]
    if not rows:
        return None
    row = min(rows, key=lambda row: abs((1 - row.sparsity_asked) - density))
    return row if abs((1 - row.sparsity_asked) - density) <= 0.1 * density else None
