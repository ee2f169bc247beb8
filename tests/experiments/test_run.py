"""Every regime from its flags to its files, with a small network on digits."""

import csv
import json

import numpy as np
import pytest

from tests.support.small_experiments import kernels_of, measured_accuracy_percent, no_training
from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.experiments.networks import load_model
from tfprune.experiments.run import run_experiment
from tfprune.runs.config import ExperimentConfig

pytestmark = pytest.mark.slow

# The keys that every result has, for whatever reads them.
RESULT_KEYS = set(
    "experiment paper_section dataset regime round backend seed target_sparsity sparsity "
    "sparsity_all_parameters metric metric_before metric_after_pruning metric_at_end "
    "epochs steps train_seconds images_per_second data_wait_percent versions layers hardware device_count "
    "seconds".split()
)


def files_of(run):
    return {
        path.relative_to(run.path).as_posix()
        for path in run.path.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts
    }


def history_of(round_folder):
    with open(round_folder.path / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def removed(kernels):
    return sum(int((mask == 0).sum()) for _, mask in kernels.values())


def total(kernels):
    return sum(mask.size for _, mask in kernels.values())


def round_sparsity(run, number):
    kernels = kernels_of(run.round(number))
    return removed(kernels) / total(kernels)


@pytest.mark.parametrize(
    "name, rounds, trained",
    [
        ("dense", 1, {0: 8}),
        ("one_shot", 2, {1: 2}),
        ("iterative", 4, {1: 1, 2: 1, 3: 3}),
        ("gradual", 2, {1: 3}),
    ],
)
def test_a_run_writes_its_files_and_nothing_else(runs, name, rounds, trained):
    run = getattr(runs, name)
    expected = {".lock", "flags.txt"}
    for number in range(rounds):
        expected |= {f"round_{number:02d}/model.keras", f"round_{number:02d}/result.json"}
        if number in trained:
            expected.add(f"round_{number:02d}/history.csv")
    assert files_of(run) == expected
    for number, epochs in trained.items():
        rows = history_of(run.round(number))
        assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, epochs + 1)]
        assert list((run.round(number).path / "tensorboard").rglob("events.*"))


@pytest.mark.parametrize("name", ["dense", "one_shot", "iterative", "gradual"])
def test_a_result_says_what_the_round_did(runs, name):
    run = getattr(runs, name)
    config = run.read_config()
    for number in range(config.last_round + 1):
        content = json.loads((run.round(number).path / "result.json").read_text())
        assert content.keys() | content["config"].keys() >= RESULT_KEYS
        result = run.round(number).read_result()
        trains = name == "dense" or number > 0
        epochs = config.settings(number).epochs if trains else 0
        assert result.config.experiment == name
        assert result.config.regime == config.regime
        assert (result.round, result.rounds) == (number, config.last_round)
        assert (result.config.dataset, result.config.seed, result.config.paper_section) == ("digits", 0, "")
        assert result.epochs == epochs
        assert result.steps == 256 // config.batch_size * epochs
        assert (result.train_seconds > 0) == trains
        assert (result.images_per_second is not None) == trains
        assert (result.train_examples, result.train_examples_available) == (256, 1437)
        assert (result.test_examples, result.test_examples_available) == (100, 360)
        assert result.versions.keys() >= {"keras", "numpy", "python", "tfprune", result.backend}


@pytest.mark.parametrize("name", ["dense", "one_shot", "iterative", "gradual"])
def test_the_recorded_accuracies_are_the_networks(runs, name):
    run = getattr(runs, name)
    previous = None
    for number in range(run.read_config().last_round + 1):
        result = run.round(number).read_result()
        model = load_model(run.round(number))
        accuracy = measured_accuracy_percent(model)
        assert result.metric_at_end == pytest.approx(accuracy, abs=1e-4)
        if result.epochs:
            last = history_of(run.round(number))[-1]
            assert 100 * float(last["val_accuracy"]) == pytest.approx(accuracy, abs=1e-4)
        if previous is not None:
            assert result.metric_before == previous
        previous = result.metric_at_end


def test_the_dense_network_learns(runs):
    result = runs.dense.round(0).read_result()
    assert result.metric_before < 30
    assert result.metric_at_end > 50
    assert result.metric_after_pruning is None
    assert result.sparsity == result.sparsity_all_parameters == result.target_sparsity == 0.0


