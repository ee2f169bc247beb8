"""Run folders with given figures, written by the code that writes real ones; nothing is trained."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from tfprune.files import Digest
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.differences import paper_differences
from tfprune.runs.folder import RunFolder
from tfprune.runs.metric import ACCURACY
from tfprune.runs.paper import STUDY
from tfprune.runs.result import RoundResult, ancestry_of
from tfprune.settings import settings_of

# Images of the train and the test split.
AVAILABLE = {"cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "digits": (1_437, 360)}

# In the place of a network, which no reader of results loads.
NETWORK = b"a network"

# What a study on two cores trains with, instead of the paper's defaults.
SMALL_CIFAR = {"width": 16, "stem": "cifar", "image_size": 32, "train_examples": 10_000}


def study_settings(section: str, dataset: str) -> dict[str, Any]:
    """Returns the settings of a section of the paper; a run with them is faithful but for its start."""
    experiment = next(one for one in STUDY if (one.section, one.dataset) == (section, dataset))
    return {"paper_section": section, "dataset": dataset, **experiment.expected}


def write_round(config: ExperimentConfig, number: int, **measured: Any) -> Path:
    """Writes the result of a round, makes its run folder if need be, and returns the result's path.

    Args:
        config: The experiment.
        number: The round.
        **measured: Fields of `RoundResult`; what is left out is made up.
    """
    run = RunFolder(config.folder)
    run.make(config)
    run.claim(config)
    folder = run.round(number)
    folder.path.mkdir(exist_ok=True)
    folder.model_path.write_bytes(NETWORK)
    folder.write_result(round_result(config, number, **measured))
    return folder.path / "result.json"


def round_result(config: ExperimentConfig, number: int, **measured: Any) -> RoundResult:
    """Returns the result of a round; differences and ancestry as training finds them."""
    train, test = AVAILABLE.get(config.dataset, (1_000, 1_000))
    used = {"train": config.train_examples or train, "test": config.test_examples or test}
    start, teacher = (_read_reference(config, name) for name in (config.init_from, config.distill_from))
    differences = ()
    if config.paper_section:
        differences = paper_differences(config, used, {"train": train, "test": test}, start)
    epochs = config.settings(number).epochs if number > 0 or config.regime == "dense" else 0
    sparsity = measured.get("sparsity", 0.0)
    made_up = {
        "differences": differences,
        "network": Digest(len(NETWORK), hashlib.sha256(NETWORK).hexdigest()),
        "ancestry": ancestry_of(start, teacher),
        "train_examples": used["train"],
        "test_examples": used["test"],
        "train_examples_available": train,
        "test_examples_available": test,
        "sparsity": sparsity,
        "sparsity_all_parameters": sparsity,
        "metric": ACCURACY,
        "metric_at_end": 50.0 + number,
        "epochs": epochs,
        "steps": epochs * -(-used["train"] // config.batch_size),
        "train_seconds": 2.0 * epochs,
        "backend": "tensorflow",
    }
    return RoundResult(config=config, round=number, **{**made_up, **measured})


def _read_reference(config: ExperimentConfig, reference: str) -> RoundResult | None:
    """Returns the result that a reference names; None if it names none, or a run that is not there."""
    name, _, round_name = reference.partition("/")
    run = RunFolder(config.folder.with_name(name)) if name else None
    if run is None or not (run.path / "flags.txt").exists():
        return None
    number = int(round_name.removeprefix("round_")) if round_name else run.read_config().last_round
    found = run.round(number)
    return found.read_result() if found.finished else None


class RunFolders:
    """Writes the runs of one folder.

    Args:
        path: The folder, `--output_dir`.
        **settings: Those of all runs that do not say otherwise.
    """

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.settings = settings

    def config(self, experiment: str, **settings: Any) -> ExperimentConfig:
        """Returns the config of an experiment in the folder."""
        return ExperimentConfig(
            **{"experiment": experiment, "output_dir": str(self.path), **self.settings, **settings}
        )

    def dense(self, experiment: str, accuracy: float, **values: Any) -> Path:
        """Writes a finished dense run and returns the path of its result.

        Args:
            experiment: Its name.
            accuracy: At its end, in percent; the value of its metric, if it has another.
            **values: Settings, and measured values of its round.
        """
        settings, measured = _split(values)
        config = self.config(experiment, regime="dense", **settings)
        return write_round(config, 0, **{"metric_at_end": accuracy, **measured})

    def one_shot(
        self,
        experiment: str,
        init_from: str,
        sparsity: float,
        accuracies: tuple[float | None, float],
        **values: Any,
    ) -> Path:
        """Writes a finished one-shot run, its start included; returns the path of the last result.

        Args:
            experiment: Its name.
            init_from: The run that it starts from.
            sparsity: The level asked, and reached.
            accuracies: Right after pruning, and after fine-tuning.
            **values: Settings, and measured values of the last round.
        """
        return self._pruned(experiment, init_from, "one_shot", [(sparsity, *accuracies)], values)

    def iterative(
        self,
        experiment: str,
        init_from: str,
        levels: list[tuple[float, float | None, float]],
        **values: Any,
    ) -> Path:
        """Writes a finished iterative run: (sparsity, right after pruning, at the end) for each round."""
        values = {"schedule": "geometric", "rounds": len(levels), **values}
        return self._pruned(experiment, init_from, "iterative", levels, values)

    def _pruned(
        self,
        experiment: str,
        init_from: str,
        regime: str,
        levels: list[tuple[float, float | None, float]],
        values: dict[str, Any],
    ) -> Path:
        settings, measured = _split(values)
        asked = {"init_from": init_from, "regime": regime, "target_sparsity": levels[-1][0]}
        config = self.config(experiment, **{**asked, **settings})
        judged = {name: measured[name] for name in ("metric",) if name in measured}
        path = write_round(config, 0, **judged)
        for number, (sparsity, after_pruning, accuracy) in enumerate(levels, start=1):
            reached = {
                "target_sparsity": sparsity,
                "sparsity": sparsity,
                "metric_after_pruning": after_pruning,
                "metric_at_end": accuracy,
            }
            path = write_round(config, number, **{**reached, **measured})
        return path


def _split(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides values into settings and measured ones; what is both in name is a setting."""
    names = settings_of(ExperimentConfig)
    known = {field.name for field in dataclasses.fields(RoundResult)} | names.keys()
    assert values.keys() <= known, f"neither settings nor measured: {values.keys() - known}"
    settings = {name: value for name, value in values.items() if name in names}
    return settings, {name: value for name, value in values.items() if name not in names}
