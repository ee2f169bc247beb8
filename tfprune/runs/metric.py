"""The figure by which a run is judged: its name, its unit and which way is better. Loads no Keras."""

import math
from dataclasses import dataclass

from tfprune.records import reject
from tfprune.settings import PERCENT

_DIGITS = 4


@dataclass(frozen=True)
class Metric:
    """A metric on the test data, as results, tables and pictures have it.

    Attributes:
        name: As Keras names it in the history of a fit.
        in_percent: Whether its values are shares of 1, kept and shown in percent.
        higher_is_better: Whether a network with a higher value is the better one.
    """

    name: str
    in_percent: bool
    higher_is_better: bool

    @property
    def unit(self) -> str:
        """`"%"`, or empty."""
        return "%" if self.in_percent else ""

    def check(self, name: str, value: float | None) -> None:
        """Checks a value that was read, where there is one.

        Args:
            name: Of the field that has it.
            value: A finite number; JSON has no others.

        Raises:
            ValueError: If the metric cannot have it.
        """
        if value is not None and self.in_percent and not PERCENT.holds(value):
            reject(name, value, f"must be {PERCENT.text}")

    def loss(self, before: float, after: float) -> float:
        """Returns by how much a value is worse than the one before it; negative where it is better."""
        return before - after if self.higher_is_better else after - before

    def text(self, value: float) -> str:
        """Returns a value as it is shown: `93.10 %`, `0.03120`."""
        return f"{value:.2f} %" if self.in_percent else significant(value)


ACCURACY = Metric("accuracy", in_percent=True, higher_is_better=True)
"""Top-1 accuracy, the metric of the study."""


def significant(value: float, digits: int = _DIGITS) -> str:
    """Returns a number of any size, of so many digits that count: `0.03120`, `1,235`, `3.120e-07`."""
    if not value:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -_DIGITS <= power < 3 * _DIGITS:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - power)}f}"
