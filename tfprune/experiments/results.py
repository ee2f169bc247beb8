"""Makes the result of a round from what was trained."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import keras

import tfprune
from tfprune import sparsity
from tfprune.data.splits import Dataset
from tfprune.experiments.channels import parameters_of, widths_of
from tfprune.experiments.methods.registry import method_of
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.differences import paper_differences
from tfprune.runs.metric import Metric
from tfprune.runs.result import Channels, LayerZeros, NetworkSize, RoundResult, ancestry_of
from tfprune.training.callbacks import mean_data_wait_percent


def make_result(
    config: ExperimentConfig,
    dataset: Dataset,
    start_result: RoundResult | None,
    teacher_result: RoundResult | None,
    number: int,
    model: keras.Model,
    notes: dict[str, Any],
    history: list[dict[str, float]],
    metric: Metric,
    at_end: float,
    widths_before: Sequence[Channels],
    **measured: Any,
) -> RoundResult:
    """Returns the result of a round.

    Args:
        config: The experiment.
        dataset: Its data, as used.
        start_result: Result of the round that `--init_from` names, or None.
        teacher_result: Result of the round that `--distill_from` names, or None.
        number: The round.
        model: The network at its end.
        notes: target_sparsity, metric_before, metric_after_pruning; and what trained.
        history: One row an epoch.
        metric: By what the experiment is judged.
        at_end: Its value at the round's end, on the test split.
        widths_before: Those of the network that the round began with; none where no channel goes or went.
        **measured: Further fields of `RoundResult`: `network`, `whole`, `target_left`, `figures`,
            `device_count`, `hardware`, `seconds`.
    """
    used = {"train": len(dataset.train), "test": len(dataset.test)}
    available = {"train": dataset.train.available, "test": dataset.test.available}
    differences = ()
    if config.paper_section:
        differences = paper_differences(config, used, available, start_result)
    summary = sparsity.summarize(model)
    rates = [row["images_per_second"] for row in history]
    steps_per_epoch = -(-used["train"] // config.batch_size)
    return RoundResult(
        config=config,
        differences=differences,
        round=number,
        ancestry=ancestry_of(start_result, teacher_result),
        train_examples=used["train"],
        test_examples=used["test"],
        train_examples_available=available["train"],
        test_examples_available=available["test"],
        sparsity=summary.sparsity if sparsity.pruned_layers(model) else 0.0,
        sparsity_all_parameters=summary.sparsity_all_parameters,
        metric=metric,
        metric_at_end=at_end,
        layers=tuple(
            LayerZeros(v.layer, v.parameters, v.parameters - v.nonzeros)
            for v in summary.variables
            if v.pruned
        ),
        size=NetworkSize(parameters_of(model), summary.all_macs or None),
        channels=widths_of(model, widths_before) if widths_before or config.prune == "channels" else (),
        epochs=len(history),
        steps=len(history) * steps_per_epoch,
        train_seconds=round(sum(row["train_seconds"] for row in history), 3),
        # Equal numbers of images an epoch: the mean over images is the harmonic mean over epochs.
        images_per_second=round(len(rates) / sum(1 / r for r in rates), 1) if rates else None,
        data_wait_percent=mean_data_wait_percent(history),
        backend=keras.backend.backend(),
        versions=_versions(config),
        **RoundResult.measured_of(notes, notes, metric),
        **measured,
    )


def _versions(config: ExperimentConfig) -> dict[str, str]:
    packages = {"keras", "numpy", "tensorflow", keras.backend.backend(), *method_of(config).packages}
    return {
        "tfprune": tfprune.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in sorted(packages)},
    }
