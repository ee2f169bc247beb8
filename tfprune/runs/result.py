"""`result.json`: what a round did, with everything needed to judge the figure.

```
{
  "format": 2,
  "config": {...},         every setting of the experiment, by its flag's name
  "differences": [...],    where the run departs from the section of the study that it names
  "round": 1, ...          what was measured: the other fields of `RoundResult`
}
```
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tfprune.errors import UserError
from tfprune.files import write_json
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.paper import Difference

FORMAT = 2


@dataclass(frozen=True)
class LayerZeros:
    """The number of a pruned layer's weights that are zero."""

    layer: str
    weights: int
    zeros: int


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """The result of one finished round; None stands where it did nothing of the kind.

    Accuracies are top-1 on the test images, in percent; sparsities are in [0, 1].

    Attributes:
        config: The whole experiment.
        differences: Where the run departs from the section of the study that it names.
        round: Number of the round.
        ancestry: A digest of the experiments that the run started from and learned from, as `ancestry_of`
            makes it; empty without any.
        train_examples: Training images used.
        test_examples: Test images used.
        train_examples_available: Training images that the dataset has.
        test_examples_available: Test images that the dataset has.
        target_sparsity: The level asked.
        sparsity: The level reached, of the pruned kernels.
        sparsity_all_parameters: The fraction of zeros among all trainable parameters.
        accuracy_before_percent: Of the network that the round began with.
        accuracy_after_pruning_percent: Right after pruning.
        accuracy_percent: At the round's end.
        layers: The pruned layers.
        epochs: Epochs trained.
        steps: Training steps.
        train_seconds: Wall clock of the epochs.
        images_per_second: Over all epochs.
        data_wait_percent: Share of the epochs in which training waited for data.
        seconds: Wall clock of each stage.
        backend: Keras's.
        device_count: The number of devices that shared each batch.
        hardware: The machine.
        versions: Of the packages that matter.
    """

    config: ExperimentConfig
    round: int
    differences: tuple[Difference, ...] = ()
    ancestry: str = ""
    train_examples: int
    test_examples: int
    train_examples_available: int
    test_examples_available: int
    target_sparsity: float | None = None
    sparsity: float
    sparsity_all_parameters: float
    accuracy_before_percent: float | None = None
    accuracy_after_pruning_percent: float | None = None
    accuracy_percent: float
    layers: tuple[LayerZeros, ...] = ()
    epochs: int = 0
    steps: int = 0
    train_seconds: float = 0.0
    images_per_second: float | None = None
    data_wait_percent: float | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    backend: str
    device_count: int = 1
    hardware: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Number of the experiment's last round."""
        return self.config.last_round

    @property
    def in_paper_setting(self) -> bool:
        """Whether the run names a section of the study and departs from it in nothing."""
        return bool(self.config.paper_section) and not self.differences

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `result.json`."""
        measured = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("config", "differences", "layers")
        }
        return {
            "format": FORMAT,
            "config": self.config.to_json(),
            "differences": [difference.to_json() for difference in self.differences],
            **measured,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, content: Any) -> "RoundResult":
        """Reads what `to_json` returned.

        Raises:
            ValueError: On another format, or a value that no round can have.
        """
        if not isinstance(content, dict):
            raise ValueError(f"must hold a JSON object. Received: {type(content).__name__}")
        version = content.get("format", 1)
        if version != FORMAT:
            raise ValueError(
                f"of format {version}, and this version of tfprune reads format {FORMAT}: run the experiment "
                "anew in another --output_dir, or use the version that made it"
            )
        values = {"config": ExperimentConfig.from_json(content.get("config"))}
        for field, kind in zip(fields(cls), typing.get_type_hints(cls).values(), strict=True):
            if field.name == "config":
                continue
            if field.name in content:
                values[field.name] = _checked(field.name, kind, content[field.name])
            elif field.default is field.default_factory is dataclasses.MISSING:
                raise ValueError(f"`{field.name}` is missing")
        result = cls(**values)
        if result.round > result.rounds:
            rule = f"must be at most {result.rounds}, the experiment's last"
            raise ValueError(f"`round` {rule}. Received: round={result.round}")
        return result


def ancestry_of(*origins: RoundResult | None) -> str:
    """Returns a digest of the runs that a run came from: equal for repetitions over seeds alone.

    Args:
        *origins: The rounds that the run starts and learns from; None where there is none.
    """
    known = [(one.config.identity(), one.ancestry, one.round) if one else None for one in origins]
    if not any(known):
        return ""
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def read_result(path: Path, number: int) -> RoundResult:
    """Reads a round's `result.json`.

    Args:
        path: The file.
        number: The round that the folder's name says.

    Raises:
        UserError: If the file is damaged, of another format or of another round; the message names the file.
    """
    try:
        result = RoundResult.from_json(json.loads(path.read_text(encoding="utf-8")))
        if result.round != number:
            rule = f"must be {number}, as the folder says"
            raise ValueError(f"`round` {rule}. Received: round={result.round}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    return result


def write_result(path: Path, result: RoundResult) -> None:
    """Writes a round's `result.json`, which finishes the round."""
    write_json(path, result.to_json())


def _checked(name: str, kind: Any, value: Any) -> Any:
    """Returns a value read from JSON as the field's type; JSON's `true` is no number."""
    if isinstance(kind, types.UnionType):  # `kind | None`
        return None if value is None else _checked(name, kind.__args__[0], value)
    if kind is int:
        if type(value) is not int or value < 0:
            _reject(name, value, "must be a whole number, at least 0")
    elif kind is float:
        if type(value) not in (int, float) or not math.isfinite(value):
            _reject(name, value, "must be a finite number")
        value = float(value)
        if name.endswith("_percent") and not 0 <= value <= 100:
            _reject(name, value, "must be in [0, 100]")
        if "sparsity" in name and not 0 <= value <= 1:
            _reject(name, value, "must be in [0, 1]")
    elif kind is str:
        if not isinstance(value, str):
            _reject(name, value, "must be a string")
    elif kind == tuple[LayerZeros, ...]:
        if not isinstance(value, list) or not all(map(_is_layer, value)):
            _reject(name, value, "must be a list of {layer, weights, zeros}, zeros <= weights")
        return tuple(LayerZeros(item["layer"], item["weights"], item["zeros"]) for item in value)
    elif kind == tuple[Difference, ...]:
        if not isinstance(value, list):
            _reject(name, value, "must be a list")
        return tuple(map(Difference.from_json, value))
    else:
        of_numbers = kind == dict[str, float]
        if not isinstance(value, dict):
            _reject(name, value, "must be an object")
        if of_numbers and not all(type(v) in (int, float) and math.isfinite(v) for v in value.values()):
            _reject(name, value, "must have finite numbers")
    return value


def _is_layer(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("layer"), str):
        return False
    weights, zeros = value.get("weights"), value.get("zeros")
    return type(weights) is int and type(zeros) is int and 0 <= zeros <= weights


def _reject(name: str, value: Any, rule: str) -> None:
    raise ValueError(f"`{name}` {rule}. Received: {name}={value!r}")
