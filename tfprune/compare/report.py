"""Writes the comparison of an output directory: `comparison.md`, `.csv` and `.png`."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from tfprune.compare.figures import accuracy_png
from tfprune.compare.rows import Experiment, compare, read_ancestors
from tfprune.compare.text import to_csv, to_markdown, to_text
from tfprune.errors import UserError
from tfprune.files import write_bytes
from tfprune.lock import hold
from tfprune.runs.folder import read_runs


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The files of `write_comparison`.

    Attributes:
        text: The tables for a terminal of 120 columns.
        experiments: What they were made from.
        markdown_path: The same tables in Markdown.
        csv_path: All rows with all columns.
        png_path: Accuracy over sparsity.
    """

    text: str
    experiments: tuple[Experiment, ...]
    markdown_path: Path
    csv_path: Path
    png_path: Path

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """The files written."""
        return self.markdown_path, self.csv_path, self.png_path


def write_comparison(output_dir: str | Path, experiments: Sequence[str] | None = None) -> Comparison:
    """Compares the run folders of a directory with each other and with the paper.

    Args:
        output_dir: Where the run folders are and the files go.
        experiments: Names of run folders; `None` or empty for all of them. Dense networks that
            the drops refer to are found among the others too.

    Returns:
        The text, the experiments and the paths.

    Raises:
        UserError: If there is nothing to compare, an experiment is unknown, a `result.json` is
            not valid, a file cannot be written, or another process writes a comparison there.
    """
    output_dir = Path(os.path.expanduser(output_dir))
    runs = read_runs(output_dir, experiments)
    found = compare(runs, read_ancestors(output_dir, runs))
    if not found:
        names = ", ".join(run.experiment for run in runs)
        raise UserError(f"--output_dir={output_dir}: no round has finished yet of {names}.")
    comparison = Comparison(
        text=to_text(found, runs),
        experiments=tuple(found),
        markdown_path=output_dir / "comparison.md",
        csv_path=output_dir / "comparison.csv",
        png_path=output_dir / "comparison.png",
    )
    contents = to_markdown(found, runs).encode(), to_csv(found).encode(), accuracy_png(found)
    with hold(output_dir, f"--output_dir={output_dir}", "comparison"):
        for path, content in zip(comparison.paths, contents, strict=True):
            _write(path, content)
    return comparison


def _write(path: Path, content: bytes) -> None:
    """Writes the whole file or leaves the old one."""
    try:
        write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
