"""`result.json`: what a round did, with everything needed to judge the figure.

```
{
  "format": 4,
  "config": {...},         every setting of the experiment, by its flag's name
  "differences": [...],    where the run departs from the section of the study that it names
  "network": {...},        size and checksum of the network that the result is of
  "round": 1, ...          what was measured: the other fields of `RoundResult`
}
```
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tfprune.files import Digest, write_json
from tfprune.reading import json_of, reading
from tfprune.records import KINDS, Kind, reject, values_of
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.metric import Metric
from tfprune.runs.paper import Difference
from tfprune.settings import AT_LEAST_0, AT_LEAST_1, FRACTION, PERCENT, Rule, measured

FORMAT = 4
# The fields that are no plain values in JSON.
_OBJECTS = {"config", "differences", "network", "metric", "layers", "size", "whole", "channels"}
_OF_METRIC = {"metric_before", "metric_after_pruning", "metric_at_end"}

_DIGEST = Rule("empty or 16 hexadecimal digits", lambda text: re.fullmatch("([0-9a-f]{16})?", text))
_SECONDS = Rule("at least 0 each", lambda seconds: all(value >= 0 for value in seconds.values()))
_NAME = Rule("a name in lower case", lambda name: re.fullmatch("[a-z][a-z0-9_]*", name))
_ENGINES = Rule("names in lower case", lambda names: all(map(_NAME.holds, names)))


@dataclass(frozen=True)
class LayerZeros:
    """The number of a pruned layer's weights that are zero."""

    layer: str
    weights: int
    zeros: int


@dataclass(frozen=True)
class NetworkSize:
    """The size of a network.

    Attributes:
        parameters: Its weights, trainable or not, zeros too; masks are none.
        macs: Multiply-accumulates of its kernels for one example, with zeros too; None where unknown.
    """

    parameters: int
    macs: int | None

    def share_of(self, whole: "NetworkSize", unit: str) -> float:
        """Returns the share of another network's `unit`, "parameters" or "macs", which both know."""
        return getattr(self, unit) / getattr(whole, unit)


