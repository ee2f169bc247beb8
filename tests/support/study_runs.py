"""Configs and canned run folders of a small study, for its tests."""

import dataclasses

from tests.support.run_folders import NETWORK, round_result
from tfprune.files import write_json
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder
from tfprune.runs.result import RoundResult

FLAGS = {
    "dataset": "digits",
    "train_examples": 100,
    "image_size": 8,
    "autoaugment": "none",
    "model": "resnet18",
    "width": 4,
    "stem": "cifar",
    "weights": "none",
    "batch_size": 50,
}
HARDWARE = {"processor": "P", "devices": ["cpu"]}


def configs(output_dir="saved_models"):
    """base <- one_shot <- iterative (3 rounds) <- transfer from its second round; and other."""

    def config(name, **flags):
        return ExperimentConfig(experiment=name, output_dir=str(output_dir), **FLAGS, **flags)

    pruned = {"schedule": "geometric", "regime": "iterative", "rounds": 3, "epochs": (4, 5, 6)}
    experiments = [
        config("base", epochs=(10,), paper_section="baseline"),
        config("one_shot", init_from="base", regime="one_shot", target_sparsity=0.5, epochs=(8,)),
        config("iterative", init_from="one_shot", target_sparsity=0.9, **pruned),
        config("transfer", init_from="iterative/round_02", epochs=(2,)),
        config("other", epochs=(3,)),
    ]
    return {config.experiment: config for config in experiments}


def finish(config, number, **values):
    """Writes a round as it is when it is finished, its network made up.

    `values` are measured ones, and settings of the result that are not those of the run.
    """
    run = RunFolder(config.folder)
    run.make(config)
    run.claim(config)
    folder = run.round(number)
    folder.path.mkdir(exist_ok=True)
    measured = {name: value for name, value in values.items() if name in RoundResult.__dataclass_fields__}
    settings = {name: value for name, value in values.items() if name not in measured}
    config = dataclasses.replace(config, **settings)
    folder.model_path.write_bytes(NETWORK)
    folder.write_result(round_result(config, number, **{"hardware": HARDWARE, **measured}))


def interrupt(config, number, epochs):
    """Writes a round as it is when it was interrupted after some epochs."""
    run = RunFolder(config.folder)
    run.make(config)
    run.claim(config)
    path = run.round(number).path
    path.mkdir(exist_ok=True)
    figures = {"train_seconds": 1.0, "images_per_second": 1.0, "val_accuracy": 0.5}
    history = [{"epoch": epoch + 1, **figures} for epoch in range(epochs)]
    notes = {
        "metric_before": 50.0,
        "target_sparsity": 0.0,
        "metric_after_pruning": None,
    }
    model = f"checkpoint_{epochs:04d}.keras"
    state = {"model": model, "epochs_done": epochs, "history": history, "notes": notes}
    write_json(path / "checkpoint.json", state)


def result_of(config, number):
    return RunFolder(config.folder).round(number).read_result()
