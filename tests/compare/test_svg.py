import pytest

from tfprune.compare import svg


def test_axes():
    linear = svg.Axis(0, 10, 100, 200)
    assert [linear(0), linear(5), linear(12)] == [100, 150, 200]
    density = svg.Axis(1, 0.01, 0, 100, logarithmic=True)
    assert [density(1), density(0.1), density(0.01)] == [0, 50, 100]
    assert density(0.0001) == 100


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (61.3, 97.1, [70, 80, 90]), (-16.2, 1, [-15, -10, -5, 0])],
)
def test_ticks_are_round(low, high, ticks):
    assert svg.round_ticks(low, high) == ticks


def test_labels_keep_apart_and_near():
    assert svg.apart([50, 51, 52, 100], 10, 0, 200) == [41, 51, 61, 100]
    assert svg.apart([199, 200], 10, 0, 200) == [190, 200]
    assert svg.apart([30, 10], 10, 0, 200) == [30, 10]


def test_text_is_escaped():
    drawn = svg.picture(
        10, 10, 'a "b" <c>', [svg.text(1, 2, "<b>"), svg.marker(1, 1, "circle", "s0", "x & y")]
    )
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in drawn
    assert "&lt;b&gt;</text>" in drawn
    assert "<title>x &amp; y</title>" in drawn
