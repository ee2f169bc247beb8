"""The page's tables of the runs themselves: sizes, latencies, hardware, speed, versions and flags."""

from collections.abc import Callable, Sequence

from tfprune.compare import svg
from tfprune.compare.artifacts import (
    read_export,
    read_flags,
    read_history,
    read_latencies,
    read_machine,
)
from tfprune.compare.page_html import (
    NOTHING,
    Head,
    code,
    details,
    escape,
    number,
    paragraph,
    size,
    table,
)
from tfprune.compare.page_layers import plot_curves, plot_latencies
from tfprune.compare.page_marks import Mark
from tfprune.compare.results import RoundResult, Run
from tfprune.compare.seeds import Experiment
from tfprune.text import duration

_NOT_RECORDED = '<span class="none">not recorded</span>'


def sizes_section(runs: Sequence[Run]) -> str:
    """Bytes of each exported file as stored and compressed, a table a run; empty without an export."""
    exports = {run.experiment: read_export(run) for run in runs}
    exports = {name: artifacts for name, artifacts in exports.items() if artifacts}
    if not exports:
        return ""
    largest = max(artifact.raw_bytes for own in exports.values() for artifact in own)
    heads = [Head("File", kind="text"), Head("weights", kind="text"), Head("as stored"), Head("gzip")]
    heads += [Head("", kind="text"), Head("same class<br>as the network")]
    parts = [
        paragraph(
            "Sizes in units of 1,000 bytes. The light bar is the file as stored, the dark one after gzip, "
            "both on one scale throughout. The last column is the share of test images on which the file "
            "predicts the network’s class.",
            "note",
        )
    ]
    for name, artifacts in exports.items():
        rows = []
        for artifact in artifacts:
            scale = 180 / largest
            bars = svg.rectangle(0, 0, artifact.raw_bytes * scale, 12, "bar back")
            bars += svg.rectangle(0, 3, (artifact.gzip_bytes or 0) * scale, 6, "bar")
            equal = artifact.equal_predictions_percent
            rows.append(
                [
                    code(artifact.name),
                    escape(artifact.weights) or NOTHING,
                    size(artifact.raw_bytes),
                    size(artifact.gzip_bytes),
                    f'<svg viewBox="0 0 180 12" aria-hidden="true">{bars}</svg>',
                    NOTHING if equal is None else f"{number(equal)} %",
                ]
            )
        parts.append(f'<div class="sizes">{table(code(name), heads, rows)}</div>')
    return "".join(parts)


def latencies_section(runs: Sequence[Run]) -> str:
    """Latencies of the exported files, pictures a run and a table; empty where nothing was benchmarked."""
    parts = []
    heads = [
        Head("Runtime", kind="text"),
        Head("threads"),
        Head("batch"),
        Head("median, ms"),
        Head("quartiles, ms"),
    ]
    heads.append(Head("times as fast as<br>the fastest dense"))
    for run in runs:
        latencies = read_latencies(run)
        if not latencies:
            continue
        rows = [
            [
                escape(row.contender),
                str(row.threads),
                str(row.batch_size),
                f"{row.median_ms:.3g}",
                f"{row.lower_ms:.3g} to {row.upper_ms:.3g}",
                number(row.times_fastest_dense, 2),
            ]
            for row in latencies
        ]
        machine = read_machine(run)
        parts.append(f"<h4>{code(run.experiment)}</h4>")
        parts.append(paragraph(escape(machine) if machine else "The machine was not recorded.", "note"))
        parts.append(f'<div class="figures small">{"".join(plot_latencies(latencies, run.experiment))}</div>')
        parts.append(details("All latencies", table("", heads, rows)))
    return "".join(parts)


def curves_section(experiments: Sequence[Experiment], marks: dict[str, Mark]) -> str:
    """Training curves of every experiment; empty where no epochs were recorded."""
    figures = []
    for experiment in experiments:
        histories = [[read_history(run, result.round) for result in run.rounds] for run in experiment.runs]
        figures.append(plot_curves(experiment, histories, marks[experiment.name]))
    figures = [figure for figure in figures if figure]
    if not figures:
        return ""
    note = paragraph(
        "Accuracy in percent above, loss below, over the epochs of all rounds. Solid: training images, as "
        "augmented; dotted, or circles: test images. Dashed uprights part the rounds; each seed has its own "
        "line.",
        "note",
    )
    what = "experiment" if len(figures) == 1 else "experiments"
    return details(
        f"Training curves of {len(figures)} {what}",
        f'{note}<div class="figures small">{"".join(figures)}</div>',
    )


