"""Makes a notebook of a guide: its text and its Python blocks, cell by cell.

  python scripts/make_notebook.py

writes docs/your_model.ipynb anew from docs/your_model.md, which is where changes are made.
"""

import json
import pathlib
import re

GUIDE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "your_model.md"
_BLOCK = re.compile(r"^```(python|text)[^\n]*\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def notebook_of(guide: str) -> str:
    """Returns the notebook of a guide in Markdown.

    What the guide says that a block prints is the output of its cell. The link to the notebook is left out.

    Args:
        guide: The text of the guide.
    """
    cells: list[dict] = []
    end = 0
    for block in _BLOCK.finditer(guide):
        _add_text(cells, guide[end : block.start()])
        if block[1] == "python":
            cells.append(_cell("code", block[2], execution_count=None, outputs=[]))
        else:
            printed = {"name": "stdout", "output_type": "stream", "text": _lines(block[2])}
            cells[-1]["outputs"] = [printed]
        end = block.end()
    _add_text(cells, guide[end:])
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, sort_keys=True) + "\n"


def _add_text(cells: list[dict], text: str) -> None:
    text = re.sub(r" The same as\na \[notebook\]\([^)]*\)\.", "", text).strip("\n")
    if text:
        cells.append(_cell("markdown", text + "\n"))


def _cell(kind: str, source: str, **further: object) -> dict:
    return {"cell_type": kind, "metadata": {}, "source": _lines(source), **further}


def _lines(text: str) -> list[str]:
    return text.rstrip("\n").splitlines(keepends=True)


if __name__ == "__main__":
    GUIDE.with_suffix(".ipynb").write_text(notebook_of(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
