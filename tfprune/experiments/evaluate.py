"""Evaluates a finished round anew."""

from dataclasses import dataclass, replace

import keras

from tfprune.data.splits import Dataset
from tfprune.experiments.batches import Batches, load_dataset
from tfprune.experiments.environment import prepare_backend
from tfprune.experiments.networks import load_model
from tfprune.experiments.own import compiled_of
from tfprune.experiments.task import task_of
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RoundFolder, RunFolder
from tfprune.runs.metric import Metric
from tfprune.settings import without_effect
from tfprune.training.fit import compile_for_training, evaluate


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        model: The network.
        data: The examples in words: `100 test images`.
        metric: By what the run is judged.
        value: The metric now, in percent where it says so.
        recorded: The same at the round's end, as training recorded it.
        others: The loss and the other metrics, by Keras's names and as Keras has them.
    """

    model: keras.Model
    data: str
    metric: Metric
    value: float
    recorded: float
    others: dict[str, float]


def load_run_data(run: RunFolder, data_dir: str) -> tuple[ExperimentConfig, Dataset]:
    """Returns a run's config and data; `data_dir`, if not empty, is where the data is now.

    Raises:
        UserError: On a damaged run folder, data that is not there, or a `data_dir` that has no effect.
    """
    config = run.read_config()
    if data_dir:
        config = replace(config, data_dir=data_dir)
        if why := without_effect(config).get("data_dir"):
            needed = why.removeprefix("without ")
            config.refuse("data_dir", f"has no effect on a run of {config.dataset}, only with {needed}")
    return config, load_dataset(config)


def evaluate_round(run: RunFolder, found: RoundFolder, data_dir: str) -> Evaluation:
    """Evaluates a finished round's network on its run's test split.

    Raises:
        UserError: On a damaged run folder, or data that is not there.
    """
    result = found.read_result()
    config, dataset = load_run_data(run, data_dir)
    prepare_backend(config)
    model = load_model(found)
    batches = Batches(config, dataset)
    task = task_of(config, model, batches, compiled_of(config, run))
    compile_for_training(model, config.settings(found.number), task.goal)
    figures = evaluate(model, batches.test)
    return Evaluation(
        model,
        f"{len(dataset.test):,} test {dataset.noun}",
        task.headline,
        task.value(figures),
        result.metric_at_end,
        {name: value for name, value in figures.items() if name != task.headline.name},
    )
