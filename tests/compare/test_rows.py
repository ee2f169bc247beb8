import dataclasses

import pytest

from tests.support.run_folders import RunFolders
from tfprune.compare.page.page import write_page
from tfprune.compare.report import write_comparison
from tfprune.compare.rows import Level, Spread, compare, gain_over, read_ancestors, spread
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import read_runs
from tfprune.settings import settings_of

BASE = {"cifar10_baseline": 90.0, "cifar10_baseline_seed1": 91.0, "cifar10_baseline_seed2": 92.5}
LEVELS_433 = [
    (0.966, 96, 96),
    (0.977, 94, 96),
    (0.984, 88, 95),
    (0.989, 75, 95),
    (0.992, 61, 95),
    (0.995, 61, 94),
]


def grouped(folder, names=None):
    runs = read_runs(folder.path, names)
    return {experiment.name: experiment for experiment in compare(runs, read_ancestors(folder.path, runs))}


def rows_of(folder, names=None):
    rows = [row for experiment in grouped(folder, names).values() for row in experiment.rows]
    return {(row.experiment, row.result.round): row for row in rows}


# --- A round beside the paper's ---


def test_reproduction_beside_the_paper(folder, paper_cifar):
    folder.dense("base", 95.2, "baseline", **paper_cifar)
    folder.one_shot("shot", "base", 0.995, (9.7, 88.5), "4.3.1", **paper_cifar)
    rows = rows_of(folder)
    row = rows["shot", 1]
    assert row.in_paper_setting
    assert row.paper.experiment.section == "4.3.1"
    assert row.difference_percent_points == pytest.approx(88.5 - 89)
    assert row.drop == pytest.approx(95.2 - 88.5)
    assert row.paper.drop_percent_points == pytest.approx(96 - 89)
    assert row.excess_drop_percent_points == pytest.approx(-0.3)
    assert row.baseline_experiment == "base"
    base = rows["base", 0]
    assert base.difference_percent_points == pytest.approx(-0.8)
    assert (base.drop, base.paper.drop_percent_points) == (0, 0)
    assert base.excess_drop_percent_points is None
    assert rows["shot", 0].is_start
    assert rows["shot", 0].paper is None


def test_drop_follows_the_chain_to_the_dense_network(folder, small_cifar):
    folder.dense("dense", 70.25, **small_cifar)
    folder.one_shot("shot", "dense/round_00", 0.95, (10, 66.5), **small_cifar)
    folder.iterative("more", "shot", [(0.97, 60, 65), (0.99, 50, 61.75)], **small_cifar)
    folder.iterative("last", "more/round_01", [(0.98, 50, 64)], **small_cifar)
    # Chosen alone, its ancestors are still found in the folder.
    rows = rows_of(folder, ["last", "more"])
    assert rows["more", 2].drop == pytest.approx(8.5)
    assert rows["last", 1].drop == pytest.approx(6.25)
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
        assert rows[name, 1].drop is None
        assert rows[name, 1].baseline_experiment is None


def test_no_drop_from_another_dataset_or_other_test_images(folder, small_cifar):
    folder.dense("dense", 70, **small_cifar)
    folder.one_shot("shot", "dense", 0.95, (10, 66), **{**small_cifar, "test_examples": 1000})
    # A sparse transfer is dense training, but not of a dense network.
    transfer = {**small_cifar, "dataset": "cifar100", "init_from": "shot", "sparsity": 0.95}
    folder.dense("transfer", 30, "4.3.8", **transfer)
    rows = rows_of(folder)
    assert rows["shot", 1].drop is None
    assert rows["transfer", 0].drop is None
    assert rows["transfer", 0].paper.accuracy_percent == 77


