"""The picture of a plan has a row for each group, true to its numbers and readable."""

import keras
import pytest
from keras import layers

from tfprune.structured import plan
from tfprune.structured.costs import Size
from tfprune.structured.picture import draw
from tfprune.structured.plan import Plan, PlannedGroup

pytestmark = pytest.mark.one_backend


def planned(*widths, seconds=None, macs=1000):
    """A plan of which half of each group stays."""
    groups = [
        PlannedGroup((f"layer{n}", "another"), (), width, width // 2, Size(90 * width, macs), Size(40, macs))
        for n, width in enumerate(widths)
    ]
    groups.append(PlannedGroup(("x" * 60,), (), 10, 10, Size(9, macs), Size(5, macs), "an output"))
    sizes = (Size(2_000_000, macs, seconds and seconds[0]), Size(500_000, macs, seconds and seconds[1]))
    return Plan(None, None, None, tuple(groups), *sizes, {}, (Size(0, 0), Size(0, 0)))


def drawn(made):
    """The picture of a plan."""
    return draw(made.groups, made.before, made.after)


@pytest.mark.parametrize("count", [1, 40])
def test_bars_are_as_wide_as_the_numbers_and_texts_have_room(count):
    made = planned(*range(20, 20 + 8 * count, 8))
    figure = drawn(made)
    assert figure.bbox.width == 1100
    widths, *costs = figure.axes
    bars = [bar.patches[0] for bar in widths.containers]
    pairs = list(zip(bars[::2], bars[1::2], strict=True))
    assert [(whole.get_width(), left.get_width()) for whole, left in pairs] == [
        (row.channels, row.kept) for row in made.groups
    ]
    for bar in bars:
        assert bar.get_x() == -bar.get_width() / 2
    assert pairs[-1][1].get_facecolor() != pairs[0][1].get_facecolor()
    for panel, unit in zip(costs, ("parameters", "macs"), strict=True):
        whole, left = (list(container.datavalues) for container in panel.containers)
        assert whole == [getattr(row.before, unit) for row in made.groups]
        assert left == [getattr(row.after, unit) for row in made.groups]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for panel in figure.axes:
        for text in panel.texts:
            assert text.get_window_extent(renderer).x1 <= panel.bbox.x1
        assert panel.title.get_window_extent(renderer).x1 <= figure.bbox.x1
    labels = [label.get_window_extent(renderer) for label in widths.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(labels, labels[1:], strict=False))
    assert all(label.x0 >= 0 for label in labels)


def test_words_and_totals():
    figure = drawn(planned(20, seconds=(0.004, 0.00123)))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "layer0 +1" and names[1] == "…" + 35 * "x"
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == [
        "channels: 30 → 20; 4 → 1.23 ms",
        "parameters: 2 M → 500 k, 25 %",
        "MACs: 1 k → 1 k, 100 %",
    ]
    assert [text.get_text() for text in figure.axes[0].texts] == ["10 of 20", "10"]
    assert len(drawn(planned(20, macs=None)).axes) == 2


def test_a_plan_writes_its_picture(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="hidden"), layers.Dense(2)])
    made = plan(model, params=0.5)
    made.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"`path` must end in .png, .svg, .pdf"):
        made.plot(tmp_path / "a.bmp")
    flat = keras.Sequential([keras.Input((2, 2)), layers.Flatten()])
    with pytest.raises(ValueError, match="nothing to draw"):
        plan(flat, params=1.0).plot(tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
