import re

import matplotlib.image
import pytest

from tfprune.compare import figures, write_comparison
from tfprune.compare.rows import compare
from tfprune.runs.folder import read_runs


def experiments_of(folder):
    return compare(read_runs(folder.path))


def panels(folder):
    figure = figures.plot_accuracy(experiments_of(folder))
    return [
        (panel.axes, [text.get_text() for text in panel.legends[0].get_texts()]) for panel in figure.subfigs
    ]


def points(axes):
    """What each mark stands at, as the values of the axis."""
    marks = [line for line in axes.lines if line.get_marker() not in ("", "None", None)]
    return {(round(float(x), 4), float(y)) for line in marks for x, y in zip(*line.get_data(), strict=True)}


def test_ours_alone_where_the_paper_has_no_rows(folder):
    folder.dense("dense", 97, dataset="digits")
    folder.iterative("it", "dense", [(0.5, 90, 96), (0.75, 60, 95)], dataset="digits")
    folder.one_shot("shot", "dense", 0.75, (20, 91), dataset="digits")
    (((tuned, drop, pruned), legend),) = panels(folder)
    assert legend == ["dense", "shot", "it"]
    assert points(tuned) == {(0.5, 96), (0.25, 95), (0.25, 91)}
    assert 97 in {y for line in tuned.lines for y in line.get_ydata()}
    assert points(drop) == {(0.5, 1), (0.25, 2), (0.25, 6)}
    assert points(pruned) == {(0.5, 90), (0.25, 60), (0.25, 20)}


def test_a_drop_has_the_sign_of_the_tables_and_points_down(folder):
    folder.dense("dense", 97, dataset="digits")
    folder.one_shot("better", "dense", 0.5, (20, 98.5), dataset="digits")
    folder.one_shot("worse", "dense", 0.75, (20, 95), dataset="digits")
    (((_, drop, _), _),) = panels(folder)
    assert points(drop) == {(0.5, -1.5), (0.25, 2)}
    assert drop.yaxis.get_inverted()
    text = write_comparison(folder.path).text
    assert re.search(r"better +1/1 +98.5 +-1.5 ", text) and re.search(r"worse +1/1 +95.0 +2.0 ", text)
    experiments = experiments_of(folder)
    svg = figures.accuracy_pictures(experiments, figures.make_marks(experiments))[1].svg
    assert "<title>better, sparsity 0.5: −1.5 points</title>" in svg


def test_axis_is_density_labelled_as_sparsity(folder):
    folder.dense("dense", 97, dataset="digits")
    folder.one_shot("shot", "dense", 0.95, (20, 91), dataset="digits")
    (((*_, pruned), _),) = panels(folder)
    assert pruned.get_xscale() == "log"
    ticks = zip(pruned.get_xticks(), pruned.get_xticklabels(), strict=True)
    named = {label.get_text(): x for x, label in ticks}
    assert named["0"] == 1
    assert named["0.95"] == pytest.approx(0.05)
    left, right = pruned.get_xlim()
    assert left > 1 > 0.05 > right > 0


def test_paper_is_drawn_beside_ours_and_stars_mark_other_settings(folder, small_cifar, paper_cifar):
    folder.dense("full_dense", 95, "baseline", **paper_cifar)
    folder.one_shot("full", "full_dense", 0.95, (10, 95), "4.3.2", **paper_cifar)
    folder.one_shot("small", "", 0.95, (10, 60), "4.3.2", **small_cifar)
    folder.dense("digits", 97, dataset="digits")
    ((tuned, *_), legend), _ = panels(folder)
    assert legend == ["full_dense", "full (4.3.2)", "small (4.3.2) *", "the paper, with the section's number"]
    assert "* not the paper's setting: resnet34, width 16" in tuned.get_figure()._suptitle.get_text()
    assert points(tuned) == {(0.05, 95), (0.05, 60), (0.05, 96)}
    assert "4.3.2" in {text.get_text() for text in tuned.texts}


