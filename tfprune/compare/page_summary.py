"""The page's summary: a line a section of the paper, and whether iterative pruning beats one-shot pruning."""

from collections.abc import Sequence

from tfprune.compare.layout import dataset_title
from tfprune.compare.page_html import NOTHING, Head, code, count, escape, mean, number, table
from tfprune.compare.page_marks import is_baseline
from tfprune.compare.page_sections import gains
from tfprune.compare.page_text import describe_recipe, section_label, section_rows, section_title
from tfprune.compare.page_verdict import cell_of, cells_of, points_apart, verdict
from tfprune.compare.paper import BASELINE_SECTION, PAPER_ROWS
from tfprune.compare.seeds import Experiment, SeedRound, gain_over
from tfprune.compare.table import ComparisonRow

_DUELS = (
    # dataset, iterative section, one-shot section of the same sparsity
    ("cifar10", "4.3.3", "4.3.1"),
    ("cifar100", "4.3.5", "4.3.4"),
    ("cifar100", "4.3.6", "4.3.4"),
)


def summary_table(experiments: Sequence[Experiment], started: Sequence[tuple[str, str]]) -> str:
    """A line for each section of the paper, and one for each experiment outside it.

    Args:
        experiments: All of the page.
        started: Sections and datasets of which a run has begun but has no result yet.

    Returns:
        HTML; sections of a dataset that no run names are left out.
    """
    reproduction = any(e.in_paper_setting for e in experiments)
    heads = [Head("Section", kind="text"), Head("What", kind="text wide"), Head("ours", "Accuracy, %")]
    heads += [Head("paper", "Accuracy, %")] + [Head("difference", "Accuracy, %")] * reproduction
    drop = "Drop from own dense, points"
    heads += [Head("ours", drop), Head("paper", drop), Head("ours is", drop, "text")]
    heads += [Head("Rounds within<br>one point")]
    datasets = {e.dataset for e in experiments if e.section} | {dataset for _, dataset in started}
    rows, classes = [], []
    known = dict.fromkeys((row.section, row.dataset) for row in PAPER_ROWS)
    for section, dataset in known:
        own = [e for e in experiments if (e.section, e.dataset) == (section, dataset)]
        if dataset not in datasets:
            continue
        if section == BASELINE_SECTION:
            classes += ["part"] * bool(rows)
        for experiment in own:
            classes += [""] * (len(classes) == len(rows))
            rows.append(_line(experiment, len(own) > 1, reproduction))
        if not own:
            state = "no round finished yet" if (section, dataset) in started else "not run"
            classes += ["pending"] * (len(classes) == len(rows))
            rows.append(_empty_line(section, dataset, state, reproduction))
    outside = [e for e in experiments if (e.section, e.dataset) not in known]
    for index, experiment in enumerate(outside):
        classes.append("" if index or not rows else "part")
        rows.append(_line(experiment, True, reproduction))
    if not any(e.section for e in experiments) and not started:
        kept = [index for index, head in enumerate(heads) if head.title in ("What", "ours")]
        heads = [heads[index] for index in kept]
        rows = [[row[index] for index in kept] for row in rows]
    return table("", heads, rows, classes)


def _line(experiment: Experiment, named: bool, reproduction: bool) -> list[str]:
    section, level = experiment.section, experiment.last
    if section_rows(section, experiment.dataset):
        what = escape(section_title(section, experiment.dataset))
    else:
        what = (
            f"{escape(dataset_title(experiment.dataset))}, {escape(describe_recipe(experiment.first.result))}"
        )
    if named:
        what += f"<br>{code(experiment.name)}"
    if not experiment.finished:
        what += f'<br><span class="soft">{_progress(experiment)}</span>'
    if level is None:
        empty = [NOTHING] * (6 + reproduction)
        return [escape(section_label(section)) if section else NOTHING, what, *empty]
    paper = level.rows[0].paper
    cells = cells_of(experiment)
    dense = is_baseline(experiment.first.result)
    return [
        escape(section_label(section)) if section else NOTHING,
        what,
        f"<strong>{mean(level.spread(lambda row: row.result.accuracy_percent))}</strong>",
        number(paper.accuracy_percent if paper else None),
        *[mean(level.spread(lambda row: row.difference_percent_points), signed=True)] * reproduction,
        NOTHING if dense else mean(level.spread(lambda row: row.drop_percent_points)),
        NOTHING if dense else number(paper.drop_percent_points if paper else None),
        verdict(cell_of(experiment, level)),
        f"{sum(cell.within for cell in cells)} of {len(cells)}" if cells else NOTHING,
    ]


def _progress(experiment: Experiment) -> str:
    last, total, seeds = experiment.last, experiment.first.result.rounds, len(experiment.runs)
    parts = []
    if seeds > 1:
        parts.append(f"{sum(run.finished for run in experiment.runs)} of {seeds} seeds finished")
    if last is None:
        parts.append("no round finished yet")
    else:
        of = f" of {count(len(last.rows), 'seed')}" if seeds > 1 else ""
        after = f" after round {last.number} of {total}" if total and total > 1 else ""
        parts.append(f"figures{of}{after}")
    return "; ".join(parts)


