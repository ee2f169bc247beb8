"""What the comparison shows or writes is text: it commands neither a terminal nor a spreadsheet."""

import csv
import io
import json
import unicodedata

import pytest

from tests.support.canned import canned_record
from tfprune.compare.page.page import write_page
from tfprune.compare.report import write_comparison
from tfprune.runs.result import LayerZeros

pytestmark = pytest.mark.one_backend

# A terminal's title and colour, in both forms; text that runs backwards; and a line of its own.
TERMINAL = "x\x1b]0;title\x07\x9b31m\u202ecba\u2066\u200f\x08"


@pytest.fixture
def hostile(folder, small_cifar):
    """Writes run folders in which every text is `text`; returns the folder."""

    def write(text):
        folder.dense("base", 92.0, "baseline", **small_cifar)
        more = {"hardware": {"processor": text, "devices": [text]}, "versions": {text: text}}
        more["layers"] = (LayerZeros(text, 100, 95),)
        path = folder.one_shot("a", "base", 0.95, (10, 91), "4.3.2", **small_cifar, **more)
        content = json.loads(path.read_text())
        content["config"] |= {"model": text, "stem": text, "distill_from": text, "layer_sparsity": [text]}
        content["config"] |= {"weights": text, "score": text}
        content["differences"] = [{"setting": text, "ours": [text], "paper": text}]
        path.write_text(json.dumps(content))
        export = folder.path / "a/export"
        export.mkdir()
        artifacts = {"artifacts": {text: {"bytes": 5, "weights": text}}}
        (export / "export.json").write_text(json.dumps(artifacts))
        record = canned_record()
        record["machine"]["processor"] = record["contenders"][0]["title"] = text
        (export / "benchmark.json").write_text(json.dumps(record))
        (folder.path / "a/flags.txt").write_text(f"{text}\n", encoding="utf-8")
        (folder.path / text.replace("/", "_") / "round_00").mkdir(parents=True)
        return folder.path

    return write


def commands_in(text):
    """The characters that are neither seen nor ends of lines."""
    return {char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs")}


def test_a_terminal(hostile):
    path = hostile(TERMINAL)
    comparison = write_comparison(path)
    assert r"\x1b]0;title\x07\x9b31m\u202ecba\u2066\u200f\x08" in comparison.text  # Of an unfinished run.
    page = write_page(path, status=[(TERMINAL, "failed", TERMINAL)])
    for text in (comparison.text, *(p.read_text() for p in (*comparison.paths[:2], page))):
        assert r"\x1b]0;title\x07" in text
        assert not commands_in(text)


@pytest.mark.parametrize(
    "formula", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "  =1", "＝1+1"]
)
def test_a_spreadsheet(hostile, formula, folder):
    path = hostile(formula)
    rows = list(csv.DictReader(io.StringIO(write_comparison(path).csv_path.read_text())))
    cells = [cell for row in rows for cell in row.values()]
    assert any(cell.startswith("'") for cell in cells)
    for cell in cells:
        if cell.lstrip()[:1] in tuple("=+-@＝＋－＠"):
            float(cell)  # A number, which is computed by nobody.
        assert not commands_in(cell)


def test_a_negative_number_stays_one(folder, small_cifar):
    folder.dense("base", 92.0, "baseline", **small_cifar)
    folder.one_shot("a", "base", 0.95, (10, 93), "4.3.2", **small_cifar)
    *_, row = csv.DictReader(io.StringIO(write_comparison(folder.path).csv_path.read_text()))
    assert -1.0 in [float(cell) for cell in row.values() if cell.startswith("-")]


def test_a_cell_and_a_tag_of_markdown(hostile):
    path = hostile("<img src=x>|y")
    text = write_comparison(path).markdown_path.read_text()
    assert "<img" not in text and r"&lt;img src=x>\|y" in text
