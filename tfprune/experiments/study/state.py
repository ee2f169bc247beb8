"""Reads from the run folders how far a study is; loads no network and no data."""

from dataclasses import dataclass

from tfprune.experiments.unfinished import read_unfinished
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder
from tfprune.runs.metric import ACCURACY
from tfprune.runs.result import RoundResult


@dataclass(frozen=True)
class RunState:
    """The finished part of a run.

    Attributes:
        config: The run.
        begun: True if there is a run folder.
        results: Results of the finished rounds, by number; round 0 is the start, or all of `dense`.
        epochs_in_round: Epochs that the checkpoint of the unfinished round has.
    """

    config: ExperimentConfig
    begun: bool
    results: dict[int, RoundResult]
    epochs_in_round: int

    @property
    def finished(self) -> bool:
        """True if all rounds are finished."""
        return len(self.results) == self.config.last_round + 1

    @property
    def rounds_done(self) -> int:
        """The number of finished rounds of those that train."""
        return sum(number in self.results for number in self._training_rounds)

    @property
    def rounds_left(self) -> int:
        """The number of rounds that are not finished, of all."""
        return self.config.last_round + 1 - len(self.results)

    @property
    def epochs_left(self) -> int:
        """The number of epochs to train until the run is finished."""
        return sum(self.epochs_left_by_round.values())

    @property
    def epochs_left_by_round(self) -> dict[int, int]:
        """The number of epochs to train of each round that is not finished."""
        unfinished = [number for number in self._training_rounds if number not in self.results]
        epochs = {number: self.config.settings(number).epochs for number in unfinished}
        return {
            number: left - (self.epochs_in_round if number == unfinished[0] else 0)
            for number, left in epochs.items()
        }

    @property
    def accuracy_percent(self) -> float | None:
        """The accuracy of the last finished round."""
        return self.results[max(self.results)].metric_at_end if self.results else None

    @property
    def _training_rounds(self) -> range:
        return range(min(1, self.config.last_round), self.config.last_round + 1)

    def describe(self) -> str:
        """Returns `missing`, `finished`, or how far it is: `2 of 6 rounds, then 3 of 10 epochs`."""
        if self.finished:
            return "finished"
        if not self.begun:
            return "missing"
        rounds = self.config.training_rounds
        text = f"{self.rounds_done} of {rounds} round{'' if rounds == 1 else 's'}"
        if self.epochs_in_round:
            number = next(number for number in self._training_rounds if number not in self.results)
            text += f", then {self.epochs_in_round} of {self.config.settings(number).epochs} epochs"
        return text


def read_state(config: ExperimentConfig) -> RunState:
    """Reads the state of a run.

    Raises:
        UserError: On a damaged file, with its path.
    """
    run = RunFolder(config.folder)
    rounds = [run.round(number) for number in range(config.last_round + 1)]
    results = {folder.number: folder.read_result() for folder in rounds if folder.finished}
    epochs = 0
    unfinished = next((folder for folder in rounds if not folder.finished), None)
    if unfinished:
        checkpoint = read_unfinished(config, unfinished, ACCURACY)
        epochs = checkpoint.epochs_done if checkpoint else 0
    return RunState(config, (run.path / "flags.txt").exists(), results, epochs)
