import pytest

from tfprune.compare.results import read_runs
from tfprune.compare.table import compare, read_ancestors


def rows_of(folder, experiments=None):
    runs = read_runs(folder.path, experiments)
    rows = compare(runs, read_ancestors(folder.path, runs))
    return {(row.experiment, row.result.round): row for row in rows}


def test_reproduction_beside_the_paper(folder, paper_cifar):
    folder.dense("base", 95.2, "baseline", **paper_cifar)
    folder.one_shot("shot", "base", 0.995, (9.7, 88.5), "4.3.1", **paper_cifar)
    rows = rows_of(folder)
    row = rows["shot", 1]
    assert row.in_paper_setting
    assert row.paper.section == "4.3.1"
    assert row.difference_percent_points == pytest.approx(88.5 - 89)
    assert row.drop_percent_points == pytest.approx(95.2 - 88.5)
    assert row.paper_drop_percent_points == pytest.approx(96 - 89)
    assert row.baseline_experiment == "base"
    base = rows["base", 0]
    assert base.difference_percent_points == pytest.approx(-0.8)
    assert (base.drop_percent_points, base.paper_drop_percent_points) == (0, 0)
    assert rows["shot", 0].is_start
    assert rows["shot", 0].paper is None


def test_drop_follows_the_chain_to_the_dense_network(folder, small_cifar):
    folder.dense("dense", 70.25, **small_cifar)
    folder.one_shot("shot", "dense/round_00", 0.95, (10, 66.5), **small_cifar)
    folder.iterative("more", "shot", [(0.97, 60, 65), (0.99, 50, 61.75)], **small_cifar)
    folder.iterative("last", "more/round_01", [(0.98, 50, 64)], **small_cifar)
    # Chosen alone, its ancestors are still found in the folder.
    rows = rows_of(folder, ["last", "more"])
    assert rows["more", 2].drop_percent_points == pytest.approx(8.5)
    assert rows["last", 1].drop_percent_points == pytest.approx(6.25)
    assert rows["last", 1].baseline_experiment == "dense"
    assert {experiment for experiment, _ in rows} == {"last", "more"}


def test_no_drop_without_a_dense_ancestor(folder, small_cifar):
    folder.dense("unrelated", 70, **small_cifar)
    folder.one_shot("gone", "deleted_run", 0.95, (10, 60), **small_cifar)
    folder.one_shot("weights", "", 0.95, (10, 60), **small_cifar)
    folder.one_shot("a", "b", 0.95, (10, 60), **small_cifar)
    folder.one_shot("b", "a", 0.95, (10, 60), **small_cifar)
    rows = rows_of(folder)
    for name in ("gone", "weights", "a", "b"):
        assert rows[name, 1].drop_percent_points is None
        assert rows[name, 1].baseline_experiment is None


def test_no_drop_from_another_dataset_or_other_test_images(folder, small_cifar):
    folder.dense("dense", 70, **small_cifar)
    folder.one_shot("shot", "dense", 0.95, (10, 66), **{**small_cifar, "test_examples": 1000})
    # A sparse transfer is dense training, but not of a dense network.
    transfer = {**small_cifar, "dataset": "cifar100", "init_from": "shot", "sparsity": 0.95}
    folder.dense("transfer", 30, "4.3.8", **transfer)
    rows = rows_of(folder)
    assert rows["shot", 1].drop_percent_points is None
    assert rows["transfer", 0].drop_percent_points is None
    assert rows["transfer", 0].paper.accuracy_percent == 77


def test_other_settings_have_no_difference(folder, small_cifar):
    folder.dense("base", 60, "baseline", **small_cifar)
    folder.one_shot("shot", "base", 0.95, (10, 55), "4.3.2", **small_cifar)
    row = rows_of(folder)["shot", 1]
    assert not row.in_paper_setting
    assert row.paper.accuracy_percent == 96
    assert row.difference_percent_points is None
    assert row.drop_percent_points == 5
    assert row.differences[0] == "width=16 (paper: 64)"
    assert "train_examples=10000 (paper: 50000)" in row.differences


@pytest.mark.parametrize(
    ("claim", "difference"),
    [
        ({"train_examples": 2000}, "train_examples=2000 (paper: 50000)"),
        ({"dataset": "digits"}, "dataset=digits (paper: cifar10)"),
        ({"paper_section": "4.3.3"}, "regime=one_shot (paper: iterative)"),
        ({"paper_setting_differences": ["width=8 (paper: 64)"]}, "width=8 (paper: 64)"),
        ({"paper_setting": False}, None),
    ],
)
def test_a_contradicted_claim_is_no_reproduction(folder, paper_cifar, claim, difference):
    settings = {**paper_cifar, "section": "4.3.2", **claim}
    settings["section"] = settings.pop("paper_section", settings["section"])
    folder.one_shot("shot", "", 0.95, (10, 95), **settings)
    row = rows_of(folder)["shot", 1]
    assert not row.in_paper_setting
    assert row.difference_percent_points is None
    assert row.differences == ((difference,) if difference else ())


def test_without_a_section_there_is_no_paper_row(folder, paper_cifar):
    folder.one_shot("shot", "", 0.95, (10, 95), **paper_cifar)
    row = rows_of(folder)["shot", 1]
    assert row.paper is None
    assert not row.in_paper_setting


def test_one_round_in_another_setting_takes_the_run_out(folder, paper_cifar):
    folder.one_shot("shot", "", 0.95, (10, 95), "4.3.2", **paper_cifar)
    settings = {**paper_cifar, "paper_setting": False}
    folder.write("shot", 0, regime="one_shot", paper_section="4.3.2", **settings)
    assert not rows_of(folder)["shot", 1].in_paper_setting


def test_order_is_the_papers(folder, paper_cifar):
    cifar100 = {**paper_cifar, "dataset": "cifar100"}
    folder.dense("a_digits", 90, dataset="digits")
    folder.one_shot("b", "z", 0.95, (1, 80), "4.3.4", **cifar100)
    folder.dense("z", 84, "baseline", **cifar100)
    folder.iterative("c", "d", [(0.966, 96, 96), (0.977, 94, 96)], "4.3.3", **paper_cifar)
    folder.one_shot("d", "e", 0.95, (10, 96), "4.3.2", **paper_cifar)
    folder.dense("e", 96, "baseline", **paper_cifar)
    rows = [key for key, row in rows_of(folder).items() if not row.is_start]
    assert rows == [("e", 0), ("d", 1), ("c", 1), ("c", 2), ("z", 0), ("b", 1), ("a_digits", 0)]