def test_a_round_starts_from_the_other_runs_network(runs):
    start = runs.one_shot.round(0)
    assert start.read_result().metric_at_end == runs.dense.round(0).read_result().metric_at_end
    dense = load_model(runs.dense.round(0))
    for layer in load_model(start).layers:
        wrapped = isinstance(layer, sparsity.PruneLowMagnitude)
        inner = layer.layer if wrapped else layer
        for ours, theirs in zip(inner.weights, dense.get_layer(inner.name).weights, strict=True):
            assert np.array_equal(ours, theirs), ours.path


@pytest.mark.parametrize("name", ["one_shot", "iterative", "gradual"])
def test_every_convolution_and_nothing_else_is_pruned(runs, name):
    run = getattr(runs, name)
    convolutions = {layer.name for layer in load_model(runs.dense.round(0)).layers if "conv" in layer.name}
    convolutions = {layer for layer in convolutions if not layer.endswith(("_pad", "_pool"))}
    assert len(convolutions) == 6
    assert kernels_of(run.round(1)).keys() == convolutions


@pytest.mark.parametrize("name", ["one_shot", "iterative", "continued", "gradual"])
def test_removed_weights_are_exactly_zero_and_counted_exactly(runs, name):
    run = getattr(runs, name)
    config = run.read_config()
    for number in range(1, config.last_round + 1):
        result = run.round(number).read_result()
        kernels = kernels_of(run.round(number))
        level = result.target_sparsity
        for layer, (kernel, mask) in kernels.items():
            assert np.all(kernel[mask == 0] == 0.0), layer
            assert np.all(kernel[mask == 1] != 0.0), layer
            if config.scope == "layer":
                assert mask.sum() == max(mask.size - round(level * mask.size), 1), layer
        if config.scope == "global":
            assert total(kernels) - removed(kernels) == total(kernels) - round(level * total(kernels))
        assert result.sparsity == pytest.approx(removed(kernels) / total(kernels), abs=1e-12)
        model = load_model(run.round(number))
        parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        assert result.sparsity_all_parameters == pytest.approx(removed(kernels) / parameters, abs=1e-9)


def test_iterative_levels_shrink_the_density_by_the_same_factor(runs):
    levels = [runs.iterative.round(number).read_result().target_sparsity for number in (1, 2, 3)]
    assert levels == pytest.approx([1 - 0.2 ** (k / 3) for k in (1, 2, 3)], abs=1e-12)
    assert levels[-1] == 0.8


def test_levels_begin_at_the_sparsity_of_the_starting_masks(runs):
    start = round_sparsity(runs.iterative, 2)
    assert runs.continued.round(0).read_result().sparsity == pytest.approx(start, abs=1e-12)
    levels = [runs.continued.round(number).read_result().target_sparsity for number in (1, 2)]
    expected = [1 - (1 - start) * (0.1 / (1 - start)) ** (k / 2) for k in (1, 2)]
    assert levels == pytest.approx(expected, abs=1e-12)


def test_masks_shrink_from_round_to_round(runs):
    chain = [runs.iterative.round(number) for number in (0, 1, 2)] + [
        runs.continued.round(number) for number in (0, 1, 2)
    ]
    masks = [kernels_of(folder) for folder in chain]
    assert removed(masks[0]) == 0
    assert removed(masks[2]) == removed(masks[3])
    for earlier, later in zip(masks, masks[1:], strict=False):
        for layer, (_, mask) in later.items():
            assert np.all(mask <= earlier[layer][1]), layer
    assert removed(masks[1]) < removed(masks[2]) < removed(masks[4]) < removed(masks[5])


def test_a_pruning_round_removes_the_smallest_weights(runs):
    before = kernels_of(runs.one_shot.round(0))
    after = kernels_of(runs.one_shot.round(1))
    kept = np.concatenate([np.abs(before[layer][0][after[layer][1] == 1]) for layer in before])
    gone = np.concatenate([np.abs(before[layer][0][after[layer][1] == 0]) for layer in before])
    # The one weight that each layer keeps whatever its size may be below the threshold.
    assert np.sum(kept < gone.max()) <= len(before)


def test_the_accuracy_right_after_pruning_is_before_any_training(runs):
    for number in (1, 2, 3):
        model = load_model(runs.iterative.round(number - 1))
        result = runs.iterative.round(number).read_result()
        sparsity.prune_to(model, result.target_sparsity, scope="global")
        after = measured_accuracy_percent(model)
        assert result.metric_after_pruning == pytest.approx(after, abs=1e-4)


