"""Hand-written SVG: axes, lines, markers and labels, coloured by the classes of the page's style."""

import dataclasses
import math
from collections.abc import Sequence

from tfprune.compare.page_html import escape

SPARSITY_TICKS = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale from values to pixels.

    Attributes:
        low: The value at the axis's start.
        high: The value at its end.
        start: The pixel of `low`.
        end: The pixel of `high`.
        logarithmic: Whether the scale is the logarithm's.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; one beyond the axis is put on its end."""
        value = min(max(value, min(self.low, self.high)), max(self.low, self.high))
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def picture(width: int, height: int, description: str, parts: Sequence[str]) -> str:
    """An SVG element with its description for readers who do not see it."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg>"
    )


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """Text; `anchor` is start, middle or end."""
    names = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{names}>{escape(content)}</text>'


def line(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through points; nothing for fewer than two."""
    if len(points) < 2:
        return ""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline class="line {kind}" points="{path}"/>'


def segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A filled rectangle."""
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:.1f}" height="{height:g}"/>'


def error_bar(x: float, y1: float, y2: float, kind: str) -> str:
    """A vertical line from one end of a spread to the other."""
    return segment(x, y1, x, y2, f"error {kind}")


def marker(x: float, y: float, shape: str, kind: str, title: str = "", radius: float = 4.5) -> str:
    """A mark of a shape: circle, square, triangle, diamond, cross or down (a triangle on its tip)."""
    inside = f"<title>{escape(title)}</title>" if title else ""
    if shape == "circle":
        return f'<circle class="mark {kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}">{inside}</circle>'
    r = radius
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        "down": [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "cross": [
            *[(-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)],
            *[(0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)],
        ],
    }[shape]
    path = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners)
    return f'<polygon class="mark {kind}" points="{path}">{inside}</polygon>'


def frame(x: Axis, y: Axis, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[float]) -> list[str]:
    """Grid lines with their labels, left and below."""
    parts = []
    for value in y_ticks:
        parts.append(segment(x.start, y(value), x.end, y(value), "grid"))
        parts.append(text(x.start - 6, y(value) + 3.5, f"{value:g}".replace("-", "−"), "tick", "end"))
    previous = -math.inf
    for value, label in x_ticks:
        parts.append(segment(x(value), y.start, x(value), y.end, "grid"))
        if x(value) - previous > 6.2 * len(label) + 4:  # Labels that would touch are left out.
            parts.append(text(x(value), y.start + 15, label, "tick", "middle"))
            previous = x(value)
    parts.append(segment(x.start, y.start, x.end, y.start, "axis"))
    return parts


def sparsity_axis(least_density: float, start: float, end: float) -> tuple[Axis, list[tuple[float, str]]]:
    """An axis of the share of weights left, logarithmic, and ticks labelled with the sparsity."""
    right = least_density / 1.15
    ticks = [(1 - sparsity, f"{sparsity:g}") for sparsity in SPARSITY_TICKS if 1 - sparsity >= right]
    return Axis(1.15, right, start, end, logarithmic=True), ticks


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most about `most` of them."""
    rough = max(high - low, 1e-9) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 9) + 0.0 for index in range(first, last + 1)]


def apart(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves label positions as little as needed to lie `gap` apart within [low, high]."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed: list[list[float]] = []  # Blocks of [centre, members], merged while they overlap.
    for index in order:
        placed.append([positions[index], 1])
        while len(placed) > 1:
            (above, many), (below, few) = placed[-2], placed[-1]
            if below - above >= gap * (many + few) / 2:
                break
            placed[-2:] = [[(above * many + below * few) / (many + few), many + few]]
    result = [0.0] * len(positions)
    at = 0
    for centre, members in placed:
        half = gap * (members - 1) / 2
        centre = min(max(centre, low + half), max(high - half, low + half))
        for offset in range(int(members)):
            result[order[at]] = round(centre - half + gap * offset, 1)
            at += 1
    return result
