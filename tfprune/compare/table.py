"""Joins the rounds of runs with the paper's rows."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from tfprune.compare.paper import (
    BASELINE_ACCURACY_PERCENT,
    BASELINE_SECTION,
    PAPER_SECTIONS,
    PaperRow,
    match_paper_row,
    paper_rows,
)
from tfprune.compare.results import REGIMES, RoundResult, Run, list_experiments, read_run


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """One finished round, with the paper's row where there is one.

    Attributes:
        experiment: Name of the run folder.
        result: What the round wrote.
        paper: The paper's row of the run's section at the same level, on the same dataset and in
            the same regime; `None` if there is none.
        differences: In what the run's settings are not the paper's, as text.
        in_paper_setting: The run names a section of the paper and mirrors its setting in full.
            Only then is a row a reproduction of `paper`; otherwise `paper` is for orientation.
        baseline_experiment: The dense network that this run descends from, if it is at hand.
        baseline_accuracy_percent: That network's accuracy.
    """

    experiment: str
    result: RoundResult
    paper: PaperRow | None
    differences: tuple[str, ...]
    in_paper_setting: bool
    baseline_experiment: str | None
    baseline_accuracy_percent: float | None

    @property
    def is_start(self) -> bool:
        """Whether the round only evaluated the network that a pruning run starts from."""
        return self.result.round == 0 and self.result.regime != "dense"

    @property
    def start_accuracy_percent(self) -> float | None:
        """Accuracy of the network before the round did anything."""
        before = self.result.accuracy_before_percent
        return self.result.accuracy_percent if self.is_start and before is None else before

    @property
    def difference_percent_points(self) -> float | None:
        """Ours less the paper's accuracy, `None` unless the row is a reproduction of the paper's.

        For another setting the difference would measure the setting.
        """
        if not self.in_paper_setting or self.paper is None or self.result.accuracy_percent is None:
            return None
        return self.result.accuracy_percent - self.paper.accuracy_percent

    @property
    def drop_percent_points(self) -> float | None:
        """How far the accuracy lies below that of the run's own dense ancestor."""
        if self.baseline_accuracy_percent is None or self.result.accuracy_percent is None:
            return None
        return self.baseline_accuracy_percent - self.result.accuracy_percent

    @property
    def paper_drop_percent_points(self) -> float | None:
        """How far the paper's accuracy lies below the paper's baseline."""
        return None if self.paper is None else self.paper.drop_percent_points


def compare(runs: Sequence[Run], ancestors: Sequence[Run] = ()) -> list[ComparisonRow]:
    """Joins the finished rounds of runs with the paper's rows.

    Args:
        runs: What to compare.
        ancestors: Further runs in which to look for the dense networks that `runs` started from;
            see `read_ancestors`.

    Returns:
        A row for every finished round, the starting round 0 included: by dataset, then in the
        paper's order of sections, then by regime, experiment and round.
    """
    known = {run.experiment: run for run in (*ancestors, *runs)}
    rows = [row for run in runs for row in _run_rows(run, known)]
    return sorted(rows, key=_order)


def read_ancestors(output_dir: str | Path, runs: Sequence[Run]) -> list[Run]:
    """Reads the runs that `runs` descend from and that are not among them.

    Args:
        output_dir: Where the run folders are.
        runs: Runs that were read from it.

    Returns:
        The ancestors present in `output_dir`; one that is not there is left out.

    Raises:
        UserError: As `read_runs`, where a `result.json` is not valid.
    """
    present = set(list_experiments(output_dir))
    seen = {run.experiment for run in runs}
    ancestors = []
    waiting = list(runs)
    while waiting:
        parent = _parent(waiting.pop())
        if parent in present and parent not in seen:
            seen.add(parent)
            run = read_run(Path(output_dir) / parent)
            ancestors.append(run)
            waiting.append(run)
    return ancestors