def test_a_round_trains_what_it_kept(runs):
    before, after = kernels_of(runs.one_shot.round(0)), kernels_of(runs.one_shot.round(1))
    for layer, (kernel, mask) in after.items():
        kept = mask == 1
        assert np.mean(kernel[kept] != before[layer][0][kept]) > 0.9, layer


def test_gradual_ends_at_its_target_in_one_fit(runs):
    result = runs.gradual.round(1).read_result()
    assert result.target_sparsity == 0.85
    assert result.metric_after_pruning is None
    kernels = kernels_of(runs.gradual.round(1))
    assert removed(kernels) == round(0.85 * total(kernels))


def test_gradual_prunes_step_by_step(runs):
    """The masks after each epoch follow the cubic: it is not one-shot by another name."""
    weights = total(kernels_of(runs.gradual.round(1)))

    def cubic(step):
        return round(weights * 0.85 * (1 - (1 - step / 9) ** 3)) / weights

    # The last updates in the three epochs are those of steps 4, 8 and 9.
    assert [step for step, _ in runs.gradual_levels] == [4, 8, 12]
    levels = [level for _, level in runs.gradual_levels]
    assert levels == pytest.approx([cubic(4), cubic(8), cubic(9)], abs=1e-9)


def test_a_finished_experiment_is_not_run_again(runs, monkeypatch):
    config = runs.iterative.read_config()
    results = [runs.iterative.round(number).read_result() for number in range(4)]
    before = {path: path.stat().st_mtime_ns for path in runs.iterative.path.rglob("*")}

    def load(*args, **kwargs):
        pytest.fail("it loads the data")

    monkeypatch.setattr("tfprune.data.datasets.load", load)
    lines = []
    with no_training():
        assert run_experiment(config, log=lines.append) == results
    assert {path: path.stat().st_mtime_ns for path in runs.iterative.path.rglob("*")} == before
    assert lines == [f"iterative: finished already, in {runs.iterative.path}"]


def test_a_rerun_with_other_flags_is_an_error_that_lists_them(runs):
    config = runs.config("one_shot", **{**runs.one_shot_flags, "target_sparsity": 0.95, "seed": 1})
    assert runs.one_shot.round(1).finished
    with no_training(), pytest.raises(UserError) as caught:
        run_experiment(config)
    message = str(caught.value)
    assert "--experiment=one_shot" in message
    assert "--target_sparsity=0.95 (was 0.9)" in message
    assert "--seed=1 (was 0)" in message
    assert "init_from" not in message


def test_a_rerun_may_find_its_folders_elsewhere(runs, monkeypatch):
    results = [runs.one_shot.round(number).read_result() for number in (0, 1)]
    monkeypatch.chdir(runs.output_dir)
    config = runs.config("one_shot", **runs.one_shot_flags, output_dir=".")
    with no_training():
        assert run_experiment(config, log=lambda line: None) == results


def test_the_seed_decides_order_and_initial_weights(runs, monkeypatch):
    seen = {}

    class Seen(Exception):
        pass

    def fit(model, settings, *, train_batches, **arguments):
        labels = np.concatenate([batch.numpy() for _, batch in train_batches(0, 1)])
        raise Seen(labels, model.get_layer("stem_conv").kernel.numpy())

    monkeypatch.setattr("tfprune.experiments.methods.method.fit", fit)
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        with pytest.raises(Seen) as caught:
            runs.run(f"seed_{name}", seed=seed)
        seen[name] = caught.value.args
    for first, again, other in zip(*seen.values(), strict=True):
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_each_round_has_an_order_of_its_own(runs, monkeypatch):
    orders = []

    def fit(model, settings, *, train_batches, history, **arguments):
        orders.append(np.concatenate([batch.numpy() for _, batch in train_batches(0, 1)]))
        figures = {"val_accuracy": 0.5, "train_seconds": 1.0, "images_per_second": 1.0}
        history.append({"epoch": 1, **figures})

    monkeypatch.setattr("tfprune.experiments.methods.method.fit", fit)
    runs.run("orders", **runs.iterative_flags)
    assert len(orders) == 3
    assert not any(np.array_equal(orders[i], orders[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_flags_txt_is_the_experiment(runs):
    text = (runs.one_shot.path / "flags.txt").read_text()
    assert ExperimentConfig.from_flags(text) == runs.config("one_shot", **runs.one_shot_flags)
