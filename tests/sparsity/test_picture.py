import sys

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import Summary, prune_low_magnitude, prune_to, summarize
from tfprune.sparsity.picture import draw_summary
from tfprune.sparsity.summary import VariableSummary


def summary_of(count, pruned=True):
    """Of `count` kernels of 1,000 to 1,000 * count weights, 10 to 90 % of them zero."""
    shares = np.linspace(0.9, 0.1, count)
    variables = [
        VariableSummary(
            f"stage{i}_conv", "kernel", (1, 1, 100, 10 * i), 1000 * i, int(1000 * i * share), pruned
        )
        for i, share in enumerate(shares, start=1)
    ]
    total = sum(v.parameters for v in variables)
    return Summary(tuple(variables), {}, total, sum(v.nonzeros for v in variables))


@pytest.mark.parametrize("count", [1, 3, 36])
def test_one_readable_row_a_variable(count):
    summary = summary_of(count)
    figure = draw_summary(summary)
    sizes, shares = figure.axes
    dense, left = (container.datavalues for container in sizes.containers)
    assert list(dense) == [v.parameters for v in summary.variables]
    assert list(left) == [v.nonzeros for v in summary.variables]
    np.testing.assert_allclose(shares.containers[0].datavalues, [100 * v.sparsity for v in summary.variables])
    assert [label.get_text() for label in sizes.get_yticklabels()] == [v.layer for v in summary.variables]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [label.get_window_extent(renderer) for label in sizes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(boxes, boxes[1:], strict=False))
    assert all(box.x0 >= 0 for box in boxes)
    texts = [text.get_window_extent(renderer) for text in (*sizes.texts, *shares.texts)]
    assert len(texts) == 2 * count
    assert max(text.x1 for text in texts) <= figure.bbox.x1
    assert max(text.get_window_extent(renderer).x1 for text in sizes.texts) <= sizes.bbox.x1
    assert shares.xaxis.label.get_window_extent(renderer).x1 <= figure.bbox.x1


def test_layers_with_several_variables_are_told_apart():
    rows = [VariableSummary("lstm", name, (2, 2), 4, 2, True) for name in ("kernel", "recurrent_kernel")]
    rows.append(VariableSummary("x" * 60, "kernel", (2, 2), 4, 2, True))
    names = [t.get_text() for t in draw_summary(Summary(tuple(rows), {}, 12, 6)).axes[0].get_yticklabels()]
    assert names[:2] == ["lstm/kernel", "lstm/recurrent_kernel"]
    assert len(names[2]) == 40 and names[2].startswith("…")


def test_only_pruned_variables_are_drawn_where_some_are():
    pruned, dense = summary_of(2), summary_of(1, pruned=False)
    both = Summary(pruned.variables + dense.variables, {}, 4000, 2000)
    assert len(draw_summary(both).axes[0].texts) == 2
    assert "pruned parameters" in draw_summary(both).axes[0].get_title(loc="left")
    assert "prunable parameters" in draw_summary(dense).axes[0].get_title(loc="left")


@pytest.mark.parametrize("name, start", [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")])
def test_plot_writes_one_whole_file(tmp_path, name, start, mlp):
    model = prune_low_magnitude(mlp(), None)
    prune_to(model, 0.5)
    path = tmp_path / name
    path.write_text("old")
    summarize(model).plot(path)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    path = tmp_path / "a.png"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        summary_of(2).plot(str(path))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_errors_come_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in .png, .svg, .pdf"):
        summary_of(2).plot(tmp_path / "picture.bmp")
    flat = keras.Sequential([keras.Input((2, 2)), layers.Flatten()])
    with pytest.raises(ValueError, match="nothing to draw"):
        summarize(flat).plot(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_no_pyplot_state_is_made():
    already = "matplotlib.pyplot" in sys.modules
    draw_summary(summary_of(2))
    assert ("matplotlib.pyplot" in sys.modules) == already