@dataclass(frozen=True)
class Channels:
    """The width of a part of a network: channels that go together, in all layers that make them.

    Attributes:
        layers: The layers.
        kept: How many channels there are.
        of: How many there were before any was cut.
    """

    layers: tuple[str, ...]
    kept: int
    of: int


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """The result of one finished round; None stands where it did nothing of the kind.

    Values of the metric are those on the test data, in percent where it says so; sparsities are in [0, 1].

    Attributes:
        config: The whole experiment.
        differences: Where the run departs from the section of the study that it names.
        round: Number of the round.
        network: The file of the network that the result is of.
        ancestry: A digest of the experiments that the run started from and learned from, as `ancestry_of`
            makes it; empty without any.
        train_examples: Training examples used.
        test_examples: Test examples used.
        train_examples_available: Training examples that the dataset has.
        test_examples_available: Test examples that the dataset has.
        target_sparsity: The level asked.
        sparsity: The level reached, of the pruned kernels.
        sparsity_all_parameters: The fraction of zeros among all trainable parameters.
        metric: By what the run is judged.
        metric_before: Its value for the network that the round began with.
        metric_after_pruning: Right after pruning.
        metric_at_end: At the round's end.
        figures: The loss and all metrics at the round's end, by Keras's names and as Keras has them.
        layers: The pruned layers.
        size: The size of the network; None in results of versions that did not count it.
        whole: That of the network before any channel was cut; None likewise.
        target_left: The share of `whole` asked, in the unit of the budget; None where no channels go.
        channels: The widths of a network whose channels go or went.
        epochs: Epochs trained.
        steps: Training steps.
        training_engines: What trained, in its order: several where an interrupted fit went on with another.
            Empty where nothing was trained, or tfmot trained, or the version did not record it.
        engine_speedup: How many times as fast as Keras `sparse` was, where `auto` measured it.
        engine_reason: Why `auto` measured nothing and took Keras.
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
    round: int = measured(AT_LEAST_0)
    network: Digest = measured()
    differences: tuple[Difference, ...] = ()
    ancestry: str = measured(_DIGEST, default="")
    train_examples: int = measured(AT_LEAST_1)
    test_examples: int = measured(AT_LEAST_1)
    train_examples_available: int = measured(AT_LEAST_1)
    test_examples_available: int = measured(AT_LEAST_1)
    target_sparsity: float | None = measured(FRACTION, default=None)
    sparsity: float = measured(FRACTION)
    sparsity_all_parameters: float = measured(FRACTION)
    metric: Metric = measured()
    metric_before: float | None = measured(default=None)
    metric_after_pruning: float | None = measured(default=None)
    metric_at_end: float = measured()
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    layers: tuple[LayerZeros, ...] = ()
    size: NetworkSize | None = None
    whole: NetworkSize | None = None
    target_left: float | None = measured(FRACTION, default=None)
    channels: tuple[Channels, ...] = ()
    epochs: int = measured(AT_LEAST_0, default=0)
    steps: int = measured(AT_LEAST_0, default=0)
    training_engines: tuple[str, ...] = measured(_ENGINES, default=())
    engine_speedup: float | None = measured(AT_LEAST_0, default=None)
    engine_reason: str = measured(default="")
    train_seconds: float = measured(AT_LEAST_0, default=0.0)
    images_per_second: float | None = measured(AT_LEAST_0, default=None)
    data_wait_percent: float | None = measured(PERCENT, default=None)
    seconds: dict[str, float] = measured(_SECONDS, default_factory=dict)
    backend: str = measured(_NAME)
    device_count: int = measured(AT_LEAST_1, default=1)
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

    @property
    def is_cut(self) -> bool:
        """Whether channels of the network were cut."""
        return any(group.kept < group.of for group in self.channels)

    @property
    def is_dense(self) -> bool:
        """Whether the run trained without pruning, a network that nothing was pruned from."""
        return self.config.regime == "dense" and not self.sparsity and not self.is_cut

    @property
    def removed(self) -> float:
        """The share of the weights that is gone: of the pruned kernels; of all where channels were cut."""
        if not self.is_cut:
            return self.sparsity
        return 1.0 - (1.0 - self.sparsity) * self.size.share_of(self.whole, "parameters")

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `result.json`."""
        measured = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in _OBJECTS
        }
        return {
            "format": FORMAT,
            "config": self.config.to_json(),
            "differences": [difference.to_json() for difference in self.differences],
            "network": dataclasses.asdict(self.network),
            "metric": dataclasses.asdict(self.metric),
            **measured,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "size": self.size and dataclasses.asdict(self.size),
            "whole": self.whole and dataclasses.asdict(self.whole),
            "channels": [dataclasses.asdict(group) for group in self.channels],
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
                f"it has format {version}, and this version of tfprune reads format {FORMAT}: run the "
                "experiment anew in another --output_dir, or use the version that made it"
            )
        result = cls(**values_of(cls, content, kinds=_KINDS))
        result._check_together()
        return result

    @classmethod
    def measured_of(
        cls, content: dict[str, Any], names: Collection[str], metric: Metric | None
    ) -> dict[str, Any]:
        """Returns what JSON says of some fields, by name, each of its type and in its range.

        Args:
            content: A JSON object.
            names: The fields.
            metric: That of their round; None if it is not known.

        Raises:
            ValueError: On a value that no round can have, or one that is missing.
        """
        values = values_of(cls, content, names, _KINDS)
        for name in _OF_METRIC & values.keys() if metric else ():
            metric.check(name, values[name])
        return values

    def _check_together(self) -> None:
        """Checks that the values of a round agree with each other."""
        for name in sorted(_OF_METRIC):
            self.metric.check(name, getattr(self, name))
        if self.round > self.rounds:
            reject("round", self.round, f"must be at most {self.rounds}, the experiment's last")
        for split in ("train", "test"):
            used, available = getattr(self, f"{split}_examples"), getattr(self, f"{split}_examples_available")
            if used > available:
                reject(f"{split}_examples", used, f"must be at most {split}_examples_available, {available}")
        zeros = sum(layer.zeros for layer in self.layers)
        weights = sum(layer.weights for layer in self.layers)
        if weights and abs(zeros / weights - self.sparsity) > 1e-6:
            reject("sparsity", self.sparsity, f"must be that of the layers, {zeros / weights:g}")


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
        FileError: If the file is damaged, of another format, or of another run or round.
    """
    with reading(path, "result of a round", "remove the round's folder to run the round anew"):
        result = RoundResult.from_json(json_of(path))
        if result.round != number:
            reject("round", result.round, f"must be {number}, as the folder says")
        experiment = path.absolute().parent.parent.name
        if result.config.experiment != experiment:
            reject("experiment", result.config.experiment, f"must be {experiment}, as the folder says")
    return result


def write_result(path: Path, result: RoundResult) -> None:
    """Writes a round's `result.json`, which finishes the round."""
    write_json(path, result.to_json())