def _empty_line(section: str, dataset: str, state: str, reproduction: bool) -> list[str]:
    paper = section_rows(section, dataset)[-1]
    dense = section == BASELINE_SECTION
    return [
        escape(section_label(section)),
        f"{escape(section_title(section, dataset))}<br>{state}",
        NOTHING,
        number(paper.accuracy_percent),
        *[NOTHING] * reproduction,
        NOTHING,
        NOTHING if dense else number(paper.drop_percent_points),
        NOTHING,
        NOTHING,
    ]


def findings(experiments: Sequence[Experiment]) -> str:
    """What the numbers say about the two questions of the study, as a list; empty without any answer."""
    items = []
    cells = [cell for experiment in experiments for cell in cells_of(experiment)]
    if cells:
        good = sum(cell.within for cell in cells)
        worst = max(cells, key=lambda cell: cell.excess.mean)
        text = (
            f"<strong>{good} of {count(len(cells), 'round')} within one point</strong>: the drop from the "
            "own dense network is at most one point worse than the paper’s"
        )
        if worst.excess.mean >= 0.05:
            where = f"{escape(worst.experiment.section)}, {code(worst.experiment.name)}"
            where += f", round {worst.level.number}" if worst.level.number else ""
            text += f". Farthest behind: {where}, by {points_apart(worst.excess.mean)} points"
        items.append(_item(good == len(cells), f"{text}."))
    for dataset, iterative, one_shot in _DUELS:
        items += _duels(experiments, dataset, iterative, one_shot)
    items += [_item(None, text) for text in gains(experiments)]
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""


def _item(good: bool | None, text: str) -> str:
    sign, kind = {True: ("✓", "good"), False: ("✗", "bad"), None: ("•", "none")}[good]
    return f'<li><span class="sign {kind}">{sign}</span>{text}</li>'


def _duels(experiments: Sequence[Experiment], dataset: str, iterative: str, one_shot: str) -> list[str]:
    """Iterative against one-shot at the same sparsity, for pairs of the same recipe."""
    ours = [e for e in experiments if (e.dataset, e.section) == (dataset, iterative)]
    others = [e for e in experiments if (e.dataset, e.section) == (dataset, one_shot)]
    papers = section_rows(iterative, dataset)[-1], section_rows(one_shot, dataset)[-1]
    title = f"{dataset_title(dataset)} at {papers[0].sparsity:g}"
    paper = (
        f"the paper: {papers[0].accuracy_percent:g} against {papers[1].accuracy_percent:g}, "
        f"{number(papers[0].accuracy_percent - papers[1].accuracy_percent, signed=True)}"
    )
    items = []
    for challenger in ours:
        for reference in others:
            if challenger.first.result.scope != reference.first.result.scope:
                continue
            names = ""
            if len(ours) > 1 or len(others) > 1:
                names = f" ({code(challenger.name)} against {code(reference.name)})"
            items.append(
                _duel(challenger, reference, f"{title}, {iterative} against {one_shot}{names}", paper)
            )
    if (ours or others) and not items:
        missing = iterative if not ours else one_shot
        items.append(
            _item(None, f"{title}, {iterative} against {one_shot}: {missing} has no result yet ({paper}).")
        )
    return items


def _duel(challenger: Experiment, reference: Experiment, title: str, paper: str) -> str:
    last, other = _final(challenger), _final(reference)
    if last is None or other is None:
        return _item(None, f"{title}: not finished ({paper}).")
    scores = [last.spread(_accuracy), other.spread(_accuracy)]
    if None in scores or _level(last) != _level(other):
        return _item(None, f"{title}: their sparsities are not equal, so they do not compare ({paper}).")
    gain = gain_over(last, other)
    times = ""
    if gain.count > 1:
        theirs = {row.result.seed: _accuracy(row) for row in other.rows}
        pairs = [(_accuracy(row), theirs.get(row.result.seed)) for row in last.rows]
        wins = sum(None not in pair and pair[0] > pair[1] for pair in pairs)
        times = f", above in {wins} of {gain.count} seeds"
    above = "Iterative is above one-shot" if gain.mean > 0 else "Iterative is not above one-shot"
    return _item(
        gain.mean > 0,
        f"<strong>{above}</strong>, {title}: {mean(scores[0])} against {mean(scores[1])}, "
        f"{mean(gain, signed=True)} points{times} ({paper}).",
    )


def _final(experiment: Experiment) -> SeedRound | None:
    """The last round if a seed has finished it, which an iterative run announces."""
    last, total = experiment.last, experiment.first.result.rounds
    if last is None or (
        total is not None and experiment.first.result.regime != "dense" and last.number < total
    ):
        return None
    return last


def _accuracy(row: ComparisonRow) -> float | None:
    return row.result.accuracy_percent


def _level(level: SeedRound) -> float | None:
    return None if level.target_sparsity is None else round(level.target_sparsity, 4)