def test_other_settings_have_no_difference(folder, small_cifar):
    folder.dense("base", 60, "baseline", **small_cifar)
    folder.one_shot("shot", "base", 0.95, (10, 55), "4.3.2", **small_cifar)
    row = rows_of(folder)["shot", 1]
    assert not row.in_paper_setting
    assert row.paper.accuracy_percent == 96
    assert row.difference_percent_points is None
    assert row.drop == 5
    found = {difference.setting: (difference.ours, difference.paper) for difference in row.differences}
    assert found["width"] == (16, 64)
    assert found["train_examples"] == (10_000, 50_000)


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        ({"train_examples": 2000}, "train_examples"),
        ({"dataset": "digits"}, "dataset"),
        ({"paper_section": "4.3.3"}, "regime"),
        ({"width": 8}, "width"),
        ({"epochs": (39,)}, "epochs"),
        ({"mixed_precision": "float16"}, "mixed_precision"),
    ],
)
def test_what_differs_is_no_reproduction(folder, paper_cifar, changed, setting):
    folder.dense("base", 96, "baseline", **paper_cifar)
    folder.one_shot("same", "base", 0.95, (10, 95), "4.3.2", **paper_cifar)
    same = folder.config("same").folder
    settings = read_runs(folder.path, ["same"])[0].rounds[1].config.to_json()
    own = {
        n: tuple(v) if isinstance(v, list) else v
        for n, v in settings.items()
        if n not in ("experiment", "init_from")
    } | changed
    RunFolders.one_shot(folder, "shot", "base", 0.95, (10, 95), **own)
    rows = rows_of(folder)
    assert same.exists() and rows["same", 1].in_paper_setting
    row = rows["shot", 1]
    assert not row.in_paper_setting
    assert row.difference_percent_points is None
    assert setting in {difference.setting for difference in row.differences}


def test_without_a_section_there_is_no_paper_row(folder):
    folder.one_shot("shot", "", 0.95, (10, 95))
    row = rows_of(folder)["shot", 1]
    assert row.paper is None
    assert not row.in_paper_setting


@pytest.mark.slow
def test_order_is_the_papers_in_every_view(folder, paper_cifar):
    cifar100 = {**paper_cifar, "dataset": "cifar100"}
    folder.dense("digit", 90, dataset="digits")
    folder.dense("z", 84, "baseline", **cifar100)
    folder.one_shot("b", "z", 0.95, (1, 80), "4.3.4", **cifar100)
    folder.dense("e", 96, "baseline", **paper_cifar)
    folder.one_shot("d", "e", 0.95, (10, 96), "4.3.2", **paper_cifar)
    folder.iterative("c", "d", LEVELS_433, "4.3.3", **paper_cifar)
    folder.one_shot("beside", "e", 0.95, (10, 90), scope="erk")
    (folder.path / "b/export").mkdir()
    order = ["e", "d", "beside", "c", "z", "b", "digit"]
    assert list(grouped(folder)) == order
    comparison = write_comparison(folder.path)
    for text in (
        comparison.csv_path.read_text(),
        write_page(folder.path).read_text().partition('id="runs"')[2],
    ):
        found = [
            text.find(f"{mark}{name}{end}")
            for name in order
            for mark, end in ((",", ","), ("<code>", "</code>"))
        ]
        found = [place for place in found if place >= 0]
        assert found == sorted(found) and len(found) == len(order)


# --- Repetitions over seeds ---


def write_seeds(folder, settings, shot=(80.0, 82.0, 84.5)):
    for seed, (name, accuracy) in enumerate(BASE.items()):
        folder.dense(name, accuracy, "baseline", seed=seed, **settings)
        suffix = f"_seed{seed}" if seed else ""
        folder.one_shot(f"shot{suffix}", name, 0.995, (10.0, shot[seed]), "4.3.1", seed=seed, **settings)


