"""What an artifact must satisfy, and the error for one that does not."""

import numpy as np

from tfprune.errors import UserError

MAX_LOGIT_DIFFERENCE = 1e-4
MIN_EQUAL_PREDICTIONS_PERCENT = 99.0
MAX_STORED_TO_WEIGHTS_BYTES = 1.05


class AuditError(UserError):
    """An exported artifact does not do what the network does; the message says which and how far.

    Attributes:
        failures: One line for each broken rule: artifact, measured value, rule.
    """

    def __init__(self, failures: list[str]) -> None:
        """Joins the failures into one message."""
        super().__init__("the export failed its audit: " + "; ".join(failures))
        self.failures = failures


def rule_for(weights: str) -> str:
    """Says what the audit asks of the logits of an artifact with these weights.

    Args:
        weights: As in `Artifact.weights`.

    Returns:
        The rule in words.
    """
    if weights == "float32":
        return f"largest logit difference <= {MAX_LOGIT_DIFFERENCE:g} of the largest logit"
    return f"equal predictions >= {MIN_EQUAL_PREDICTIONS_PERCENT:g} %"


def compare_logits(logits: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Compares an artifact's logits with the network's.

    Args:
        logits: The artifact's, `[n, classes]`.
        reference: The network's, `[n, classes]`, finite.

    Returns:
        `largest_logit_difference`, the same over the largest absolute reference logit
        (`largest_logit_difference_relative`), and `equal_predictions_percent`. A logit that is
        not finite differs infinitely, and its image counts as predicted otherwise.
    """
    finite = np.isfinite(logits)
    difference = np.abs(np.where(finite, logits, np.inf) - reference).max()
    largest = np.abs(reference).max()
    relative = difference / largest if largest > 0 else (0.0 if difference == 0 else np.inf)
    equal = (logits.argmax(1) == reference.argmax(1)) & finite.all(1)
    return {
        "largest_logit_difference": float(difference),
        "largest_logit_difference_relative": float(relative),
        "equal_predictions_percent": float(100.0 * equal.mean()),
    }


def logits_failure(weights: str, measured: dict[str, float]) -> str | None:
    """Applies `rule_for(weights)`.

    Args:
        weights: As in `Artifact.weights`.
        measured: What `compare_logits` returned.

    Returns:
        None if the rule holds, else the measured value and the rule.
    """
    relative = measured["largest_logit_difference_relative"]
    percent = measured["equal_predictions_percent"]
    if weights == "float32":
        passed, text = relative <= MAX_LOGIT_DIFFERENCE, f"{relative:.3g} of the largest logit"
    else:
        passed, text = percent >= MIN_EQUAL_PREDICTIONS_PERCENT, f"{percent:.2f} % equal"
    return None if passed else f"measured {text}, the rule is {rule_for(weights)}"


def zeros_failure(path: str, counts: list[dict[str, int]], most: int) -> str | None:
    """Checks that a masked layer was found, and that its removed weights are exactly zero.

    Args:
        path: The layer.
        counts: What was counted in each stored copy of its kernel.
        most: How many copies there may be (see `allowed_copies`).

    Returns:
        None if both hold, else the measured value and the rule.
    """
    if not 1 <= len(counts) <= most:
        return (
            f"layer {path!r}: {len(counts)} stored tensors match its kernel, the rule is"
            f" {'1' if most == 1 else f'1 to {most}'}"
        )
    wrong = sum(count["masked"] - count["masked_zero"] for count in counts)
    if wrong:
        return f"layer {path!r}: {wrong} masked weights are not zero, the rule is 0"
    return None
