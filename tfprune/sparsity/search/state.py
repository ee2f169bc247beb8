"""A search between two generations, and the file that keeps it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfprune.files import write_json
from tfprune.reading import check_same_search, json_of, reading

_FORMAT = 1


@dataclass(frozen=True)
class State:
    """A search between two generations.

    Attributes:
        starts: The divergence of each start.
        population: Allocations and their divergence on all images, the best first.
        history: The least divergence after each generation, that of the starts first.
        measured: What was measured for the budget; None where nothing was.
    """

    starts: dict[str, float]
    population: list[tuple[tuple[int, ...], float]]
    history: list[float]
    measured: dict[str, Any] | None = None


class StateFile:
    """The file of a search, written after each generation.

    Args:
        path: The file; None for none.
        settings: All that makes a search another one, as JSON has it.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings

    def write(self, state: State) -> None:
        """Writes a state, whole or not at all."""
        if self._path is None:
            return
        content = {
            "format": _FORMAT,
            "settings": self._settings,
            "starts": {name: _recorded(value) for name, value in state.starts.items()},
            "population": [
                {"removed": list(counts), "divergence": _recorded(value)}
                for counts, value in state.population
            ],
            "history": list(map(_recorded, state.history)),
            "measured": state.measured,
        }
        write_json(self._path, content)

    def read(self) -> State | None:
        """Returns the state that was written last; None if there is no file.

        Raises:
            FileError: If the file is damaged, or of another search.
            ValueError: If its folder is not there.
        """
        if self._path is None:
            return None
        if not self._path.parent.is_dir():
            raise ValueError(f"`path` must be in a folder that is there. Received: path={str(self._path)!r}")
        if not self._path.exists():
            return None
        with reading(self._path, "search of sparsities", "remove it to search anew"):
            content = json_of(self._path)
            check_same_search(content, _FORMAT, self._settings)
            return self._state(content)

    def _state(self, content: dict[str, Any]) -> State:
        population = [
            (tuple(map(int, one["removed"])), _value(one["divergence"])) for one in content["population"]
        ]
        state = State(
            {name: _value(value) for name, value in content["starts"].items()},
            population,
            list(map(_value, content["history"])),
            content["measured"],
        )
        kernels = len(self._settings["kernels"])
        if not population or not state.history or any(len(counts) != kernels for counts, _ in population):
            raise ValueError("its population is not of the model's kernels")
        return state


def _recorded(divergence: float) -> float | None:
    """Returns a divergence as JSON has it, which knows no infinity."""
    return divergence if math.isfinite(divergence) else None


def _value(recorded: float | None) -> float:
    return math.inf if recorded is None else float(recorded)
