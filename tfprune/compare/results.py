"""Run folders: finding them, and reading and checking their `result.json` files."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfprune.compare.paper import PAPER_SECTIONS
from tfprune.errors import UserError

REGIMES = ("dense", "one_shot", "iterative", "gradual", "sparse")

_ROUND_FOLDER = re.compile(r"round_(\d{2,})")


@dataclasses.dataclass(frozen=True)
class LayerZeros:
    """How many of a prunable layer's weights are zero."""

    layer: str
    weights: int
    zeros: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What one finished round wrote; `None` where it did nothing or did not say.

    The names are `result.json`'s. Accuracies are top-1 in percent, sparsities in [0, 1].
    """

    dataset: str
    regime: str
    round: int
    rounds: int | None = None
    paper_section: str = ""
    paper_setting: bool = False
    paper_setting_differences: tuple[str, ...] = ()
    target_sparsity: float | None = None
    sparsity: float | None = None
    sparsity_all_parameters: float | None = None
    accuracy_before_percent: float | None = None
    accuracy_after_pruning_percent: float | None = None
    accuracy_percent: float | None = None
    init_from: str | None = None
    weights: str | None = None
    model: str | None = None
    width: int | None = None
    stem: str | None = None
    image_size: int | None = None
    train_examples: int | None = None
    test_examples: int | None = None
    train_examples_available: int | None = None
    test_examples_available: int | None = None
    autoaugment: str | None = None
    scope: str | None = None
    schedule: str | None = None
    layer_sparsity: tuple[str, ...] | None = None
    spare_ends: bool | None = None
    score: str | None = None
    granularity: str | None = None
    block_size: tuple[int, ...] | None = None
    block_pooling_type: str | None = None
    sparsity_m_by_n: tuple[int, ...] | None = None
    regrowth: str | None = None
    pruning_engine: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    lr_schedule: str | None = None
    warmup_epochs: float | None = None
    lr_factor: float | None = None
    lr_boundaries_epochs: tuple[int, ...] | None = None
    distill_from: str | None = None
    distill_weight: float | None = None
    distill_temperature: float | None = None
    batchnorm_after_pruning: str | None = None
    evaluate_every: int | None = None
    mixed_precision: str | None = None
    layers: tuple[LayerZeros, ...] = ()
    steps: int | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    data_wait_percent: float | None = None
    seconds: dict[str, float] | None = None
    backend: str | None = None
    device_count: int | None = None
    hardware: dict[str, Any] | None = None
    seed: int | None = None
    versions: dict[str, str] | None = None


_REQUIRED = ("dataset", "regime", "round")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        experiment: The folder's name, which `--init_from` refers to.
        folder: Where it is.
        rounds: The finished rounds, in order.
        unfinished_rounds: The numbers of the rounds that were started, or announced by `rounds`,
            but have no `result.json`.
    """

    experiment: str
    folder: Path
    rounds: tuple[RoundResult, ...]
    unfinished_rounds: tuple[int, ...]

    @property
    def finished(self) -> bool:
        """Whether every round has a result."""
        return bool(self.rounds) and not self.unfinished_rounds


def read_runs(output_dir: str | Path, experiments: Sequence[str] | None = None) -> list[Run]:
    """Reads the run folders of a directory.

    A run folder is a folder with `flags.txt` or with `round_KK` folders inside. Others are left
    alone.

    Args:
        output_dir: What `--output_dir` was for training.
        experiments: Names of run folders; `None` or empty for all of them.

    Returns:
        The runs in the order of `experiments`, else sorted by name; unfinished ones too.

    Raises:
        UserError: If the directory does not exist, has no run folder or not the ones named, or if
            a `result.json` is truncated, lacks `dataset`, `regime` or `round`, or has a value of
            the wrong type or out of range.
    """
    output_dir = Path(output_dir)
    present = list_experiments(output_dir)
    if not present:
        raise UserError(f"--output_dir={output_dir}: there is no run folder in it to compare.")
    for experiment in experiments or ():
        if experiment not in present:
            raise UserError(
                f"--experiments={experiment}: there is no such run folder in {output_dir}. "
                f"There are: {', '.join(present)}"
            )
    return [read_run(output_dir / name) for name in dict.fromkeys(experiments or present)]


