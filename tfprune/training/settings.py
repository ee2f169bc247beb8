"""The settings of one fit."""

import math
from dataclasses import dataclass

from tfprune.settings import ABOVE_0, AT_LEAST_1, Rule, SettingError, With, check_settings, setting

MIXED_PRECISION = ("none", "float16", "bfloat16")
LR_SCHEDULES = ("step", "cosine")


# The epochs are listed, in the plan of evaluations and in the history.
EPOCHS = Rule("at least 1 and at most a million", lambda value: 1 <= value <= 1_000_000)


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of one fit; each field says what it does.

    With `lr_boundaries_epochs=(20,)` epochs 1 to 20 run at the full rate, as with PyTorch's `MultiStepLR`.
    The last batch of an epoch may be smaller than `batch_size`.

    Raises:
        SettingError: On a value that makes no sense; the message names the setting.
    """

    epochs: int = setting(20, "Epochs of the fit.", rule=EPOCHS)
    batch_size: int = setting(128, "Examples a step.", rule=AT_LEAST_1)
    learning_rate: float = setting(1e-5, "Adam's learning rate at the start of each round.", rule=ABOVE_0)
    head_learning_rate: float = setting(
        0.0,
        "The head's own learning rate. 0: the same.",
        rule=Rule("finite and above 0, or 0", lambda value: 0 <= value < math.inf),
    )
    lr_schedule: str = setting(
        "step",
        "Of each round, step by step: step: by --lr_boundaries_epochs. cosine: from the full rate to zero.",
        choices=LR_SCHEDULES,
        paper="step",
        words=lambda value: f"{value} learning rate",
    )
    warmup_epochs: float = setting(
        0.0,
        "The rates rise linearly over so many epochs, a fraction too, at the start of each round.",
        paper=0.0,
        words=lambda value: f"warm-up of {value:g} {'epoch' if value == 1 else 'epochs'}",
    )
    lr_boundaries_epochs: tuple[int, ...] = setting(
        (),
        "Both rates are multiplied by --lr_factor after these numbers of epochs of a round. Empty: never.",
        rule=Rule(
            "rising numbers of epochs, at least 1",
            lambda bounds: list(bounds) == sorted(set(bounds)) and all(bound > 0 for bound in bounds),
        ),
        only_with=(With("lr_schedule", ("step",)),),
    )
    lr_factor: float = setting(
        0.1,
        "What both rates are multiplied by after each of --lr_boundaries_epochs.",
        rule=ABOVE_0,
        paper=0.1,
        only_with=(With("lr_boundaries_epochs"),),
    )
    weight_decay: float = setting(
        5e-4,
        "L2 added to every gradient, as in torch.optim.Adam (not decoupled).",
        rule=Rule("at least 0 and finite", lambda value: 0 <= value < math.inf),
        paper=5e-4,
    )
    evaluate_every: int = setting(
        1,
        "The test images are evaluated after each so many epochs of a round, and always after its last.",
        rule=AT_LEAST_1,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.warmup_epochs < self.epochs:
            rule = f"at least 0 and below the number of epochs, {self.epochs}"
            raise SettingError("warmup_epochs", rule, self.warmup_epochs)
        if self.lr_boundaries_epochs and self.lr_schedule == "cosine":
            rule = "empty with lr_schedule=cosine"
            raise SettingError("lr_boundaries_epochs", rule, self.lr_boundaries_epochs)

    @property
    def evaluated_epochs(self) -> list[int]:
        """Numbers, from 1, of the epochs after which the test batches are evaluated."""
        return [*range(self.evaluate_every, self.epochs, self.evaluate_every), self.epochs]

    @property
    def head_factor(self) -> float:
        """The head's learning rate over the backbone's."""
        return (self.head_learning_rate or self.learning_rate) / self.learning_rate
