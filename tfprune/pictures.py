"""Pictures of the library: a figure without pyplot's state, written whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfprune.extras import extra
from tfprune.files import replacing

_ENDINGS = (".png", ".svg", ".pdf")


def new_figure(width: float, height: float) -> Any:
    """Returns an empty figure of 100 pixels an inch. It belongs to no pyplot state.

    Args:
        width, height: In inches.
    """
    # Not with the library: who draws nothing does not wait for it.
    with extra("plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_picture(path: str | os.PathLike, draw: Callable[[], Any]) -> None:
    """Writes a figure to a file, whole or not at all.

    Args:
        path: The file; its ending says the format: `.png`, `.svg` or `.pdf`.
        draw: Returns the figure; not called if the ending is another one.

    Raises:
        ValueError: On another ending.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"`path` must end in {', '.join(_ENDINGS)}. Received: path={str(path)!r}")
    figure = draw()
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower())


def short_count(count: int) -> str:
    """Returns a number of three digits with its unit: 1234567 -> `1.23 M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def short_name(name: str, longest: int) -> str:
    """Returns the end of a name that is longer than a number of characters."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"
