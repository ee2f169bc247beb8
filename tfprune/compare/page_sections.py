"""The page's sections of the paper: the experiments of each, and those outside the paper beside it."""

from collections.abc import Sequence

from tfprune.compare.artifacts import flag_value, read_flags
from tfprune.compare.layout import describe_setting
from tfprune.compare.page_html import Head, code, escape, mean, paragraph, table
from tfprune.compare.page_tables import each_seed, experiment_table, round_title, table_columns
from tfprune.compare.page_text import describe_recipe, section_label, section_rows, section_title
from tfprune.compare.paper import PAPER_ROWS
from tfprune.compare.seeds import Experiment, SeedRound, Spread, gain_over


def section_tables(
    experiments: Sequence[Experiment], started: Sequence[tuple[str, str]], common: Sequence[str]
) -> str:
    """The tables of all sections in the paper's order, each with the experiments comparable to it.

    Args:
        experiments: All of the page.
        started: Sections and datasets of which a run has begun but has no result yet.
        common: Differences from the paper's setting that all share, which are not repeated.

    Returns:
        HTML.
    """
    beside = comparable_sections(experiments)
    parts = []
    for section, dataset in dict.fromkeys((row.section, row.dataset) for row in PAPER_ROWS):
        own = [e for e in experiments if (e.section, e.dataset) == (section, dataset)]
        others = [e for e in experiments if beside.get(e.name) == (section, dataset)]
        if not own and not others:
            if (section, dataset) in started:
                parts.append(_heading(section, dataset) + paragraph("No round has finished yet.", "note"))
            continue
        parts.append(_heading(section, dataset))
        parts += [experiment_table(experiment, common) for experiment in own]
        if others:
            parts.append(beside_table(others, own))
    # Other datasets' section runs (a section on the wrong dataset) and runs that nothing compares to.
    known = {(row.section, row.dataset) for row in PAPER_ROWS}
    lost = [e for e in experiments if e.section and (e.section, e.dataset) not in known]
    rest = [e for e in experiments if not e.section and e.name not in beside] + lost
    if rest:
        parts.append("<h3>Runs without a counterpart in the paper</h3>")
        parts += [experiment_table(experiment, common) for experiment in rest]
    return "".join(parts)


def _heading(section: str, dataset: str) -> str:
    title = escape(section_title(section, dataset))
    return f"<h3>{escape(section_label(section))}&ensp;{title}</h3>"


def comparable_sections(experiments: Sequence[Experiment]) -> dict[str, tuple[str, str]]:
    """The section of the same dataset and final level for experiments outside the paper, by name.

    Among several sections, one of the same regime comes first, then a one-shot one.
    """
    present = {(e.section, e.dataset) for e in experiments if e.section}
    found = {}
    for experiment in experiments:
        level = _final_level(experiment)
        if experiment.section or not level or level >= 1:
            continue
        regime = experiment.first.result.regime
        candidates = []
        for section, dataset in present:
            rows = section_rows(section, dataset)
            if not rows or dataset != experiment.dataset or rows[-1].regime == "dense":
                continue
            if abs(rows[-1].sparsity_asked - level) <= 0.1 * (1 - level):
                order = (rows[-1].regime != regime, rows[-1].regime != "one_shot", section)
                candidates.append((order, (section, dataset)))
        if candidates:
            found[experiment.name] = min(candidates)[1]
    return found


def _final_level(experiment: Experiment) -> float | None:
    """The sparsity that the flags ask for in the end, else the last round's."""
    try:
        return float(flag_value(read_flags(experiment.runs[0]), "target_sparsity") or "")
    except ValueError:
        return experiment.last.target_sparsity if experiment.last else None


def beside_table(others: Sequence[Experiment], section: Sequence[Experiment]) -> str:
    """Experiments outside the paper at the section's level, and how far above the section's own they end."""
    columns = table_columns(others, of_paper=False)
    heads = [column.head for column in columns]
    if section:
        heads.append(Head("against<br>the section’s", kind=""))
    rows, classes = [], []
    for experiment in others:
        recipe = escape(describe_recipe(experiment.first.result))
        levels = experiment.rounds
        label = f"{code(experiment.name)}"
        for level in levels:
            cells = [column.cell(experiment, level, None) for column in columns]
            if section:
                gain = _gain(experiment, _reference(experiment, section))
                cells.append(mean(gain if level is levels[-1] else None, signed=True))
            cells[0] = f'{label}<br><span class="soft">{recipe}</span>' if level is levels[0] else ""
            if len(levels) > 1:
                cells[0] += f"{'<br>' if cells[0] else ''}round {round_title(experiment, level)}"
            rows.append(cells)
            classes.append("" if level.rows else "pending")
    heads[0] = Head("Experiment", kind="text name")
    amount = "One experiment" if len(others) == 1 else f"{len(others)} experiments"
    caption = f"{amount} outside the paper at the same sparsity"
    parts = [table(caption, heads, rows, classes)]
    several = [e for e in others if len(e.runs) > 1]
    if several:
        parts.append(each_seed(several))
    return "".join(parts)


def _reference(experiment: Experiment, section: Sequence[Experiment]) -> Experiment | None:
    """The section's experiment on the same network and data, of the same scope if there is one."""
    result = experiment.first.result
    same = [e for e in section if describe_setting(e.first.result) == describe_setting(result)]
    same.sort(key=lambda e: e.first.result.scope != result.scope)
    return same[0] if same else None


def _gain(experiment: Experiment, reference: Experiment | None) -> Spread | None:
    """How far an experiment ends above the section's, where both have reached the same sparsity."""
    ours, theirs = experiment.last, reference and reference.last
    if not ours or not theirs or not _equal_level(ours, theirs):
        return None
    return gain_over(ours, theirs)


def _equal_level(ours: SeedRound, theirs: SeedRound) -> bool:
    levels = ours.target_sparsity, theirs.target_sparsity
    return None not in levels and abs(levels[0] - levels[1]) <= 0.1 * (1 - levels[1])


def gains(experiments: Sequence[Experiment]) -> list[str]:
    """HTML of a sentence for each section with experiments outside the paper beside it."""
    beside = comparable_sections(experiments)
    sentences = []
    for section, dataset in dict.fromkeys((row.section, row.dataset) for row in PAPER_ROWS):
        own = [e for e in experiments if (e.section, e.dataset) == (section, dataset)]
        others = [e for e in experiments if beside.get(e.name) == (section, dataset)]
        found = [(e, _gain(e, _reference(e, own))) for e in others]
        found = sorted(((e, gain) for e, gain in found if gain), key=lambda pair: -pair[1].mean)
        if found:
            listing = ", ".join(f"{code(e.name)} {mean(gain, signed=True)}" for e, gain in found)
            title = escape(section_title(section, dataset))
            sentences.append(f"Beyond the paper, against {section} ({title}), in points: {listing}.")
    return sentences
