"""Runs one experiment, from the check of the request to the last round's result."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfprune.errors import FileError
from tfprune.experiments.batches import Batches, load_dataset, reading_data
from tfprune.experiments.devices import ONE_DEVICE, Devices
from tfprune.experiments.engines import TrainingEngines
from tfprune.experiments.environment import prepare_backend
from tfprune.experiments.memory import check_memory
from tfprune.experiments.methods.registry import check_experiment, method_of
from tfprune.experiments.rounds import Rounds
from tfprune.experiments.start import find_start
from tfprune.files import remove_temporaries, writing
from tfprune.lock import hold
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RESULT, RoundFolder, RunFolder
from tfprune.runs.result import RoundResult
from tfprune.training.checkpoint import remove_checkpoint

_ADVICE = "finished rounds and epochs are intact, and once it can, the same command goes on from there"


def run_experiment(
    config: ExperimentConfig,
    log: Callable[[str], None] = print,
    on_round: Callable[[RoundResult], None] = lambda result: None,
    devices: Devices = ONE_DEVICE,
) -> list[RoundResult]:
    """Runs an experiment to its end, or goes on with one that was interrupted.

    Everything that can be wrong with the request is found before the run folder is made. Finished rounds
    are skipped, when their networks were found to be those of their results; an unfinished one continues from
    its last finished epoch and ends where an uninterrupted run would. One process at a time works in a run
    folder. Nothing needs to be written in one that is finished.

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
        FileError: If a round's result is damaged, or is not of the network beside it.
    """
    check_experiment(config)
    TrainingEngines(config, devices).check()
    start = find_start(config)
    run = RunFolder(config.folder)
    claimed = run.check_claim(config)
    folders = [run.round(number) for number in range(config.last_round + 1)]
    results = [_checked_result(config, folder) for folder in folders if folder.finished]
    with contextlib.ExitStack() as held, writing(run.path, _ADVICE, tf.errors.OpError):
        held.enter_context(devices.scope())
        if not devices.writes:
            log, on_round = _nothing, _nothing
        if len(results) == len(folders):
            if devices.writes:
                # A kill may have come between the result and this; or the disk is an archive, read alone.
                with contextlib.suppress(OSError):
                    remove_checkpoint(folders[-1].path)
            log(f"{config.experiment}: finished already, in {run.path}")
            return results

        def take() -> None:
            held.enter_context(hold(run.path, config.flag("experiment")))
            for folder in (run, *folders):
                remove_temporaries(folder.path)

        if claimed and devices.writes:
            take()
        method = method_of(config)
        method.prepare()
        prepare_backend(config)
        batches = Batches(config, load_dataset(config, log), devices.shard)
        devices.check_experiment(config, batches.dataset)
        check_memory(config, batches.dataset, devices)
        log(
            f"{config.experiment}: {len(batches.dataset.train):,} training and {len(batches.dataset.test):,} "
            f"test {batches.dataset.noun} of {config.dataset}, backend {keras.backend.backend()}{devices}"
        )
        rounds = Rounds(method, start, batches, devices, log)
        if not claimed:
            rounds.build_start()
            if devices.writes:
                run.make(config)
                take()
                rounds.keep()
                run.claim(config)
        for folder in folders:
            if folder.finished:
                if devices.writes:
                    remove_checkpoint(folder.path)
                log(f"{config.experiment} round {folder.number}: finished already")
            else:
                with reading_data(config):
                    rounds.do_round(folder.number)
                on_round(folder.read_result())
        return [folder.read_result() for folder in folders]


def _checked_result(config: ExperimentConfig, folder: RoundFolder) -> RoundResult:
    """Returns the result of a finished round, from which the run goes on.

    Raises:
        FileError: If it is not of the network beside it, or not of this run.
    """
    result = folder.check_network()
    if others := config.differing(result.config):
        raise FileError(
            f"{folder.path / RESULT}: not a result of this run, whose flags are "
            f"{', '.join(map(config.flag, others))}; remove the round's folder to run the round anew"
        )
    return result


def _nothing(what: Any) -> None:
    """Does nothing with a line or a result: this process does not write."""
