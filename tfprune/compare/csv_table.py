"""A comparison as CSV, with every row and every column."""

import csv
import io
from collections.abc import Sequence

from tfprune.compare.layout import setting_text
from tfprune.compare.table import ComparisonRow


def to_csv(rows: Sequence[ComparisonRow]) -> str:
    """Every row, the starting round 0 too, and every column; empty where there is no value.

    Args:
        rows: From `tfprune.compare.table.compare`.

    Returns:
        CSV with a header line.
    """
    table = [_csv_row(row) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()


def _csv_row(row: ComparisonRow) -> dict[str, object]:
    result, paper = row.result, row.paper
    values = {
        "section": result.paper_section,
        "dataset": result.dataset,
        "experiment": row.experiment,
        "regime": result.regime,
        "round": result.round,
        "rounds": result.rounds,
        "in_paper_setting": row.in_paper_setting,
        "setting": setting_text(row),
        "sparsity_asked": result.target_sparsity,
        "sparsity_reached": result.sparsity,
        "sparsity_all_parameters": result.sparsity_all_parameters,
        "accuracy_before_percent": result.accuracy_before_percent,
        "accuracy_after_pruning_percent": result.accuracy_after_pruning_percent,
        "accuracy_percent": result.accuracy_percent,
        "baseline_experiment": row.baseline_experiment,
        "baseline_accuracy_percent": row.baseline_accuracy_percent,
        "drop_percent_points": _exact(row.drop_percent_points),
        "paper_sparsity": paper and paper.sparsity,
        "paper_sparsity_by_rule": paper and _exact(paper.sparsity_asked),
        "paper_accuracy_after_pruning_percent": paper and paper.accuracy_after_pruning_percent,
        "paper_after_pruning_is_chance": paper and paper.after_pruning_is_chance,
        "paper_accuracy_percent": paper and paper.accuracy_percent,
        "paper_baseline_accuracy_percent": paper and paper.baseline_accuracy_percent,
        "paper_drop_percent_points": row.paper_drop_percent_points,
        "difference_percent_points": _exact(row.difference_percent_points),
    }
    for name in _RAW:
        value = getattr(result, name)
        values[name] = ",".join(map(str, value)) if isinstance(value, tuple) else value
    versions = sorted((result.versions or {}).items())
    values["versions"] = " ".join(f"{name}={version}" for name, version in versions)
    return values


_RAW = (
    "init_from",
    "weights",
    "model",
    "width",
    "stem",
    "image_size",
    "train_examples",
    "train_examples_available",
    "test_examples",
    "test_examples_available",
    "autoaugment",
    "scope",
    "schedule",
    "layer_sparsity",
    "spare_ends",
    "score",
    "granularity",
    "block_size",
    "block_pooling_type",
    "sparsity_m_by_n",
    "regrowth",
    "pruning_engine",
    "epochs",
    "steps",
    "train_seconds",
    "images_per_second",
    "backend",
    "seed",
)


def _exact(value: float | None) -> float | None:
    """Without the last digits of a subtraction in binary, such as 1.7999999999999972."""
    return None if value is None else round(value, 9) + 0.0
