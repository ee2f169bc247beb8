"""How to train: the numbers of one fit."""

import math
from dataclasses import dataclass

MIXED_PRECISION = ("none", "float16", "bfloat16")
LR_SCHEDULES = ("step", "cosine")


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of one fit.

    Attributes:
        epochs: How often each training example is seen.
        batch_size: Examples a step; the last batch of an epoch may be smaller.
        learning_rate: Of the convolutional part.
        head_learning_rate: Of the layer `head`; 0: the same as `learning_rate`.
        lr_schedule: "step", by the boundaries below, or "cosine", from the full rate to zero over the fit.
        warmup_epochs: Over so many epochs at the start, a fraction too, the rates rise linearly.
        lr_boundaries_epochs: Both rates are multiplied by `lr_factor` after each of these numbers of
            epochs: with 20, epochs 1 to 20 run at the full rate (PyTorch's `MultiStepLR`). Empty for
            "cosine".
        lr_factor: See `lr_boundaries_epochs`.
        weight_decay: L2 added to the gradient of every parameter, as in `torch.optim.Adam`.
        evaluate_every: The test batches are evaluated after each so many epochs, and after the last.

    Raises:
        ValueError: On a value that makes no sense; the message names it.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-5
    head_learning_rate: float = 0.0
    lr_schedule: str = "step"
    warmup_epochs: float = 0.0
    lr_boundaries_epochs: tuple[int, ...] = ()
    lr_factor: float = 0.1
    weight_decay: float = 5e-4
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        rules = [
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("evaluate_every", self.evaluate_every >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
            ("head_learning_rate", 0 <= self.head_learning_rate < math.inf, "finite and above 0, or 0"),
            ("lr_schedule", self.lr_schedule in LR_SCHEDULES, f"one of {', '.join(LR_SCHEDULES)}"),
            (
                "warmup_epochs",
                0 <= self.warmup_epochs < self.epochs,
                f"at least 0 and below the number of epochs, {self.epochs}",
            ),
            ("lr_factor", 0 < self.lr_factor < math.inf, "above 0 and finite"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0 and finite"),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"`{name}` must be {rule}. Received: {name}={getattr(self, name)}")
        bounds = self.lr_boundaries_epochs
        if list(bounds) != sorted(set(bounds)) or any(not 0 < b for b in bounds):
            raise ValueError(
                "`lr_boundaries_epochs` must be rising numbers of epochs, at least 1. "
                f"Received: lr_boundaries_epochs={','.join(map(str, bounds))}"
            )
        if bounds and self.lr_schedule == "cosine":
            raise ValueError(
                "`lr_boundaries_epochs` must be empty with lr_schedule=cosine. "
                f"Received: lr_boundaries_epochs={','.join(map(str, bounds))}"
            )

    @property
    def evaluated_epochs(self) -> list[int]:
        """Numbers, from 1, of the epochs after which the test batches are evaluated."""
        return [*range(self.evaluate_every, self.epochs, self.evaluate_every), self.epochs]

    @property
    def head_factor(self) -> float:
        """The head's learning rate over the backbone's."""
        return (self.head_learning_rate or self.learning_rate) / self.learning_rate
