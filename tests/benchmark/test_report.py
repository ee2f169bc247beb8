import csv
import io
import json

import pytest

from tests.support.canned import canned_record
from tfprune.benchmark.files import to_csv, write_benchmark
from tfprune.benchmark.plot import plot_benchmark
from tfprune.benchmark.report import format_benchmark, headline


def line_of(text, start, after=""):
    """The first line that starts so, below a line that starts with `after`; blanks as one."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(after))
    return " ".join(next(line for line in lines[first:] if line.startswith(start)).split())


def test_latency_and_ratios():
    text = format_benchmark(canned_record())
    assert "\n\nA processor, 2 cores; images 32x32x3\n" in text
    for title in ("1 thread, batch 1", "1 thread, batch 8", "2 threads, batch 1", "2 threads, batch 8"):
        assert title in text.splitlines()
    assert "to TFLite float32" in text
    assert "to ONNX Runtime, fastest dense" in text
    expected = "tfprune sparse 1.5e-03 10.0 (10.0 to 15.0) 5.00x (5.00 to 5.00) 4.00x (4.00 to 4.00)"
    assert line_of(text, "tfprune sparse") == expected
    # int8 is twice as fast as TFLite in the median round, though it is no dense baseline itself.
    assert line_of(text, "TFLite int8").endswith("2.00x (1.50 to 3.00) 1.60x (1.20 to 2.40)")
    assert line_of(text, "PyTorch") == "PyTorch - not timed - - -"


def test_the_headline_comes_first():
    """Time, both ratios and the size; what was not measured is not claimed."""
    record = canned_record()
    expected = (
        "model.tfprune takes 10.0 ms a call (1 thread, batch 1), 5.0 times as fast as TFLite float32, "
        "4.0 times as fast as ONNX Runtime, the fastest dense runtime measured. It has 1,000 bytes: "
        "40.0 times smaller than the dense float32 weights."
    )
    assert headline(record) == expected
    assert " ".join(format_benchmark(record).split()).startswith(expected)
    ours = next(row for row in record["latency"][0]["rows"] if row["name"] == "tfprune")
    ours["to_tflite_dense"] = None
    assert "TFLite" not in headline(record)
    ours["failure"] = "it crashed"
    record["sizes"]["artifacts"] = []
    assert headline(record) == "model.tfprune was not timed."


def test_those_not_timed_have_a_reason():
    text = format_benchmark(canned_record())
    assert "  PyTorch: failed: RuntimeError: no such kernel" in text
    assert "  MNN: not installed (pip install onnx MNN)" in text


def test_sizes():
    record = canned_record()
    text = format_benchmark(record)
    assert line_of(text, "dense float32 weights") == "dense float32 weights 40,000 1.0x - - - -"
    assert line_of(text, "model.tfprune", "Size") == "model.tfprune 1,000 40.0x 900 44.4x 800 50.0x"
    plain_gzip = "the masked dense float32 file, gzip 8,000 5.0x - - - -"
    assert line_of(text, "the masked dense float32 file") == plain_gzip
    record["sizes"]["zstd_installed"] = False
    assert "zstd: not installed (pip install zstandard)" in format_benchmark(record)


def test_memory():
    record = canned_record()
    text = format_benchmark(record)
    title = "Peak memory"
    assert line_of(text, "Python with NumPy", title) == "Python with NumPy 30.0 - -"
    assert line_of(text, "tfprune sparse", title) == "tfprune sparse 50.0 20.0 0.50"
    assert line_of(text, "ONNX Runtime ", title) == "ONNX Runtime failed - -"
    assert "ONNX Runtime: RuntimeError: its process failed: killed" in text
    assert title not in format_benchmark(record | {"memory": None})


def test_layers_are_shown_on_request():
    assert "Layers of" not in format_benchmark(canned_record())
    text = format_benchmark(canned_record(), layers=True)
    assert line_of(text, "conv1") == "conv1 3x3x16x32 8x8x32 0.9500 sparse 12 99 30 75.0 % 19.7"
    assert line_of(text, "Add x2") == "Add x2 - - - - - - 10 25.0 % -"


def test_without_any_dense_contender():
    record = canned_record()
    for setting in record["latency"]:
        setting["fastest_dense"] = None
        setting["rows"] = [setting["rows"][0] | {"to_tflite_dense": None, "to_fastest_dense": None}]
    assert line_of(format_benchmark(record), "tfprune sparse").endswith("(10.0 to 15.0) - -")
    assert len(plot_benchmark(record, "title").axes) == 2


def test_csv_has_every_contender_in_every_setting():
    rows = list(csv.DictReader(io.StringIO(to_csv(canned_record()))))
    assert len(rows) == 4 * 6
    ours = rows[0]
    assert (ours["threads"], ours["batch_size"], ours["contender"]) == ("1", "1", "tfprune")
    assert float(ours["milliseconds"]) == pytest.approx(10)
    assert float(ours["times_as_fast_as_tflite_dense"]) == pytest.approx(5)
    assert float(ours["times_as_fast_as_fastest_dense_lower_quartile"]) == pytest.approx(4)
    assert (ours["fastest_dense"], ours["peak_memory_bytes"]) == ("onnxruntime", "50000000")
    absent = {row["contender"]: row["not_timed"] for row in rows}
    assert absent["mnn"] == "not installed (pip install onnx MNN)"
    assert absent["pytorch"] == "failed: RuntimeError: no such kernel"
    assert absent["tfprune"] == ""


def test_the_picture_shows_what_was_measured():
    figure = plot_benchmark(canned_record(), "resnet18 of a test")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:4] == [f"Latency, {t}, batch {b}" for t in ("1 thread", "2 threads") for b in (1, 8)]
    assert titles[4].startswith("File size") and titles[5].startswith("Peak memory")
    latency = figure.axes[0]
    assert [label.get_text() for label in latency.get_yticklabels()][0] == "tfprune sparse"
    assert [bar.get_width() for bar in latency.patches[:2]] == pytest.approx([0.25 - 1, 1.25 - 1])
    assert latency.texts[0].get_text() == "10.0 ms, 4.00x"
    low, high = latency.get_xlim()
    assert low < 0.25 and high > 1.25


@pytest.mark.slow
def test_the_picture_explains_its_colours():
    figure = plot_benchmark(canned_record(), "resnet18 of a test")
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["tfprune (sparse)", "dense int8", "dense float", "gzipped", "the dense float32 weights"]
    colors = {
        label: handle.get_facecolor() for label, handle in zip(labels, legend.get_patches(), strict=False)
    }
    for panel in figure.axes:
        drawn = {bar.get_facecolor() for bar in panel.patches}
        assert drawn and drawn <= set(colors.values())
    # Files have their runtimes' colours.
    assert figure.axes[4].patches[1].get_facecolor() == colors["tfprune (sparse)"]
    # The legend lies between the title and the panels.
    figure.canvas.draw()
    box = legend.get_window_extent()
    title = figure.get_suptitle().rstrip().count("\n") + 1
    assert title == 2 and figure.axes[0].title.get_window_extent().y1 < box.y0
    assert box.x1 < figure.bbox.x1


def test_the_files(tmp_path):
    paths = write_benchmark(canned_record(), tmp_path, "title")
    assert [path.name for path in paths] == ["benchmark.json", "benchmark.csv", "benchmark.png"]
    assert json.loads(paths[0].read_text()) == canned_record()
    assert paths[1].read_text() == to_csv(canned_record())
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == sorted(paths)