def _run_rows(run: Run, known: dict[str, Run]) -> list[ComparisonRow]:
    # A run is one thing: a round in another setting takes the whole run out of the paper's.
    differences = tuple(dict.fromkeys(d for result in run.rounds for d in _differences(result)))
    in_paper_setting = all(result.paper_setting for result in run.rounds) and not differences
    rows = []
    for result in run.rounds:
        in_section = bool(result.paper_section)
        baseline = _baseline(run, result, known)
        rows.append(
            ComparisonRow(
                experiment=run.experiment,
                result=result,
                paper=_paper_row(result) if in_section else None,
                differences=differences,
                in_paper_setting=in_section and in_paper_setting,
                baseline_experiment=baseline[0] if baseline else None,
                baseline_accuracy_percent=baseline[1] if baseline else None,
            )
        )
    return rows


def _differences(result: RoundResult) -> list[str]:
    """What the training code found, and what contradicts its finding none."""
    differences = list(result.paper_setting_differences)
    if not result.paper_section:
        return differences
    said = " ".join(differences)
    published = _section_rows(result.paper_section, result.dataset)
    datasets = sorted({row.dataset for row in published})
    if result.dataset not in datasets and "dataset=" not in said:
        differences.append(f"dataset={result.dataset} (paper: {' or '.join(datasets)})")
    regimes = sorted({row.regime for row in published})
    if result.regime not in regimes and "regime=" not in said:
        differences.append(f"regime={result.regime} (paper: {' or '.join(regimes)})")
    for split in ("train", "test") if result.dataset in datasets else ():
        used = getattr(result, f"{split}_examples")
        available = getattr(result, f"{split}_examples_available")
        subset = used is not None and available is not None and used < available
        if subset and f"{split}_examples" not in said:
            differences.append(f"{split}_examples={used} (paper: {available})")
    return differences


def _section_rows(section: str, dataset: str) -> tuple[PaperRow, ...]:
    """The section's rows on the dataset, or on any where it has none there."""
    elsewhere = (row for name in BASELINE_ACCURACY_PERCENT for row in paper_rows(section, name))
    return paper_rows(section, dataset) or tuple(elsewhere)


def _paper_row(result: RoundResult) -> PaperRow | None:
    if result.regime == "dense":
        # Dense training asks for no sparsity: it has the one of the masks it started with, if any.
        level = result.sparsity or 0.0
    elif result.round == 0:
        return None
    else:
        level = result.target_sparsity if result.target_sparsity is not None else result.sparsity
    if level is None or level >= 1:
        return None
    return match_paper_row(result.paper_section, result.dataset, result.regime, level)


def _parent(run: Run) -> str | None:
    """The experiment that a run started from: `EXPERIMENT` of `EXPERIMENT[/round_KK]`."""
    if not run.rounds or not run.rounds[0].init_from:
        return None
    return re.sub(r"/round_\d+$", "", run.rounds[0].init_from)


def _baseline(run: Run, result: RoundResult, known: dict[str, Run]) -> tuple[str, float] | None:
    """Name and accuracy of the nearest dense ancestor measured on the same test images."""
    seen = set()
    ancestor: Run | None = run
    while ancestor is not None and ancestor.experiment not in seen:
        seen.add(ancestor.experiment)
        for other in ancestor.rounds:
            # A sparse transfer trains in the dense regime too, but its network is not dense.
            if (
                other.regime == "dense"
                and not other.sparsity
                and other.dataset == result.dataset
                and other.test_examples == result.test_examples
                and other.accuracy_percent is not None
            ):
                return ancestor.experiment, other.accuracy_percent
        ancestor = known.get(_parent(ancestor) or "")
    return None


def _order(row: ComparisonRow) -> tuple:
    result = row.result
    datasets = list(BASELINE_ACCURACY_PERCENT)
    is_paper_dataset = result.dataset in datasets
    is_baseline = result.regime == "dense" and not result.sparsity
    return (
        datasets.index(result.dataset) if is_paper_dataset else len(datasets),
        result.dataset,
        PAPER_SECTIONS.index(BASELINE_SECTION)
        if is_baseline
        else PAPER_SECTIONS.index(result.paper_section)
        if result.paper_section
        else len(PAPER_SECTIONS),
        REGIMES.index(result.regime),
        row.experiment,
        result.round,
    )