def test_accuracies_of_another_setting_leave_the_axis_to_ours(folder, small_cifar):
    folder.dense("dense", 35, "baseline", **small_cifar)
    folder.one_shot("small", "dense", 0.95, (10, 33), "4.3.2", **small_cifar)
    (((tuned, drop, _), _),) = panels(folder)
    assert points(tuned) == {(0.05, 33)}
    assert points(drop) == {(0.05, 2), (0.05, 0)}


@pytest.mark.parametrize("values", [[97, 96.9], [98.3, 98.6], [0, 0.001], [1, 35], [20, 96, 50], [-3, 51]])
def test_values_fill_at_least_a_third_of_an_axis_and_lie_inside(values):
    low, high = figures.limits(values)
    assert low < min(values) < max(values) < high
    assert (max(values) - min(values)) / (high - low) >= 1 / 3 - 1e-9


def test_one_value_is_in_the_middle():
    assert figures.limits([50.0]) == (49.5, 50.5)


def test_no_axis_of_the_page_is_three_quarters_empty(folder, small_cifar):
    folder.dense("dense", 35.1, "baseline", **small_cifar)
    folder.iterative("it", "dense", [(0.5, 30, 35), (0.75, 20, 34.75)], **small_cifar)
    (((tuned, drop, pruned), _),) = panels(folder)
    for axes, values in ((tuned, (34.75, 35.1)), (drop, (0, 0.35)), (pruned, (20, 30))):
        low, high = sorted(axes.get_ylim())
        assert (values[1] - values[0]) / (high - low) > 0.25


def test_rounds_without_a_measurement_are_left_out(folder):
    folder.iterative("b", "", [(0.5, None, 95), (0.75, 60, 90)], dataset="digits")
    (((tuned, pruned), _),) = panels(folder)
    assert points(tuned) == {(0.5, 95), (0.25, 90)}
    assert points(pruned) == {(0.25, 60)}


def test_labels_keep_apart_and_near():
    assert figures.keep_apart([50, 51, 52, 100], 10) == [41, 51, 61, 100]
    assert figures.keep_apart([199, 200], 10) == [194.5, 204.5]
    assert figures.keep_apart([30, 10], 10) == [30, 10]


def test_svg_takes_its_colours_from_the_page_and_escapes_text(folder):
    folder.dense("dense", 97, dataset="digits")
    folder.one_shot("shot", "dense", 0.5, (20, 91), dataset="digits")
    experiments = experiments_of(folder)
    marks = {"dense": figures.Mark("s0", ""), "shot": figures.Mark("s1", "o")}
    figure, (axes,) = figures._figure(420, 300)
    figures._mark(axes, 1, 1, marks["shot"], 5, 'a<b> & "c"')
    drawn = figures._svg(figure, 'a "b" <c>')
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in drawn
    assert '<title>a&lt;b&gt; &amp; "c"</title>' in drawn
    for picture in figures.accuracy_pictures(experiments, marks):
        assert "var(--s1)" in picture.svg and "var(--soft)" in picture.svg
        assert not re.search(r"#[0-9a-f]{6}|font-family|<style|<metadata", picture.svg)


def test_png_is_a_thousand_pixels_wide_and_has_room_for_many_runs(folder, small_cifar):
    folder.dense("digits", 97, dataset="digits")
    one = matplotlib.image.imread(write_comparison(folder.path).png_path)
    for number in range(20):
        folder.one_shot(f"a_long_name_of_a_run_{number}", "", 0.95, (10, 60 + number), **small_cifar)
    two = matplotlib.image.imread(write_comparison(folder.path).png_path)
    assert (one.shape[1], two.shape[1]) == (1000, 1000)
    assert two.shape[0] == 2 * one.shape[0]


def test_a_name_with_dollar_signs_is_a_name(folder):
    folder.dense("a", 97, dataset="$\\frac$")
    assert figures.accuracy_png(experiments_of(folder)).startswith(b"\x89PNG")
