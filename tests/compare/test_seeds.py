import pytest

from tfprune.compare import compare, read_runs
from tfprune.compare.seeds import SeedRound, Spread, add_dense_peers, gain_over, group_seeds, spread

BASE = {"cifar10_baseline": 90.0, "cifar10_baseline_seed1": 91.0, "cifar10_baseline_seed2": 92.5}


def grouped(folder):
    runs = read_runs(folder.path)
    rows = compare(runs)
    return {experiment.name: experiment for experiment in group_seeds(add_dense_peers(rows), runs)}


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
    accuracy = shot.last.spread(lambda row: row.result.accuracy_percent)
    assert accuracy.mean == pytest.approx(82.1667, abs=1e-3)
    assert accuracy.deviation == pytest.approx(2.2546, abs=1e-3)
    # 10, 9 and 8 within the seeds: the spread of the baselines is not in it.
    assert shot.last.spread(lambda row: row.drop_percent_points) == Spread(9.0, 1.0, 3)


def test_seeds_with_teachers_are_repetitions(folder, small_cifar):
    """Each learned from the dense network of its own seed."""
    for seed, name in enumerate(BASE):
        suffix = f"_seed{seed}" if seed else ""
        folder.dense(name, 90.0, "baseline", seed=seed, **small_cifar)
        taught = small_cifar | {"distill_from": name, "distill_weight": 0.5, "distill_temperature": 4.0}
        taught["paper_setting_differences"] = [f"distill_from={name} (paper: none)"]
        folder.one_shot(f"shot{suffix}", name, 0.995, (10.0, 80.0), "4.3.1", seed=seed, **taught)
    experiments = grouped(folder)
    assert list(experiments) == ["cifar10_baseline", "shot"]
    assert experiments["shot"].seeds == (0, 1, 2)


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
        for number in range(done + 1, 4):
            (folder.path / f"i{suffix}/round_{number:02d}/result.json").unlink()
    experiment = grouped(folder)["i"]
    assert [(level.number, len(level.rows)) for level in experiment.rounds] == [(1, 2), (2, 1), (3, 0)]
    assert experiment.last.number == 2
    assert not experiment.finished


def test_the_transfer_has_the_dense_network_of_its_dataset_and_seed(folder, small_cifar):
    hundred = {**small_cifar, "dataset": "cifar100"}
    for seed, accuracy in enumerate((60.0, 61.0)):
        folder.dense(f"c{seed}", accuracy, "baseline", seed=seed, **hundred)
    settings = {**hundred, "sparsity": 0.95, "paper_section": "4.3.8", "seed": 1}
    folder.write("t", 0, regime="dense", accuracy_percent=52.0, **settings)
    assert grouped(folder)["t"].first.drop_percent_points == 9.0
    # Not of another network.
    folder.write("t", 0, regime="dense", accuracy_percent=52.0, **settings | {"width": 8})
    assert grouped(folder)["t"].first.drop_percent_points is None


def test_gain_is_taken_within_seeds(folder, small_cifar):
    write_seeds(folder, small_cifar)
    experiments = grouped(folder)
    ours, theirs = experiments["cifar10_baseline"].last, experiments["shot"].last
    assert gain_over(ours, theirs) == Spread(9.0, 1.0, 3)
    only = SeedRound(0, theirs.rows[2:])
    assert gain_over(SeedRound(0, ours.rows[:1]), only) == Spread(5.5, None, 1)
    assert gain_over(SeedRound(0, ()), only) is None