def _is_layer(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("layer"), str):
        return False
    weights, zeros = value.get("weights"), value.get("zeros")
    return type(weights) is int and type(zeros) is int and 0 <= zeros <= weights


def _is_size(value: Any) -> bool:
    if not isinstance(value, dict) or type(value.get("parameters")) is not int:
        return False
    macs = value.get("macs")
    return value["parameters"] >= 1 and (macs is None or (type(macs) is int and macs >= 1))


def _is_channels(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("layers"), list):
        return False
    kept, of = value.get("kept"), value.get("of")
    named = all(isinstance(layer, str) for layer in value["layers"])
    return named and type(kept) is int and type(of) is int and 1 <= kept <= of


def _is_metric(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return False
    return all(type(value.get(key)) is bool for key in ("in_percent", "higher_is_better"))


def _is_digest(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("sha256"), str):
        return False
    size = value.get("bytes")
    return type(size) is int and size > 0 and re.fullmatch("[0-9a-f]{64}", value["sha256"]) is not None


_KINDS = {
    **KINDS,
    ExperimentConfig: Kind("an object", lambda value: isinstance(value, dict), ExperimentConfig.from_json),
    Digest: Kind(
        "{bytes, sha256}, at least 1 and 64 hexadecimal digits",
        _is_digest,
        lambda value: Digest(value["bytes"], value["sha256"]),
    ),
    Metric: Kind(
        "{name, in_percent, higher_is_better}, a string, true or false, true or false",
        _is_metric,
        lambda value: Metric(value["name"], value["in_percent"], value["higher_is_better"]),
    ),
    tuple[LayerZeros, ...]: Kind(
        "a list of {layer, weights, zeros}, zeros <= weights",
        lambda value: isinstance(value, list) and all(map(_is_layer, value)),
        lambda value: tuple(LayerZeros(one["layer"], one["weights"], one["zeros"]) for one in value),
    ),
    tuple[str, ...]: Kind(
        "a list of strings",
        lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
        tuple,
    ),
    NetworkSize: Kind(
        "{parameters, macs}, at least 1 each, macs null where unknown",
        _is_size,
        lambda value: NetworkSize(value["parameters"], value["macs"]),
    ),
    tuple[Channels, ...]: Kind(
        "a list of {layers, kept, of}, names and 1 <= kept <= of",
        lambda value: isinstance(value, list) and all(map(_is_channels, value)),
        lambda value: tuple(Channels(tuple(one["layers"]), one["kept"], one["of"]) for one in value),
    ),
    tuple[Difference, ...]: Kind(
        "a list",
        lambda value: isinstance(value, list),
        lambda value: tuple(map(Difference.from_json, value)),
    ),
}
