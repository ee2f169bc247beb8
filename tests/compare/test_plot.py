import pytest

from tfprune.compare.plot import plot_accuracy
from tfprune.compare.results import read_runs
from tfprune.compare.table import compare


def panels(folder):
    figure = plot_accuracy(compare(read_runs(folder.path)))
    return [panel.axes for panel in figure.subfigs]


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def points(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_ours_alone_where_the_paper_has_no_rows(folder):
    folder.dense("dense", 97, dataset="digits")
    folder.iterative("it", "dense", [(0.5, 90, 96), (0.75, 60, 95)], dataset="digits")
    folder.one_shot("shot", "dense", 0.75, (20, 91), dataset="digits")
    ((tuned, pruned),) = panels(folder)
    assert labels(tuned) == ["dense", "shot", "it"]
    assert points(tuned, "it") == [(0.5, 96), (0.25, 95)]
    assert points(tuned, "shot") == [(0.25, 91)]
    assert {y for _, y in points(tuned, "dense")} == {97}
    below = [list(line.get_ydata()) for line in pruned.lines]
    assert sorted(below) == [[20], [90, 60]]


def test_axis_is_density_labelled_as_sparsity(folder):
    folder.dense("dense", 97, dataset="digits")
    folder.one_shot("shot", "dense", 0.95, (20, 91), dataset="digits")
    ((_, pruned),) = panels(folder)
    assert pruned.get_xscale() == "log"
    ticks = zip(pruned.get_xticks(), pruned.get_xticklabels(), strict=True)
    named = {label.get_text(): x for x, label in ticks}
    assert named["0"] == 1
    assert named["0.95"] == pytest.approx(0.05)
    left, right = pruned.get_xlim()
    assert left > 1 > 0.05 > right > 0


def test_paper_is_drawn_beside_ours_and_stars_mark_other_settings(folder, small_cifar, paper_cifar):
    folder.one_shot("small", "", 0.95, (10, 60), "4.3.2", **small_cifar)
    folder.one_shot("full", "", 0.95, (10, 95), "4.3.2", **paper_cifar)
    folder.dense("digits", 97, dataset="digits")
    (tuned, _), _ = panels(folder)
    assert labels(tuned) == [
        "full (4.3.2)",
        "small *",
        "paper, baseline",
        "paper, 4.3.1",
        "paper, 4.3.2",
        "paper, 4.3.3",
    ]
    assert "* not the paper's setting: resnet34, width 16" in tuned.get_title(loc="left")
    assert points(tuned, "paper, 4.3.2") == [(pytest.approx(0.05), 96)]
    assert len(points(tuned, "paper, 4.3.3")) == 6


def test_accuracy_axis_shows_every_point_and_at_least_ten_points(folder):
    folder.dense("dense", 97, dataset="digits")
    folder.one_shot("shot", "dense", 0.5, (97, 96.9), dataset="digits")
    ((tuned, _),) = panels(folder)
    low, high = tuned.get_ylim()
    assert high - low >= 10 - 1e-9
    assert low < 96.9 < 97 < high


def test_null_accuracies_are_left_out(folder):
    folder.write("a", 0, dataset="digits", regime="dense")
    folder.write("b", 0, dataset="digits", regime="iterative")
    folder.write("b", 1, dataset="digits", regime="iterative", sparsity=0.5)
    folder.write("b", 2, dataset="digits", regime="iterative", sparsity=0.75, accuracy_percent=90.0)
    ((tuned, _),) = panels(folder)
    assert points(tuned, "b") == [(0.25, 90)]