def runs_section(runs: Sequence[Run]) -> str:
    """A line a run: time, speed, hardware; then versions, and each one's flags."""
    heads = [Head("Run", kind="text"), Head("seed"), Head("rounds<br>finished"), Head("training")]
    heads += [Head("images/s"), Head("wait for<br>data"), Head("backend", kind="text")]
    heads += [Head("precision", kind="text"), Head("hardware", kind="text wide")]
    rows = [_run_line(run) for run in runs]
    note = paragraph(
        "Training is the time of the epochs, images per second their mean; wait for data is the share of it "
        "in which a step waited for its images.",
        "note",
    )
    return table("", heads, rows) + note + _versions(runs) + _flags(runs)


def _run_line(run: Run) -> list[str]:
    if not run.rounds:
        return [code(run.experiment), *[NOTHING] * 8]
    trained = [result for result in run.rounds if result.epochs]
    done = len(run.rounds)
    total = done + len(run.unfinished_rounds)
    if run.rounds[0].regime != "dense":
        # Round 0 of a pruning run only evaluates what it starts from.
        start = run.rounds[0].round == 0
        done, total = done - start, total - 1
    last = run.rounds[-1]
    seconds = [result.train_seconds for result in trained if result.train_seconds is not None]
    return [
        code(run.experiment),
        _NOT_RECORDED if last.seed is None else str(last.seed),
        f"{done} of {total}",
        duration(sum(seconds)) if seconds else NOTHING,
        _weighted(trained, lambda result: result.images_per_second, 0),
        _weighted(trained, lambda result: result.data_wait_percent, 1, " %"),
        escape(last.backend) if last.backend else _NOT_RECORDED,
        _precision(last.mixed_precision),
        hardware_in_words(last) or _NOT_RECORDED,
    ]


def _precision(mixed: str | None) -> str:
    if mixed is None:
        return _NOT_RECORDED
    return "float32" if mixed == "none" else f"mixed {escape(mixed)}"


def _weighted(
    results: Sequence[RoundResult],
    value: Callable[[RoundResult], float | None],
    decimals: int,
    unit: str = "",
) -> str:
    """The mean over rounds, each counted as long as it trained."""
    known = [(value(result), result.train_seconds or 0) for result in results if value(result) is not None]
    weight = sum(seconds for _, seconds in known)
    if not known or not weight:
        return _NOT_RECORDED if results else NOTHING
    return f"{sum(amount * seconds for amount, seconds in known) / weight:,.{decimals}f}{unit}"


def hardware_in_words(result: RoundResult) -> str:
    """HTML of `A processor, 2 cores, 24 GiB; cpu`; empty if it was not recorded."""
    hardware = result.hardware or {}
    facts = [str(hardware["processor"])] if hardware.get("processor") else []
    if hardware.get("cores"):
        facts.append(f"{hardware['cores']} cores")
    if isinstance(hardware.get("memory_gib"), (int, float)):
        facts.append(f"{hardware['memory_gib']:.0f} GiB")
    text = ", ".join(facts)
    devices = hardware.get("devices")
    names = [str(name) for name in devices] if isinstance(devices, list) else []
    if names and names != ["cpu"]:
        text += f"{'; ' if text else ''}{', '.join(dict.fromkeys(names))}"
    if result.device_count and result.device_count > 1:
        text += f"{', ' if text else ''}batches shared by {result.device_count} devices"
    return escape(text)


def _versions(runs: Sequence[Run]) -> str:
    groups: dict[str, list[str]] = {}
    for run in runs:
        for result in run.rounds:
            versions = ", ".join(f"{name} {version}" for name, version in (result.versions or {}).items())
            names = groups.setdefault(versions or "not recorded", [])
            if run.experiment not in names:
                names.append(run.experiment)
    if len(groups) < 2:
        return "".join(paragraph(f"Versions: {escape(text)}.", "note") for text in groups)
    items = "".join(
        f"<li>{escape(text)}: {', '.join(map(code, names))}</li>" for text, names in groups.items()
    )
    return f'{paragraph("Versions:", "note")}<ul class="notes note">{items}</ul>'


def _flags(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        flags = read_flags(run)
        body = _NOT_RECORDED if flags is None else f"<pre>{escape(flags.strip())}</pre>"
        parts.append(details(f"Flags of {code(run.experiment)}", f"<div>{body}</div>"))
    return f'<div class="flags">{"".join(parts)}</div>'