def list_experiments(output_dir: str | Path) -> list[str]:
    """The names of the run folders in a directory, sorted.

    Args:
        output_dir: The directory.

    Returns:
        Names.

    Raises:
        UserError: If the directory does not exist or cannot be read.
    """
    try:
        return sorted(folder.name for folder in Path(output_dir).iterdir() if _is_run(folder))
    except OSError as error:
        raise UserError(f"--output_dir={output_dir}: {error.strerror or error}") from error


def read_run(folder: Path) -> Run:
    """Reads one run folder; raises as `read_runs`."""
    numbers = _round_numbers(folder)
    rounds = []
    for number, round_folder in numbers.items():
        path = round_folder / "result.json"
        if path.exists():
            rounds.append(_read_result(path, number))
    expected = set(numbers)
    if rounds:
        # `rounds` counts the pruning rounds: dense training is round 0 alone.
        last = rounds[-1]
        expected |= set(range((0 if last.regime == "dense" else last.rounds or 0) + 1))
    else:
        expected |= {0}
    unfinished = sorted(expected - {result.round for result in rounds})
    return Run(folder.name, folder, tuple(rounds), tuple(unfinished))


def _round_numbers(folder: Path) -> dict[int, Path]:
    matches = ((_ROUND_FOLDER.fullmatch(path.name), path) for path in folder.iterdir())
    found = {int(match[1]): path for match, path in matches if match and path.is_dir()}
    return dict(sorted(found.items()))


def _is_run(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return (folder / "flags.txt").exists() or bool(_round_numbers(folder))


def _read_result(path: Path, number: int) -> RoundResult:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: truncated or not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object. Received: {type(content).__name__}")
    for key in _REQUIRED:
        if content.get(key) is None:
            raise UserError(f"{path}: `{key}` is missing.")
    values = {}
    for field in dataclasses.fields(RoundResult):
        value = content.get(field.name)
        if value is not None:
            values[field.name] = _checked(path, field.name, field.type, value)
    result = RoundResult(**values)
    if result.round != number:
        _reject(path, "round", result.round, f"must be {number}, as the folder says")
    return result


def _checked(path: Path, name: str, annotation: Any, value: Any) -> Any:
    """`value` as the field's type, or a `UserError`; JSON's `true` is no number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    kinds = str(annotation)
    if annotation is bool or kinds.startswith("bool"):
        if not isinstance(value, bool):
            _reject(path, name, value, "must be true or false")
    elif annotation is int or kinds.startswith("int"):
        if not number or not isinstance(value, int) or value < 0:
            _reject(path, name, value, "must be a whole number, at least 0")
    elif kinds.startswith("float"):
        if not number or not math.isfinite(value):
            _reject(path, name, value, "must be a finite number")
        value = float(value)
    elif kinds.startswith("tuple[tfprune"):
        if not isinstance(value, list) or not all(map(_is_layer, value)):
            _reject(path, name, value, "must be a list of {layer, weights, zeros}, zeros <= weights")
        value = tuple(LayerZeros(item["layer"], item["weights"], item["zeros"]) for item in value)
    elif kinds.startswith("tuple[int"):
        if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
            _reject(path, name, value, "must be a list of whole numbers, at least 0")
        value = tuple(value)
    elif kinds.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            _reject(path, name, value, "must be a list of strings")
        value = tuple(value)
    elif kinds.startswith("dict"):
        if not isinstance(value, dict):
            _reject(path, name, value, "must be an object")
    elif not isinstance(value, str):
        _reject(path, name, value, "must be a string")

    if name.endswith("_percent") and not 0 <= value <= 100:
        _reject(path, name, value, "must be in [0, 100]")
    if isinstance(value, float) and "sparsity" in name and not 0 <= value <= 1:
        _reject(path, name, value, "must be in [0, 1]")
    if name == "regime" and value not in REGIMES:
        _reject(path, name, value, f"must be one of {', '.join(REGIMES)}")
    if name == "paper_section" and value not in ("", *PAPER_SECTIONS):
        _reject(path, name, value, f"must be empty or one of {', '.join(PAPER_SECTIONS)}")
    return value


def _is_layer(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("layer"), str):
        return False
    weights, zeros = value.get("weights"), value.get("zeros")
    return type(weights) is int and type(zeros) is int and 0 <= zeros <= weights


def _reject(path: Path, name: str, value: Any, rule: str) -> None:
    raise UserError(f"{path}: `{name}` {rule}. Received: {name}={value!r}")
