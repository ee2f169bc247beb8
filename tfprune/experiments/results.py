"""`result.json`: what a round did, with everything needed to judge the figure."""

import platform
from importlib.metadata import version
from typing import Any

import keras

import tfprune
from tfprune import sparsity
from tfprune.data.datasets import Dataset
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.paper import paper_differences
from tfprune.training.callbacks import mean_data_wait_percent

# Copied as they are.
_FLAGS = (
    "experiment paper_section dataset regime schedule scope prune_layers layer_sparsity spare_ends score "
    "granularity block_size block_pooling_type sparsity_m_by_n regrowth drop_fraction pruning_engine seed "
    "model width stem image_size weights init_from autoaugment batch_size learning_rate head_learning_rate "
    "lr_schedule warmup_epochs lr_boundaries_epochs lr_factor weight_decay mixed_precision "
    "batchnorm_after_pruning distill_from distill_weight distill_temperature evaluate_every"
).split()


def make_result(
    config: ExperimentConfig,
    dataset: Dataset,
    start_result: dict[str, Any] | None,
    number: int,
    model: keras.Model,
    notes: dict[str, Any],
    history: list[dict[str, float]],
    accuracy: float,
) -> dict[str, Any]:
    """Returns the content of a round's `result.json`.

    Args:
        config: The experiment.
        dataset: Its data, as used.
        start_result: Result of the round that `--init_from` names, or None.
        number: The round.
        model: The network at its end.
        notes: target_sparsity, accuracy_before_percent, accuracy_after_pruning_percent.
        history: One row an epoch.
        accuracy: At the round's end, on the test split, in percent.
    """
    used = {"train": len(dataset.train), "test": len(dataset.test)}
    available = {"train": dataset.train.available, "test": dataset.test.available}
    differences = []
    if config.paper_section:
        differences = paper_differences(config, used, available, start_result)
    summary = sparsity.summarize(model)
    rates = [row["images_per_second"] for row in history]
    steps_per_epoch = -(-used["train"] // config.batch_size)
    return {
        **{name: getattr(config, name) for name in _FLAGS},
        "round": number,
        "rounds": config.last_round,
        "backend": keras.backend.backend(),
        **{f"{split}_examples": count for split, count in used.items()},
        **{f"{split}_examples_available": count for split, count in available.items()},
        "paper_setting": bool(config.paper_section) and not differences,
        "paper_setting_differences": differences,
        **notes,
        "sparsity": summary.sparsity if sparsity.pruned_layers(model) else 0.0,
        "sparsity_all_parameters": summary.sparsity_all_parameters,
        "accuracy_percent": accuracy,
        "layers": [
            {"layer": v.layer, "weights": v.parameters, "zeros": v.parameters - v.nonzeros}
            for v in summary.variables
            if v.pruned
        ],
        "epochs": len(history),
        "steps": len(history) * steps_per_epoch,
        "train_seconds": round(sum(row["train_seconds"] for row in history), 3),
        # Equal numbers of images an epoch: the mean over images is the harmonic mean over epochs.
        "images_per_second": round(len(rates) / sum(1 / r for r in rates), 1) if rates else None,
        "data_wait_percent": mean_data_wait_percent(history),
        "versions": _versions(config),
    }


def _versions(config: ExperimentConfig) -> dict[str, str]:
    packages = {"keras", "numpy", "tensorflow", keras.backend.backend()}
    if config.pruning_engine == "tfmot":
        packages |= {"tensorflow-model-optimization", "tf-keras"}
    return {
        "tfprune": tfprune.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in sorted(packages)},
    }