def test_spread_is_the_sample_deviation():
    assert spread([1.0, None, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert spread([4.0]) == Spread(4.0, None, 1)
    assert spread([None]) is None


def test_seeds_are_repetitions_and_drops_are_from_their_own_baselines(folder, small_cifar):
    write_seeds(folder, small_cifar)
    experiments = grouped(folder)
    assert list(experiments) == ["cifar10_baseline", "shot"]
    shot = experiments["shot"]
    assert shot.seeds == (0, 1, 2)
    assert [run.experiment for run in shot.runs] == ["shot", "shot_seed1", "shot_seed2"]
    assert shot.last.at_end.mean == pytest.approx(82.1667, abs=1e-3)
    assert shot.last.at_end.deviation == pytest.approx(2.2546, abs=1e-3)
    # 10, 9 and 8 within the seeds: the spread of the baselines is not in it.
    assert shot.last.spread(lambda row: row.drop) == Spread(9.0, 1.0, 3)


def test_seeds_with_teachers_are_repetitions(folder, small_cifar):
    """Each learned from the dense network of its own seed."""
    for seed, name in enumerate(BASE):
        suffix = f"_seed{seed}" if seed else ""
        folder.dense(name, 90.0, "baseline", seed=seed, **small_cifar)
        taught = small_cifar | {"distill_from": name}
        folder.one_shot(f"shot{suffix}", name, 0.995, (10.0, 80.0), "4.3.1", seed=seed, **taught)
    experiments = grouped(folder)
    assert list(experiments) == ["cifar10_baseline", "shot"]
    assert experiments["shot"].seeds == (0, 1, 2)


OTHER = {
    int: lambda value: value + 1,
    float: lambda value: value / 2 + 0.125,
    str: lambda value: {"imagenet": "cifar", "cifar10": "digits"}.get(value, "other"),
    bool: lambda value: not value,
    tuple: lambda value: (*value, "mean_squared_error"),
}


def another(name, value):
    """A value that differs from a setting's and keeps its rule."""
    chosen = {
        "epochs": (7,),
        "sparsity_m_by_n": (2, 4),
        "layer_sparsity": ("a:0.5",),
        "block_size": (2, 2),
        "lr_boundaries_epochs": (3,),
        "paper_section": "4.3.2",
        "init_from": "elsewhere",
        "distill_from": "elsewhere",
        "weights": "imagenet",
        "dataset": "cifar100",
        "regime": "gradual",
        "schedule": "polynomial",
        "lr_schedule": "cosine",
    }
    return chosen.get(name) if name in chosen else OTHER[type(value)](value)


SETTINGS = [n for n, said in settings_of(ExperimentConfig).items() if said.role in ("setting", "reference")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "experiment"])
def test_runs_that_differ_in_a_setting_are_never_one_experiment(folder, small_cifar, name):
    """The page and the tables show them apart, each with its own figure."""
    config = folder.config("a", regime="one_shot", target_sparsity=0.5, **small_cifar)
    for run, accuracy, seed in (("a", 98.0, 0), ("a_seed1", 20.0, 1)):
        own = dataclasses.replace(config, experiment=run, seed=seed)
        if seed:
            own = dataclasses.replace(own, **{name: another(name, getattr(own, name))})
            assert getattr(own, name) != getattr(config, name)
        RunFolders.one_shot(
            folder,
            init_from=own.init_from,
            sparsity=own.target_sparsity,
            accuracies=(10.0, accuracy),
            **{n: getattr(own, n) for n in settings_of(own) if n not in ("init_from", "output_dir")},
        )
    experiments = grouped(folder)
    assert sorted(experiments) == ["a", "a_seed1"]
    assert [e.last.at_end for e in experiments.values() if e.name == "a"] == [Spread(98.0, None, 1)]
    text = write_page(folder.path).read_text()
    assert "±" not in text.partition("<body>")[2]
    assert "59.0" not in text


def test_the_same_but_for_seed_and_places_is_one_experiment(folder, small_cifar, tmp_path):
    folder.one_shot("a", "", 0.5, (10.0, 98.0), **small_cifar)
    folder.one_shot("a_seed1", "", 0.5, (10.0, 96.0), seed=1, data_dir=str(tmp_path), **small_cifar)
    (experiment,) = grouped(folder).values()
    assert experiment.last.at_end == Spread(97.0, pytest.approx(2**0.5), 2)
    assert "97.0" in write_page(folder.path).read_text()


def test_a_name_alone_makes_no_repetition(folder, small_cifar):
    folder.dense("a", 90.0, seed=0, **small_cifar)
    folder.dense("a_seed1", 91.0, seed=7, **small_cifar)
    folder.dense("a_seed2", 92.0, seed=2, **small_cifar | {"width": 32})
    folder.dense("b_seed3", 93.0, seed=3, **small_cifar)
    names = {name: experiment.seeds for name, experiment in grouped(folder).items()}
    # Another seed than the name says, another width: both stay alone. A repetition without its first has the
    # name without the suffix.
    assert names == {"a": (0,), "a_seed1": (7,), "a_seed2": (2,), "b": (3,)}


def test_a_seed_is_never_counted_twice(folder, small_cifar):
    folder.dense("a", 90.0, seed=1, **small_cifar)
    folder.dense("a_seed1", 91.0, seed=1, **small_cifar)
    experiments = grouped(folder)
    assert [len(experiment.runs) for experiment in experiments.values()] == [1, 1]
    assert set(experiments) == {"a", "a_seed1"}


def test_rounds_that_only_some_seeds_finished(folder, small_cifar):
    for seed, done in ((0, 2), (1, 1)):
        suffix = f"_seed{seed}" if seed else ""
        levels = [(0.5, 50, 80.0), (0.75, 40, 70.0), (0.9, 30, 60.0)]
        folder.iterative(f"i{suffix}", "", levels, seed=seed, **small_cifar)
        folder.unfinish(f"i{suffix}", *range(done + 1, 4))
    experiment = grouped(folder)["i"]
    assert [(level.number, len(level.rows)) for level in experiment.levels] == [(1, 2), (2, 1), (3, 0)]
    assert experiment.last.number == 2
    assert not experiment.finished


def test_the_transfer_has_the_dense_network_of_its_dataset_and_seed(folder, small_cifar):
    hundred = {**small_cifar, "dataset": "cifar100"}
    for seed, accuracy in enumerate((60.0, 61.0)):
        folder.dense(f"c{seed}", accuracy, "baseline", seed=seed, **hundred)
    folder.dense("t", 52.0, "4.3.8", **hundred, sparsity=0.95, seed=1)
    folder.dense("narrow", 52.0, "4.3.8", **hundred | {"width": 8}, sparsity=0.95, seed=1)
    experiments = grouped(folder)
    assert experiments["t"].first.drop == 9.0
    # Not of another network.
    assert experiments["narrow"].first.drop is None


def test_gain_is_taken_within_seeds(folder, small_cifar):
    write_seeds(folder, small_cifar)
    experiments = grouped(folder)
    ours, theirs = experiments["cifar10_baseline"].last, experiments["shot"].last
    assert gain_over(ours, theirs) == Spread(9.0, 1.0, 3)
    only = Level(0, theirs.rows[2:])
    assert gain_over(Level(0, ours.rows[:1]), only) == Spread(5.5, None, 1)
    assert gain_over(Level(0, ()), only) is None


def test_experiments_outside_the_paper_gain_over_the_section_beside(folder, small_cifar):
    write_seeds(folder, small_cifar)
    folder.one_shot("erk", "cifar10_baseline", 0.995, (10.0, 81.5), scope="erk", **small_cifar)
    folder.one_shot("wide", "cifar10_baseline", 0.995, (10.0, 81.5), **small_cifar | {"width": 32})
    folder.one_shot("dense_er", "cifar10_baseline", 0.9, (10.0, 88.0), **small_cifar)
    experiments = grouped(folder)
    assert (experiments["erk"].beside, experiments["erk"].last.gain) == ("4.3.1", Spread(1.5, None, 1))
    # Another network, and another level, do not compare.
    assert (experiments["wide"].beside, experiments["wide"].last.gain) == ("4.3.1", None)
    assert (experiments["dense_er"].beside, experiments["dense_er"].last.gain) == ("", None)
