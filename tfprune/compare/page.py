"""Writes `index.html`: a study on one self-contained page."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from tfprune.compare.artifacts import flag_value, read_flags
from tfprune.compare.layout import dataset_title
from tfprune.compare.page_html import count, escape, in_words, paragraph
from tfprune.compare.page_layers import plot_layers
from tfprune.compare.page_marks import legend, make_marks
from tfprune.compare.page_plots import plot_accuracy, plot_steps
from tfprune.compare.page_runs import curves_section, latencies_section, runs_section, sizes_section
from tfprune.compare.page_sections import section_tables
from tfprune.compare.page_style import STYLE
from tfprune.compare.page_summary import findings, summary_table
from tfprune.compare.page_text import common_differences, statement
from tfprune.compare.paper import BASELINE_ACCURACY_PERCENT
from tfprune.compare.results import Run, list_experiments, read_runs
from tfprune.compare.seeds import Experiment, add_dense_peers, group_seeds
from tfprune.compare.table import compare, read_ancestors
from tfprune.errors import UserError
from tfprune.files import write_text
from tfprune.text import duration

_WHAT = (
    "Networks pruned by <strong>tfprune</strong>. “The paper” is “Pruning of neural networks for computer "
    "vision tasks”, a course paper of Moscow State University, 2024, whose experiments these may mirror."
)

STATES = ("finished", "running", "waiting", "failed")

Status = Sequence[tuple[str, str, str]]


def write_page(
    output_dir: str | Path,
    experiments: Sequence[str] | None = None,
    *,
    refresh_seconds: int | None = None,
    status: Status | None = None,
) -> Path:
    """Writes `<output_dir>/index.html`, a page without any reference to another file.

    Args:
        output_dir: Where the run folders are and the page goes.
        experiments: Names of run folders; `None` or empty for all of them.
        refresh_seconds: The page reloads itself so often, for a study that is running.
        status: Progress of a study, shown at the top: rows of (label, state, text), the state one of
            `STATES`. With it the page is written even before any round has finished, and `experiments`
            may name folders that are not there yet.

    Returns:
        The page's path.

    Raises:
        UserError: Without `status`, if there is nothing to compare; if an experiment is unknown, a file
            of a run folder is not valid, or the page cannot be written.
        ValueError: If a state is unknown or `refresh_seconds` is less than 1.
    """
    if refresh_seconds is not None and refresh_seconds < 1:
        raise ValueError(f"`refresh_seconds` must be at least 1. Received: refresh_seconds={refresh_seconds}")
    for label, state, _ in status or ():
        if state not in STATES:
            raise ValueError(
                f"`status` must have states out of {', '.join(STATES)}. Received: {label!r} with "
                f"state={state!r}"
            )
    output_dir = Path(output_dir).expanduser()
    runs = _runs(output_dir, experiments, lenient=status is not None)
    rows = compare(runs, read_ancestors(output_dir, runs)) if runs else []
    if not rows and status is None:
        names = ", ".join(run.experiment for run in runs)
        raise UserError(f"--output_dir={output_dir}: no round has finished yet of {names}.")
    page = _page(group_seeds(add_dense_peers(rows), runs), runs, refresh_seconds, status)
    path = output_dir / "index.html"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _runs(output_dir: Path, experiments: Sequence[str] | None, lenient: bool) -> list[Run]:
    if lenient:
        present = list_experiments(output_dir) if output_dir.exists() else []
        experiments = [name for name in experiments or present if name in present]
        if not experiments:
            return []
    return read_runs(output_dir, experiments)


def _page(
    experiments: Sequence[Experiment], runs: Sequence[Run], refresh_seconds: int | None, status: Status | None
) -> str:
    sections = _sections(experiments, runs) if experiments else []
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = [_header(experiments, runs)]
    if status is not None:
        body.append(_status(status, refresh_seconds))
    if experiments:
        body.append(statement(experiments))
    if links:
        body.append(f"<nav>{links}</nav>")
    body += [f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in sections]
    refresh = f'<meta http-equiv="refresh" content="{refresh_seconds}">' if refresh_seconds else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}'
        f"<title>{escape(_title(experiments))}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _title(experiments: Sequence[Experiment]) -> str:
    names = _datasets(experiments)
    return f"Pruning on {names}" if names else "Pruning study"


def _datasets(experiments: Sequence[Experiment]) -> str:
    return in_words(list(dict.fromkeys(dataset_title(e.dataset) for e in experiments)))


def _header(experiments: Sequence[Experiment], runs: Sequence[Run]) -> str:
    made = datetime.datetime.now(datetime.UTC)
    seeds = sorted({seed for e in experiments for seed in e.seeds})
    facts = [f"Made {made:%Y-%m-%d %H:%M} UTC"]
    if experiments:
        facts.append(count(len(experiments), "experiment"))
        finished = sum(not row.is_start for e in experiments for row in e.rows)
        total = sum(len(e.rounds) * len(e.runs) for e in experiments)
        rounds = count(total, "round")
        facts.append(rounds if finished == total else f"{finished} of {rounds} finished")
        if seeds:
            facts.append(f"{count(len(seeds), 'seed')} ({', '.join(map(str, seeds))})")
        seconds = [result.train_seconds or 0 for run in runs for result in run.rounds]
        if sum(seconds):
            facts.append(f"{duration(sum(seconds))} of training")
    items = "".join(f"<li>{fact}</li>" for fact in facts)
    title = f"<h1>{escape(_title(experiments))}</h1>"
    return f'<header>{title}<ul class="facts">{items}</ul>{paragraph(_WHAT)}</header>'


def _status(status: Status, refresh_seconds: int | None) -> str:
    states = [state for _, state, _ in status]
    counts = [f"{states.count(state)} {state}" for state in STATES if states.count(state)]
    bar = "".join(f'<i class="{state}"></i>' for state in states)
    items = "".join(
        f'<li class="{state}"><span>{escape(label)}</span><span class="state">{state}</span>'
        + (f'<span class="text">{escape(text)}</span>' if text else "")
        + "</li>"
        for label, state, text in status
    )
    reload = ""
    if refresh_seconds:
        reload = paragraph(f"This page reloads itself every {count(refresh_seconds, 'second')}.", "note")
    return (
        f'<div class="status"><h2>Progress: {in_words(counts) or "nothing planned"}</h2>'
        f'<div class="progress" aria-hidden="true">{bar}</div><ul class="states">{items}</ul>{reload}</div>'
    )


def _sections(experiments: Sequence[Experiment], runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """(anchor, title, HTML) of the parts that there is something to show in."""
    marks = make_marks(experiments)
    started = _started(runs)
    other = [e for e in experiments if e.section and not e.in_paper_setting]
    common = list(common_differences(other))
    steps = plot_steps(experiments, marks)
    layers = plot_layers(experiments, marks)
    of_paper = any(e.section for e in experiments) or bool(started)
    note = _summary_note(of_paper, any(len(e.runs) > 1 for e in experiments))
    steps_note = _STEPS_NOTE + (" The paper’s course is grey." if of_paper else "")
    parts = [
        ("summary", "Summary", findings(experiments) + summary_table(experiments, started) + note),
        ("accuracy", "Accuracy over sparsity", _accuracy(experiments, marks)),
        ("steps", "What each pruning step does", _figures(steps_note, steps, "small")),
        (
            "rounds",
            "Every round",
            (_ROUNDS_NOTE if of_paper else "") + section_tables(experiments, started, common),
        ),
        ("layers", "Sparsity of each layer", _figures(_LAYERS_NOTE, layers)),
        ("training", "Training", curves_section(experiments, marks)),
        ("sizes", "Sizes", sizes_section(runs)),
        ("latencies", "Latencies", latencies_section(runs)),
        ("runs", "Runs", runs_section(runs)),
    ]
    return [part for part in parts if part[2]]


_STEPS_NOTE = (
    "Accuracy on the test images through the rounds: right after pruning (hollow) and after fine-tuning "
    "(filled), labelled with the sparsity."
)
_ROUNDS_NOTE = paragraph(
    "Experiments outside the paper stand below the section of the same dataset and sparsity; “against the "
    "section’s” is how far they end above its experiment on the same network and data, in percentage points, "
    "over equal seeds. The sparse transfer’s drop is from the dense network of its own dataset.",
    "note",
)
_LAYERS_NOTE = (
    "Share of weights left after the last finished round, on a logarithmic scale. Experiments of one dataset "
    "and sparsity stand in one picture. Hollow marks are the 1×1 shortcuts."
)


def _summary_note(of_paper: bool, seeds: bool) -> str:
    text = (
        "Accuracies are top-1 on the test images after the last epoch, of the last round where there are "
        "several. A drop is how far an accuracy lies below that of the dense network from which the run "
        "descends"
    )
    if of_paper:
        text += (
            ", the paper’s below the paper’s; “ours is” compares the two drops, ✓ where ours is at most "
            "one point worse. The paper’s accuracies are rounded to half points"
        )
    text += ". Sparsity is that of the pruned kernels."
    if seeds:
        text += (
            " Where an experiment has several seeds, figures are their mean ± sample standard deviation, "
            "and differences are taken within seeds."
        )
    return paragraph(text, "note")


def _accuracy(experiments: Sequence[Experiment], marks: dict) -> str:
    parts = []
    for dataset in dict.fromkeys(e.dataset for e in experiments):
        own = [e for e in experiments if e.dataset == dataset and e.last is not None]
        drawn = plot_accuracy(dataset, own, marks)
        if drawn:
            listing = legend(own, marks, paper=dataset in BASELINE_ACCURACY_PERCENT)
            parts.append(f'<div class="figures">{drawn}</div>{listing}')
    note = "The scale of the sparsity is the logarithm of the share of weights left."
    if any(len(e.runs) > 1 for e in experiments):
        note += " Bars are the spread over seeds."
    return paragraph(note, "note") + "".join(parts) if parts else ""


def _figures(note: str, figures: Sequence[str], kind: str = "") -> str:
    if not figures:
        return ""
    names = f"figures {kind}".strip()
    return f'{paragraph(note, "note")}<div class="{names}">{"".join(figures)}</div>'


def _started(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Section and dataset of the runs that have begun but have no result yet, from their flags."""
    started = []
    for run in runs:
        if not run.rounds:
            flags = read_flags(run)
            section, dataset = flag_value(flags, "paper_section"), flag_value(flags, "dataset")
            if section and dataset:
                started.append((section, dataset))
    return started
