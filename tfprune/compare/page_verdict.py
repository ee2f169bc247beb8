"""Whether a drop of ours is within one point of the paper's: the target of the study."""

import dataclasses

from tfprune.compare.page_html import NOTHING
from tfprune.compare.paper import BASELINE_SECTION
from tfprune.compare.seeds import Experiment, SeedRound, Spread

TOLERANCE_POINTS = 1.0
"""How much more than the paper's our drop may be."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A round of an experiment beside the paper's: how much worse our drop is, in percentage points."""

    experiment: Experiment
    level: SeedRound
    excess: Spread

    @property
    def within(self) -> bool:
        """Whether our mean drop is at most a point worse than the paper's."""
        return self.excess.mean <= TOLERANCE_POINTS + 1e-9


def cell_of(experiment: Experiment, level: SeedRound) -> Cell | None:
    """The cell of a round; `None` where either drop is unknown, and for a baseline, which has none."""
    if experiment.section == BASELINE_SECTION:
        return None
    excess = level.spread(
        lambda row: (
            None
            if row.drop_percent_points is None or row.paper_drop_percent_points is None
            else row.drop_percent_points - row.paper_drop_percent_points
        )
    )
    return None if excess is None else Cell(experiment, level, excess)


def cells_of(experiment: Experiment) -> list[Cell]:
    """The cells of all finished rounds."""
    return [cell for cell in (cell_of(experiment, level) for level in experiment.rounds) if cell]


def verdict(cell: Cell | None) -> str:
    """`✓ 0.4 worse`, `✗ 3.2 worse` or `✓ 0.4 better`: a drop of ours beside the paper's."""
    if cell is None:
        return NOTHING
    worse = cell.excess.mean
    amount = points_apart(worse)
    words = "equal" if float(amount) == 0 else f"{amount} {'worse' if worse > 0 else 'better'}"
    sign, kind = ("✓", "good") if cell.within else ("✗", "bad")
    return f'<span class="{kind}">{sign}</span> {words}'


def points_apart(worse: float) -> str:
    """The amount with a decimal, or with two where one would hide on which side of the limit it lies."""
    return f"{abs(worse):.{2 if abs(worse - TOLERANCE_POINTS) < 0.05 else 1}f}"
