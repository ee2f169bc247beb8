"""`ExperimentConfig`: everything that one experiment is, checked before anything is loaded."""

import math
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NoReturn

from tfprune.data.datasets import DATASETS
from tfprune.data.pipeline import AUTOAUGMENT_CHOICES
from tfprune.errors import UserError, blame_flag
from tfprune.experiments.pruning import BEYOND_TFMOT, REGROWTH, check_pruning
from tfprune.models.resnet import BLOCKS_PER_STAGE, STEMS
from tfprune.runs.paper import PAPER_SECTIONS
from tfprune.sparsity.masks import SCOPES
from tfprune.sparsity.patterns import GRANULARITIES, POOLING_TYPES
from tfprune.sparsity.scores import SCORES
from tfprune.training.settings import LR_SCHEDULES, MIXED_PRECISION, TrainingSettings

REGIMES = ("dense", "one_shot", "iterative", "gradual", "sparse")
SCHEDULES = ("constant", "polynomial", "geometric")
PRUNING_ENGINES = ("tfprune", "tfmot")
AFTER_PRUNING = ("keep", "reset_removed", "recalibrate")
MODELS = tuple(BLOCKS_PER_STAGE)

# Flags that say where things are, not what the experiment is: a rerun may change them.
PLACES = ("output_dir", "data_dir")


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment; each field is the flag of the same name, documented in `tfprune/bin/flags.py`."""

    experiment: str
    output_dir: str = "saved_models"
    seed: int = 0
    init_from: str = ""
    paper_section: str = ""
    dataset: str = "cifar10"
    data_dir: str = ""
    train_examples: int = 0
    test_examples: int = 0
    image_size: int = 224
    autoaugment: str = "cifar10"
    model: str = "resnet34"
    width: int = 64
    stem: str = "imagenet"
    weights: str = "imagenet"
    regime: str = "dense"
    schedule: str = "constant"
    target_sparsity: float = 0.0
    power: float = 3.0
    rounds: int = 1
    frequency: int = 100
    ramp_fraction: float = 0.5
    scope: str = "global"
    prune_layers: str = ""
    layer_sparsity: tuple[str, ...] = ()
    spare_ends: bool = False
    score: str = "magnitude"
    gradient_batches: int = 8
    granularity: str = "weight"
    block_size: tuple[int, ...] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, ...] = ()
    regrowth: str = "none"
    drop_fraction: float = 0.3
    batchnorm_after_pruning: str = "keep"
    batchnorm_batches: int = 32
    pruning_engine: str = "tfprune"
    epochs: tuple[int, ...] = (20,)
    batch_size: int = 128
    learning_rate: float = 1e-5
    head_learning_rate: float = 0.0
    lr_schedule: str = "step"
    warmup_epochs: float = 0.0
    lr_boundaries_epochs: tuple[int, ...] = ()
    lr_factor: float = 0.1
    weight_decay: float = 5e-4
    distill_from: str = ""
    distill_weight: float = 0.5
    distill_temperature: float = 4.0
    evaluate_every: int = 1
    mixed_precision: str = "none"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output_dir).expanduser() / self.experiment

    @property
    def last_round(self) -> int:
        """Number of the experiment's last round: 0 for `dense`."""
        return {"dense": 0, "iterative": self.rounds}.get(self.regime, 1)

    @property
    def training_rounds(self) -> int:
        """How many rounds train."""
        return max(self.last_round, 1)

    def settings(self, round_number: int) -> TrainingSettings:
        """The numbers of a round's fit; `dense` trains in round 0, the others in 1 to `last_round`."""
        index = max(round_number - 1, 0)
        epochs = self.epochs[index] if len(self.epochs) > 1 else self.epochs[0]
        return TrainingSettings(
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            head_learning_rate=self.head_learning_rate,
            lr_schedule=self.lr_schedule,
            warmup_epochs=self.warmup_epochs,
            lr_boundaries_epochs=self.lr_boundaries_epochs,
            lr_factor=self.lr_factor,
            weight_decay=self.weight_decay,
            evaluate_every=self.evaluate_every,
        )

    def check(self) -> None:
        """Checks all that can be checked without data and weights.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.experiment):
            raise UserError(
                f"--experiment={self.experiment}: must be a folder name of letters, digits, '.', '_' and '-'"
            )
        for name, choices in (
            ("dataset", DATASETS),
            ("autoaugment", AUTOAUGMENT_CHOICES),
            ("model", MODELS),
            ("stem", STEMS),
            ("regime", REGIMES),
            ("schedule", SCHEDULES),
            ("scope", SCOPES),
            ("score", tuple(SCORES)),
            ("granularity", GRANULARITIES),
            ("block_pooling_type", POOLING_TYPES),
            ("regrowth", tuple(REGROWTH)),
            ("batchnorm_after_pruning", AFTER_PRUNING),
            ("lr_schedule", LR_SCHEDULES),
            ("mixed_precision", MIXED_PRECISION),
            ("pruning_engine", PRUNING_ENGINES),
        ):
            if getattr(self, name) not in choices:
                self.refuse(name, f"must be one of {', '.join(choices)}")
        if self.paper_section not in ("", *PAPER_SECTIONS):
            self.refuse("paper_section", f"must be empty or one of {', '.join(PAPER_SECTIONS)}")
        for name in "rounds frequency gradient_batches batchnorm_batches image_size width batch_size".split():
            if getattr(self, name) < 1:
                self.refuse(name, "must be at least 1")
        for name in ("train_examples", "test_examples"):
            if getattr(self, name) < 0:
                self.refuse(name, "must be at least 0")
        if not 0 <= self.seed < 2**32:
            self.refuse("seed", "must be at least 0 and below 2**32")
        is_path = self.weights not in ("imagenet", "none")
        if is_path and not self.init_from and not Path(self.weights).expanduser().is_file():
            self.refuse("weights", "must be imagenet, none or an existing .safetensors or .pth file")
        if not 0.0 <= self.target_sparsity < 1.0:
            self.refuse("target_sparsity", "must be in [0, 1)")
        if not 0.0 < self.ramp_fraction <= 1.0:
            self.refuse("ramp_fraction", "must be in (0, 1]")
        if not 0.0 < self.drop_fraction < 1.0:
            self.refuse("drop_fraction", "must be in (0, 1)")
        for name in ("power", "distill_temperature"):
            if not 0.0 < getattr(self, name) < math.inf:
                self.refuse(name, "must be above 0 and finite")
        if not 0.0 < self.distill_weight <= 1.0:
            self.refuse("distill_weight", "must be in (0, 1]")
        try:
            re.compile(self.prune_layers)
        except re.error as error:
            self.refuse("prune_layers", f"must be a regular expression: {error}")
        if self.data_dir and not Path(self.data_dir).expanduser().is_dir():
            self.refuse("data_dir", "must be an existing folder")
        self._check_regime()
        check_pruning(self)
        if self.pruning_engine == "tfmot":
            self._check_tfmot()
        if len(self.epochs) not in (1, self.training_rounds):
            self.refuse(
                "epochs",
                f"must be one number, or one for each of the {self.training_rounds} rounds of "
                f"--regime={self.regime}, but has {len(self.epochs)}",
            )
        for number in range(1, self.training_rounds + 1):
            try:
                self.settings(number)
            except ValueError as error:  # "`name` must be ... . Received: name=value"
                name, rule = re.match(r"`(\w+)` (must be .*)\. Received: ", str(error)).groups()
                self.refuse(name, rule)

    def _check_regime(self) -> None:
        if self.regime == "dense":
            if self.target_sparsity:
                self.refuse("target_sparsity", "must be 0 for --regime=dense, which prunes nothing")
        elif not self.target_sparsity:
            self.refuse("target_sparsity", f"must be above 0 for --regime={self.regime}")
        if self.regime in ("dense", "one_shot", "sparse") and self.schedule != "constant":
            self.refuse("schedule", f"must be constant for --regime={self.regime}")
        if self.regime in ("iterative", "gradual") and self.schedule == "constant":
            self.refuse("schedule", f"must be polynomial or geometric for --regime={self.regime}")
        if (self.regime == "sparse") != (self.regrowth != "none"):
            rule = "must be set or rigl for" if self.regime == "sparse" else "must be none but for"
            self.refuse("regrowth", f"{rule} --regime=sparse")
        if self.batchnorm_after_pruning != "keep" and self.regime not in ("one_shot", "iterative"):
            rule = "which does not prune at once, before a round's training"
            self.refuse("batchnorm_after_pruning", f"must be keep for --regime={self.regime}, {rule}")
        if self.regime != "iterative" and self.rounds != 1:
            self.refuse("rounds", f"must be 1 for --regime={self.regime}; only iterative has more")

    def _check_tfmot(self) -> None:
        engine = "with --pruning_engine=tfmot"
        if self.regime in ("dense", "sparse"):
            self.refuse(
                "regime", f"must be one_shot, iterative or gradual {engine}, which trains nothing else"
            )
        if self.scope != "layer":
            self.refuse("scope", f"must be layer {engine}, which has no other: pass --scope=layer")
        if self.regime == "gradual" and self.schedule != "polynomial":
            self.refuse("schedule", f"must be polynomial {engine} for --regime=gradual")
        for name, default in BEYOND_TFMOT.items():
            if getattr(self, name) != default:
                self.refuse(name, f"must be {_to_text(default) or 'empty'} {engine}")
        if self.mixed_precision != "none":
            self.refuse("mixed_precision", f"must be none {engine}, which trains in float32 here")

    def refuse(self, name: str, rule: str) -> NoReturn:
        """Raises the `UserError` of a flag whose value breaks a rule."""
        raise UserError(f"{self.flag(name)}: {rule}")

    def flag(self, name: str) -> str:
        """Returns a flag as it is written, `--name=value`."""
        return f"--{name}={_to_text(getattr(self, name))}"

    def to_flags(self) -> str:
        """Returns the flagfile that makes this config, one `--name=value` a line."""
        return "".join(f"{self.flag(field.name)}\n" for field in fields(self))

    @classmethod
    def from_flags(cls, text: str) -> "ExperimentConfig":
        """Reads what `to_flags` wrote.

        Raises:
            UserError: On a line that it cannot have written.
        """
        types = {field.name: field.type for field in fields(cls)}
        values = {}
        for line in text.splitlines():
            name, equals, value = line.removeprefix("--").partition("=")
            if not equals or name not in types:
                raise UserError(f"not a flag of an experiment: {line!r}")
            with blame_flag(name, value):
                values[name] = _from_text(value, types[name])
        return cls(**values)

    def differences(self, other: "ExperimentConfig") -> list[str]:
        """Lists the fields, but for places, in which the two differ: `--width=16 (was 64)`."""
        ours, theirs = replace(self, **dict.fromkeys(PLACES, "")), replace(other, **dict.fromkeys(PLACES, ""))
        return [
            f"{ours.flag(field.name)} (was {_to_text(getattr(theirs, field.name))})"
            for field in fields(self)
            if getattr(ours, field.name) != getattr(theirs, field.name)
        ]


def _to_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _from_text(text: str, kind: object) -> object:
    if kind == tuple[int, ...]:
        return tuple(int(part) for part in text.split(",") if part)
    if kind == tuple[str, ...]:
        return tuple(part for part in text.split(",") if part)
    if kind is bool:
        if text not in ("True", "False"):
            raise ValueError(f"must be True or False. Received: {text}")
        return text == "True"
    return kind(text)
