"""Writes `index.html`: a study on one self-contained page."""

import functools
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from tfprune.compare import words
from tfprune.compare.page.view import STATES, Progress, View, make_view
from tfprune.compare.rows import compare, read_ancestors
from tfprune.errors import UserError
from tfprune.extras import extra
from tfprune.files import make_folder, write_text
from tfprune.lock import hold
from tfprune.runs.folder import Run, list_experiments, read_runs
from tfprune.text import printable

with extra("experiments"):
    import jinja2
    import markupsafe


def write_page(
    output_dir: str | Path,
    experiments: Sequence[str] | None = None,
    *,
    refresh_seconds: int | None = None,
    status: Sequence[tuple[str, str, str]] | None = None,
) -> Path:
    """Writes `<output_dir>/index.html`, a page without any reference to another file.

    Args:
        output_dir: Where the run folders are and the page goes.
        experiments: Names of run folders; `None` or empty for all of them.
        refresh_seconds: The page reloads itself so often, for a study that is running.
        status: Progress of a study, shown at the top: rows of (label, state, text), the state one of
            `STATES`. With it the page is written even before any round has finished, and `experiments`
            may name folders that are not there yet.

    Returns:
        The page's path.

    Raises:
        UserError: Without `status`, if there is nothing to compare; if an experiment is unknown, a file
            of a run folder is not valid, the page cannot be written, or another process writes one there.
        ValueError: If a state is unknown or `refresh_seconds` is less than 1.
    """
    if refresh_seconds is not None and refresh_seconds < 1:
        raise ValueError(f"`refresh_seconds` must be at least 1. Received: refresh_seconds={refresh_seconds}")
    for label, state, _ in status or ():
        if state not in STATES:
            raise ValueError(
                f"`status` must have states out of {', '.join(STATES)}. Received: {label!r} with "
                f"state={state!r}"
            )
    output_dir = Path(os.path.expanduser(output_dir))
    runs = _runs(output_dir, experiments, lenient=status is not None)
    found = compare(runs, read_ancestors(output_dir, runs)) if runs else []
    if not found and status is None:
        names = ", ".join(run.experiment for run in runs)
        raise UserError(f"--output_dir={output_dir}: no round has finished yet of {names}.")
    progress = None if status is None else [Progress(*row) for row in status]
    page = render(make_view(found, runs, progress, refresh_seconds))
    path = output_dir / "index.html"
    try:
        make_folder(output_dir)
        with hold(output_dir, f"--output_dir={output_dir}", "comparison"):
            write_text(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _runs(output_dir: Path, experiments: Sequence[str] | None, lenient: bool) -> list[Run]:
    if lenient:
        present = list_experiments(output_dir) if output_dir.exists() else []
        experiments = [name for name in experiments or present if name in present]
        if not experiments:
            return []
    return read_runs(output_dir, experiments)


def render(view: View) -> str:
    """Returns the page of a view: the template escapes all text, the stylesheet stands inside."""
    style = resources.files("tfprune.compare.page").joinpath("page.css").read_text(encoding="utf-8")
    return _template().render(view=view, style=markupsafe.Markup(style))


@functools.cache  # To compile it takes as long as to fill it in, and a study writes its page often.
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfprune.compare.page", "."),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    environment.globals |= {"words": words, "NOTHING": words.NOTHING}
    return environment.get_template("page.html.j2")


def _printable(value: object) -> object:
    """Returns what a variable of the template shows: of text the lines, without what cannot be seen."""
    if type(value) is not str:  # A number, or markup made here.
        return value
    return "\n".join(map(printable, value.split("\n")))


def breakable(name: str) -> markupsafe.Markup:
    """Returns a name, escaped, that may break behind its underscores."""
    return markupsafe.escape(printable(name)).replace("_", markupsafe.Markup("_<wbr>"))
