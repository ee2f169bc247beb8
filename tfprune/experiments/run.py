"""Runs one experiment, from the check of the request to the last round's result."""

import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf

from tfprune.data import datasets
from tfprune.errors import UserError, blame_flag
from tfprune.experiments.devices import ONE_DEVICE, Devices
from tfprune.experiments.environment import check_engine, prepare_backend
from tfprune.experiments.pruning import check_experiment
from tfprune.experiments.rounds import Rounds
from tfprune.files import remove_temporaries
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder, blame_disk, find_round
from tfprune.runs.lock import hold
from tfprune.runs.result import RoundResult
from tfprune.training.checkpoint import remove_checkpoint


def run_experiment(
    config: ExperimentConfig,
    log: Callable[[str], None] = print,
    on_round: Callable[[RoundResult], None] = lambda result: None,
    devices: Devices = ONE_DEVICE,
) -> list[RoundResult]:
    """Runs an experiment to its end, or goes on with one that was interrupted.

    Everything that can be wrong with the request is found before the run folder is made. Finished rounds
    are skipped; an unfinished one continues from its last finished epoch and ends where an uninterrupted
    run would. One process at a time works in a run folder.

    Args:
        config: The experiment.
        log: Receives a line for each thing done.
        on_round: Receives the result of each round that this call finishes.
        devices: Those that share each batch. Where they are several processes', all call this function, and
            only process 0 logs, calls `on_round` and writes.

    Returns:
        The rounds' results, as in their `result.json`.

    Raises:
        UserError: On a request that cannot be met, a folder that another process works in or that cannot
            be written, or a loss that is no finite number.
    """
    check_experiment(config)
    run = RunFolder(config.folder)
    found = find_round(config.output_dir, config.init_from, "init_from") if config.init_from else None
    start_result = found[1].read_result() if found else None
    claimed = run.check_claim(config)
    rounds = [run.round(number) for number in range(config.last_round + 1)]
    with contextlib.ExitStack() as held, blame_disk(run.path, tf.errors.OpError):
        held.enter_context(devices.scope())
        if not devices.writes:
            log, on_round = _nothing, _nothing
        if all(folder.finished for folder in rounds):
            if devices.writes:
                remove_checkpoint(rounds[-1].path)  # A kill may have come between the result and this.
            log(f"{config.experiment}: finished already, in {run.path}")
            return [folder.read_result() for folder in rounds]

        def take() -> None:
            held.enter_context(hold(run.path, config.flag("experiment")))
            remove_temporaries(run.path)

        if claimed and devices.writes:
            take()
        check_engine(config)
        prepare_backend(config)
        engine = _load_tfmot_engine() if config.pruning_engine == "tfmot" else None
        dataset = load_dataset(config)
        devices.check_experiment(config, dataset)
        log(
            f"{config.experiment}: {len(dataset.train):,} training and {len(dataset.test):,} test images of "
            f"{config.dataset}, backend {keras.backend.backend()}{devices}"
        )

        def claim() -> None:
            if devices.writes and not claimed:
                run.make(config)
                take()
                run.claim(config)

        experiment = Rounds(config, run, dataset, found, start_result, engine, claim, log, devices)
        for folder in rounds:
            if folder.finished:
                if devices.writes:
                    remove_checkpoint(folder.path)
                log(f"{config.experiment} round {folder.number}: finished already")
            else:
                experiment.do_round(folder.number)
                on_round(folder.read_result())
        return [folder.read_result() for folder in rounds]


def _nothing(what: Any) -> None:
    """What a process that does not write does with a line or a result."""


def load_dataset(config: ExperimentConfig) -> datasets.Dataset:
    """Loads the experiment's data.

    Raises:
        UserError: On data that is not there, with the flag.
    """
    try:
        return datasets.load(
            config.dataset,
            config.data_dir or None,
            train_examples=config.train_examples,
            test_examples=config.test_examples,
            image_size=config.image_size,
        )
    except (ValueError, OSError) as error:
        named = [
            name for name in ("train_examples", "test_examples", "data_dir") if f"`{name}`" in str(error)
        ]
        name = named[0] if named else "dataset"
        raise UserError(f"--{name}={getattr(config, name)}: {error}") from error


def _load_tfmot_engine() -> ModuleType:
    """Imports tfmot and tf-keras, which nothing else needs."""
    with blame_flag("pruning_engine", "tfmot"):
        from tfprune.experiments.tfmot import engine as tfmot_engine
    return tfmot_engine
