"""Runs that are judged by another metric than accuracy, beside some that are, in every view."""

import csv
import dataclasses

import pytest

from tests.compare.test_page import flat, read
from tfprune.compare import figures, write_comparison, write_page
from tfprune.compare.rows import Spread, compare
from tfprune.compare.words import network
from tfprune.runs.folder import read_runs
from tfprune.runs.metric import ACCURACY, Metric

pytestmark = pytest.mark.one_backend

ERROR = Metric("mean_absolute_error", in_percent=False, higher_is_better=False)
AREA = Metric("auc", in_percent=False, higher_is_better=True)
TOP_5 = Metric("top_5", in_percent=True, higher_is_better=True)
OWN = {
    "dataset": "houses.data:prices",
    "model": "/home/somebody/<b>models/tabular.keras",
    "metric": ERROR,
    "image_size": 0,
    "autoaugment": "none",
}
DIGITS = {"dataset": "digits", "width": 8, "image_size": 16}
PAPER = ("paper", "study", "counterpart", "reproduction")


def write_prices(folder, seeds=1):
    for seed in range(seeds):
        name, own = f"_seed{seed}" if seed else "", {**OWN, "seed": seed}
        folder.dense(f"prices{name}", 0.25, **own)
        folder.one_shot(f"pruned{name}", f"prices{name}", 0.8, (2.0, 0.28125 + seed / 64), **own)


def experiments(folder):
    return {e.name: e for e in compare(read_runs(folder.path))}


def csv_rows(comparison):
    with comparison.csv_path.open(newline="") as stream:
        return {(row["experiment"], int(row["round"])): row for row in csv.DictReader(stream)}


def test_a_drop_is_how_much_worse_a_network_is(folder):
    write_prices(folder)
    folder.dense("base", 0.9, **{**OWN, "metric": AREA})
    folder.one_shot("shot", "base", 0.8, (0.5, 0.875), **{**OWN, "metric": AREA})
    found = experiments(folder)
    assert found["pruned"].last.rows[0].drop == pytest.approx(0.03125)
    assert found["shot"].last.rows[0].drop == pytest.approx(0.025)


def test_figures_by_another_metric_are_no_baseline(folder):
    folder.dense("prices", 0.25, **{**OWN, "metric": AREA})
    folder.one_shot("pruned", "prices", 0.8, (2.0, 0.28125), **OWN)
    row = experiments(folder)["pruned"].last.rows[0]
    assert (row.baseline_experiment, row.drop) == (None, None)


def test_repetitions_over_seeds_are_judged_alike(folder):
    write_prices(folder, seeds=2)
    pruned = experiments(folder)["pruned"]
    assert pruned.last.at_end == Spread(0.2890625, pytest.approx(2**0.5 / 128), 2)
    folder.dense("prices_seed2", 0.25, **{**OWN, "seed": 2, "metric": AREA})
    names = {e.name: len(e.runs) for e in experiments(folder).values() if e.name.startswith("prices")}
    assert names == {"prices": 2, "prices_seed2": 1}


def test_each_metric_has_tables_and_columns_of_its_own(folder):
    folder.dense("digits", 97.25, **DIGITS)
    write_prices(folder)
    folder.dense("top", 99.5, **{**OWN, "metric": TOP_5})
    comparison = write_comparison(folder.path)
    accuracy, error, top = comparison.text.split("\n\n  ")[:3]
    assert "round  accuracy" in accuracy and "97.2" in accuracy
    assert "round  mean absolute error" in error and "0.2812" in error and "0.0312" in error
    assert "accuracy" not in error.partition("\n\n")[2].partition("houses")[2]
    assert "top 5" in top and "99.5" in top
    for metric, better in (("Mean absolute error", "lower"), ("Top 5", "higher")):
        assert metric in comparison.text
        assert f"better where it is {better}" in " ".join(comparison.text.split())
    rows = csv_rows(comparison)
    pruned, dense = rows["pruned", 1], rows["digits", 0]
    assert (pruned["metric"], pruned["mean_absolute_error_at_end"]) == (ERROR.name, "0.28125")
    assert (pruned["mean_absolute_error_drop"], pruned["accuracy_percent"]) == ("0.03125", "")
    assert (pruned["mean_absolute_error_after_pruning"], pruned["baseline_mean_absolute_error_at_end"]) == (
        "2.0",
        "0.25",
    )
    assert (dense["metric"], dense["accuracy_percent"], dense["mean_absolute_error_at_end"]) == (
        "accuracy",
        "97.25",
        "",
    )
    assert rows["top", 0]["top_5_percent"] == "99.5"


def test_runs_of_ones_own_have_no_word_of_the_paper_and_no_path(folder):
    write_prices(folder, seeds=2)
    comparison = write_comparison(folder.path)
    page = read(write_page(folder.path))
    shown = flat(page).partition("Networks pruned by")[2].partition("Flags of")[0]
    for text in (comparison.text, comparison.markdown_path.read_text(), shown):
        assert not [word for word in PAPER if word in text.lower()]
        assert "tabular.keras" in text and "somebody" not in text
        assert "AutoAugment" not in text and "imagenet" not in text and "width" not in text
        assert "training examples" in text and "images" not in text
    assert page.summary("pruned")[:2] == ["0.2891 ± 0.011", "0.0391 ± 0.011"]


def test_a_section_of_the_paper_is_none_without_accuracies(folder, small_cifar):
    folder.dense("base", 62.5, "baseline", **small_cifar)
    folder.one_shot("shot", "base", 0.95, (10.0, 57.0), "4.3.2", **small_cifar, metric=TOP_5)
    found = experiments(folder)
    assert (found["base"].section, found["shot"].section, found["shot"].beside) == ("baseline", "", "")
    assert found["shot"].last.paper is None and found["shot"].last.rows[0].drop is None


def test_a_picture_has_one_metric(folder):
    folder.dense("digits", 97.0, **DIGITS)
    write_prices(folder)
    found = list(experiments(folder).values())
    figure = figures.plot_accuracy(found)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0] == "after training, %"
    assert "mean absolute error after training, lower is better" in titles
    assert len(figure.subfigs) == 2
    prices = [e for e in found if e.metric == ERROR]
    first, drop = figures.accuracy_pictures(prices, figures.make_marks(found))
    assert first.caption == "Mean absolute error after training, lower is better"
    assert drop.caption == "Drop: worse than the own dense network by"
    assert "pruned, sparsity 0.8: 0.2812</title>" in first.svg


def test_small_figures_fill_their_axis(folder):
    folder.dense("a", 0.0312, **OWN)
    folder.one_shot("b", "a", 0.8, (0.5, 0.0312), **OWN)
    figure = figures.plot_accuracy(list(experiments(folder).values()))
    low, high = figure.axes[0].get_ylim()
    assert high - low == pytest.approx(0.00312)


def test_an_own_network_is_named_by_its_file(folder):
    folder.dense("a", 0.5, **OWN)
    (run,) = read_runs(folder.path)
    assert network(run.rounds[0]) == "tabular.keras, 1,000 training examples, 1,000 test examples"
    config = dataclasses.replace(run.rounds[0].config, model="nets.two:build", dataset="digits")
    result = dataclasses.replace(run.rounds[0], config=config, metric=ACCURACY)
    assert network(result).startswith("nets.two:build, 1,000 training images")
