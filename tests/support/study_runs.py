"""Configs and canned run folders of a small study, for its tests."""

import json

from tfprune.files import write_json
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder

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
SPEED = {name: FLAGS[name] for name in ("model", "width", "stem", "image_size", "batch_size")}


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


def finish(config, number, **result):
    """Writes a round as it is when it is finished, without its network."""
    run = RunFolder(config.folder)
    run.make(config)
    run.claim(config)
    folder = run.round(number)
    folder.path.mkdir(exist_ok=True)
    trained = number > 0 or config.regime == "dense"
    epochs = config.settings(number).epochs if trained else 0
    canned = {
        **SPEED,
        "mixed_precision": "none",
        "pruning_engine": "tfprune",
        "backend": "tensorflow",
        "hardware": HARDWARE,
        "dataset": config.dataset,
        "round": number,
        "epochs": epochs,
        "train_examples": config.train_examples,
        "train_seconds": epochs * 2.0,
        "accuracy_percent": 50.0 + number,
        **result,
    }
    folder.write_result(canned)


def interrupt(config, number, epochs):
    """Writes a round as it is when it was interrupted after some epochs."""
    run = RunFolder(config.folder)
    run.make(config)
    run.claim(config)
    path = run.round(number).path
    path.mkdir(exist_ok=True)
    history = [{"epoch": epoch + 1} for epoch in range(epochs)]
    state = {"model": "checkpoint.keras", "epochs_done": epochs, "history": history, "notes": {}}
    write_json(path / "checkpoint.json", state)


def result_of(config, number):
    return json.loads((config.folder / f"round_{number:02d}" / "result.json").read_text())
