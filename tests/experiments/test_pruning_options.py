"""Each pruning flag does what it says in the network of the finished run."""

import functools
import itertools
import json
import re

import keras
import numpy as np
import pytest

from tests.support.interrupted_runs import (
    Interrupt,
    InterruptAtOnce,
    assert_same_rounds,
    left_over,
    loss_history,
    run_until,
    without_rounds,
)
from tests.support.small_experiments import Runs, kernels_of, no_training
from tfprune.compare.report import write_comparison
from tfprune.errors import UserError
from tfprune.experiments.methods.registry import method_of
from tfprune.experiments.run import run_experiment
from tfprune.runs.folder import RunFolder
from tfprune.sparsity import UpdatePruningStep, pruned_layers
from tfprune.sparsity.gradients import GradientMeter
from tfprune.sparsity.masks import erk_sparsities
from tfprune.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

FEW = {"train_examples": 64, "test_examples": 20, "batch_size": 32, "epochs": (1,)}
ONE_SHOT = {"regime": "one_shot", "target_sparsity": 0.5, "scope": "layer"}
CONVOLUTIONS = {
    "stem_conv": (3, 3, 3, 4),
    "stage1_block1_conv1": (3, 3, 4, 4),
    "stage1_block1_conv2": (3, 3, 4, 4),
    "stage2_block1_conv1": (3, 3, 4, 8),
    "stage2_block1_conv2": (3, 3, 8, 8),
    "stage2_block1_shortcut_conv": (1, 1, 4, 8),
}


def finished(runs, experiment, **flags):
    """The kernels of a run's last round; what is removed is exactly zero, and nothing else is."""
    run = runs.run(experiment, **{**FEW, **ONE_SHOT, **flags})
    kernels = kernels_of(run.round(1))
    for name, (kernel, mask) in kernels.items():
        assert np.array_equal(mask, kernel != 0.0), name
    return run, kernels


def shapes_of(kernels):
    return {name: kernel.shape for name, (kernel, _) in kernels.items()}


def zeros(mask):
    return mask.size - np.count_nonzero(mask)


def blocks(mask, height, width):
    """The blocks of a kernel's last two axes, one a row; the test's kernels are divided by their sizes."""
    rows, columns = mask.shape[-2] // height, mask.shape[-1] // width
    split = mask.reshape(-1, rows, height, columns, width)
    return split.transpose(0, 1, 3, 2, 4).reshape(-1, height * width)


def start_kernels(run):
    """The kernels as they were pruned: round 0 is the network that the run starts from."""
    return {name: kernel for name, (kernel, _) in kernels_of(run.round(0)).items()}


def test_blocks_go_as_a_whole_and_the_ends_are_spared(runs):
    """Blocks with the smallest largest weight; of the layers selected, not the first and the last."""
    flags = {"block_size": (2, 4), "block_pooling_type": "MAX"}
    ends = {"spare_ends": True, "prune_layers": ".*conv.*|head"}
    run, kernels = finished(runs, "blocks", **flags, **ends)
    assert kernels.keys() == CONVOLUTIONS.keys() - {"stem_conv"}
    for name, (_, mask) in kernels.items():
        kept = blocks(mask, 2, 4)
        assert (kept == kept[:, :1]).all(), name
        stays = kept[:, 0]
        assert zeros(stays) == len(stays) // 2, name
        largest = blocks(np.abs(start_kernels(run)[name]), 2, 4).max(axis=1)
        assert largest[stays].min() > largest[~stays].max(), name
    result = run.round(1).read_result()
    assert {name: getattr(result.config, name) for name in (*flags, "spare_ends")} == {
        "block_size": (2, 4),
        "block_pooling_type": "MAX",
        "spare_ends": True,
    }


def test_whole_channels_of_all_layers_together(runs):
    flags = {"granularity": "channel", "scope": "global"}
    run, kernels = finished(runs, "channels", **flags)
    assert shapes_of(kernels) == CONVOLUTIONS
    kept_norms, lost_norms = [], []
    for name, (_, mask) in kernels.items():
        kept = mask.reshape(-1, mask.shape[-1])
        assert (kept == kept[0]).all(), name
        assert kept[0].any(), name
        norms = np.sqrt(np.square(start_kernels(run)[name]).mean((0, 1, 2)))
        kept_norms += list(np.sort(norms[kept[0]])[:-1])  # The best of a layer stays, whatever its norm.
        lost_norms += list(norms[~kept[0]])
    assert min(kept_norms) > max(lost_norms)
    # As many channels as hold at least half of the weights.
    total = sum(mask.size for _, mask in kernels.values())
    assert 0.4 < sum(zeros(mask) for _, mask in kernels.values()) / total <= 0.5


def test_two_of_four_as_the_schedule_rises(runs, monkeypatch):
    """Along the input channels; half-way a group has one zero."""
    seen = set()
    watch_masks(monkeypatch, lambda step, masks: seen.update(np.unique(groups_of_four(masks)).tolist()))
    flags = {"regime": "gradual", "schedule": "polynomial", "frequency": 1, "ramp_fraction": 1.0}
    layers = {"prune_layers": "stage._.*_conv[12]"}
    _, kernels = finished(runs, "m_by_n", sparsity_m_by_n=(2, 4), power=1.0, epochs=(2,), **flags, **layers)
    assert len(kernels) == 4
    assert np.unique(groups_of_four([mask for _, mask in kernels.values()])).tolist() == [2]
    assert seen == {4, 3, 2}  # weights left


def groups_of_four(masks):
    """How many weights of each group of four input channels are left."""
    return np.concatenate(
        [mask.swapaxes(-1, -2).reshape(-1, 4).sum(axis=1) for mask in masks if mask.shape[-2] % 4 == 0]
    )


def by_magnitude(run, kernels):
    """In what share of the places masks are those that magnitude would have made."""
    start, same = start_kernels(run), []
    for name, (_, mask) in kernels.items():
        sizes = np.abs(start[name])
        limit = np.sort(sizes, axis=None)[::-1][np.count_nonzero(mask) - 1]
        same.append((mask == (sizes >= limit)).ravel())
    return np.concatenate(same).mean()


def test_layers_have_sparsities_of_their_own_and_weights_go_at_random(runs):
    """The first expression that matches counts, --target_sparsity for the others."""
    entries = ("stage2_.*_conv1:0.9", "stage2_.*:0.25", "stem_conv:0.0")
    run, kernels = finished(runs, "layers", layer_sparsity=entries, target_sparsity=0.6, score="random")
    expected = {
        "stem_conv": 0.0,
        "stage1_block1_conv1": 0.6,
        "stage1_block1_conv2": 0.6,
        "stage2_block1_conv1": 0.9,
        "stage2_block1_conv2": 0.25,
        "stage2_block1_shortcut_conv": 0.25,
    }
    for name, (_, mask) in kernels.items():
        assert zeros(mask) == round(expected[name] * mask.size), name
    result = run.round(1).read_result()
    assert (result.config.layer_sparsity, result.config.score) == (entries, "random")
    # Two random masks of density d agree in d^2 + (1 - d)^2 of the places.
    chance = sum(mask.size * ((1 - expected[n]) ** 2 + expected[n] ** 2) for n, (_, mask) in kernels.items())
    chance /= sum(mask.size for _, mask in kernels.values())
    assert by_magnitude(run, kernels) == pytest.approx(chance, abs=0.07)


@pytest.mark.parametrize("regime", ["gradual", "sparse"])
def test_more_steps_than_a_model_counts(regime, runs):
    flags = {"gradual": {"schedule": "polynomial"}, "sparse": {"schedule": "constant", "regrowth": "set"}}
    config = runs.config("e", **flags[regime], regime=regime, target_sparsity=0.5, frequency=1, epochs=9)
    method_of(config).schedule(0.0, steps=2**31 - 1)
    with pytest.raises(UserError, match="--epochs=9: must be fewer: they are 2,147,483,648 steps"):
        method_of(config).schedule(0.0, steps=2**31)


def test_layers_of_their_own_over_rounds_and_steps(runs):
    flags = {**ONE_SHOT, "target_sparsity": 0.75, "layer_sparsity": ("stem_conv:0.36", ".*_conv2:0.0")}
    iterative = runs.config("e", **flags | {"regime": "iterative", "schedule": "geometric", "rounds": 2})
    halfway = {"stem_conv": 0.2, ".*_conv2": 0.0, ".*": 0.5}
    assert method_of(iterative).levels_by_layer(0.0, 1) == pytest.approx(halfway)
    assert method_of(iterative).levels_by_layer(0.0, 2) == pytest.approx(
        {**halfway, "stem_conv": 0.36, ".*": 0.75}
    )
    gradual = runs.config("e", **flags | {"regime": "gradual", "schedule": "geometric", "frequency": 1})
    schedules = method_of(gradual).schedule(0.0, steps=8)
    assert {name: schedule(2)[1] for name, schedule in schedules.items()} == pytest.approx(halfway)
    everything = runs.config("e", **flags | {"layer_sparsity": (".*:0.3",)})
    assert method_of(everything).levels_by_layer(0.0, 1) == {".*": 0.3}


def test_weight_times_gradient_of_as_many_batches_as_asked(runs, monkeypatch):
    asked, scores = [], {}
    measure = GradientMeter.measure

    def measure_and_keep(meter, batches):
        batches = list(batches)
        asked.append([np.shape(x) for x, _ in batches])
        gradients = measure(meter, batches)
        for wrapper in meter._layers:
            (variable,) = wrapper.prunable_variables
            scores[wrapper.layer.name] = np.abs(variable) * gradients[id(variable)].mean_abs
        return gradients

    monkeypatch.setattr(GradientMeter, "measure", measure_and_keep)
    run, kernels = finished(runs, "taylor", score="taylor", gradient_batches=2)
    # Once, before the training, of training images.
    assert asked == [[(32, 8, 8, 3)] * 2]
    for name, (_, mask) in kernels.items():
        assert zeros(mask) == mask.size // 2, name
        assert scores[name][mask].min() >= scores[name][~mask].max(), name
    assert 0.55 < by_magnitude(run, kernels) < 0.98
    assert run.round(1).read_result().config.score == "taylor"


SPARSE_RUN = {
    **FEW,
    "regime": "sparse",
    "scope": "erk",
    "target_sparsity": 0.75,
    "train_examples": 128,
    "epochs": (3,),
    "frequency": 2,
    "ramp_fraction": 0.8,  # 10 of 12 steps
    "drop_fraction": 0.5,
    "learning_rate": 1e-2,
}


def watch_masks(monkeypatch, see):
    """Calls see(step to come, masks) before every training step."""
    on_train_batch_begin, steps = UpdatePruningStep.on_train_batch_begin, itertools.count(1)

    def watched(callback, batch, logs=None):
        on_train_batch_begin(callback, batch, logs)
        masks = [keras.ops.convert_to_numpy(m) for w in pruned_layers(callback.model) for m in w.masks]
        see(next(steps), masks)

    monkeypatch.setattr(UpdatePruningStep, "on_train_batch_begin", watched)


@functools.cache
def watched_run(runs, regrowth):
    """A run named after its regrowth and, for each of its steps, the masks in it."""
    masks = {}
    with pytest.MonkeyPatch.context() as patch:
        watch_masks(patch, lambda step, now: masks.update({step: now}))
        return runs.run(regrowth, **SPARSE_RUN, regrowth=regrowth), masks


@pytest.mark.parametrize("regrowth", ["rigl", "set"])
def test_sparse_keeps_its_count_while_the_masks_move(runs, regrowth):
    run, masks = watched_run(runs, regrowth)
    assert sorted(masks) == list(range(1, 13))
    counts = [np.count_nonzero(mask) for mask in masks[1]]
    assert all([np.count_nonzero(mask) for mask in now] == counts for now in masks.values())
    moves = {
        step: sum(np.count_nonzero(b & ~a) for a, b in zip(masks[step - 1], masks[step], strict=True))
        for step in range(2, 13)
    }
    # At every second step to the tenth, where the share that moves has fallen to zero.
    assert all(moves[step] > 0 for step in (2, 4, 6))
    assert all(moves[step] == 0 for step in (3, 5, 7, 9, 10, 11, 12))
    assert moves[2] <= 0.5 * sum(counts)
    for (name, (kernel, mask)), last in zip(kernels_of(run.round(1)).items(), masks[12], strict=True):
        assert np.array_equal(mask, last), name
        assert not kernel[~mask].any(), name
    result = run.round(1).read_result()
    assert (result.config.regrowth, result.config.drop_fraction) == (regrowth, 0.5)
    assert result.metric_after_pruning is None
    assert result.target_sparsity == 0.75


def test_erk_densities(runs):
    run, _ = watched_run(runs, "rigl")
    kernels = kernels_of(run.round(1))
    assert shapes_of(kernels) == CONVOLUTIONS
    expected = erk_sparsities(list(CONVOLUTIONS.values()), 0.75)
    for wanted, (name, (_, mask)) in zip(expected, kernels.items(), strict=True):
        assert zeros(mask) == round(wanted * mask.size), name
    # The largest layer is the sparsest.
    assert max(expected) == expected[4] > 0.75 > min(expected)
    assert run.round(1).read_result().sparsity == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    "regrowth, interruption",
    [
        ("rigl", Interrupt(epoch=2, step=3)),  # after the checkpoint of step 4 and the update at 6
        ("set", InterruptAtOnce()),  # the random masks are drawn anew, the same ones
    ],
)
def test_an_interrupted_run_ends_as_one_that_was_not(runs, regrowth, interruption):
    uninterrupted, masks = watched_run(runs, regrowth)
    config = without_rounds(runs, uninterrupted, f"{regrowth}_interrupted", 1)
    run_until(config, 1, interruption)
    run = RunFolder(config.folder)
    checkpoint = read_checkpoint(run.round(1).path)
    if regrowth == "set":
        assert checkpoint is None
    else:
        wrapper = pruned_layers(checkpoint.load_model())[-1]
        assert int(wrapper.pruning_step) == 4
        assert np.array_equal(wrapper.masks[0], masks[4][-1])
        assert not all(np.array_equal(a, b) for a, b in zip(masks[4], masks[12], strict=True))
    run_experiment(config, log=lambda line: None)
    assert_same_rounds(run, uninterrupted, (0, 1))
    assert loss_history(run.round(1)) == loss_history(uninterrupted.round(1))
    assert not left_over(run)


def test_a_comparison_says_how_each_was_pruned(runs, tmp_path):
    here = Runs(tmp_path)
    here.copy(watched_run(runs, "rigl")[0], "rigl")
    here.copy(watched_run(runs, "set")[0], "set")
    comparison = write_comparison(tmp_path)
    text = comparison.text.replace("\n    ", " ")
    for name in ("rigl", "set"):
        assert re.search(rf"\b{name}: resnet18, width 4, .* start \({name}\), scope erk", text), text
    row = next(line.split() for line in comparison.text.splitlines() if line.startswith("rigl "))
    accuracy = RunFolder(here.config("rigl").folder).round(1).read_result().metric_at_end
    # Nothing was pruned before the training: there is no accuracy right after it, nor a dense network.
    assert row == ["rigl", "1/1", f"{accuracy:.1f}", "0.7500"]
    header, *lines = comparison.csv_path.read_text().splitlines()
    assert "regrowth" in header.split(",")
    assert len(lines) == 4


def error_of(config, monkeypatch):
    """The message of an experiment that must fail before any data is loaded or a folder is made."""

    def load(*args, **kwargs):
        raise AssertionError("it loads data")

    with monkeypatch.context() as patch:
        patch.setattr("tfprune.experiments.run.load_dataset", load)
        with pytest.raises(UserError) as caught:
            run_experiment(config, log=lambda line: None)
    assert "\n" not in str(caught.value)
    assert not config.folder.exists()
    return str(caught.value)


SPARSE = {"regime": "sparse", "regrowth": "rigl", "target_sparsity": 0.5}
GRADUAL = {"regime": "gradual", "schedule": "polynomial", "target_sparsity": 0.5}
ONE_KIND = "weights go in one kind of group"
BAD = [
    ({"score": "l2"}, "--score=l2: must be one of magnitude, lamp, gathered, random, taylor, fisher"),
    ({"granularity": "filter"}, "--granularity=filter: must be one of weight, channel"),
    ({"block_pooling_type": "MIN"}, "--block_pooling_type=MIN: must be one of AVG, MAX"),
    ({"scope": "uniform"}, "--scope=uniform: must be one of layer, global, erk"),
    ({"regrowth": "snfs"}, "--regrowth=snfs: must be one of none, set, rigl"),
    ({"gradient_batches": 0}, "--gradient_batches=0: must be at least 1"),
    ({**SPARSE, "drop_fraction": 0.0}, "--drop_fraction=0.0: must be in (0, 1)"),
    ({**SPARSE, "drop_fraction": 1.0}, "--drop_fraction=1.0: must be in (0, 1)"),
    ({**SPARSE, "regrowth": "none"}, "--regrowth=none: must be set or rigl for --regime=sparse"),
    ({**ONE_SHOT, "regrowth": "set"}, "--regrowth=set: has no effect without --regime=sparse"),
    ({"regrowth": "rigl"}, "--regrowth=rigl: has no effect without --regime=sparse"),
    ({**SPARSE, "schedule": "polynomial"}, "--schedule=polynomial: must be constant for --regime=sparse"),
    ({**SPARSE, "target_sparsity": 0.0}, "--target_sparsity=0.0: must be above 0 for --regime=sparse"),
    ({**SPARSE, "rounds": 2}, "--rounds=2: has no effect without --regime=iterative"),
    ({**ONE_SHOT, "block_size": (2,)}, "--block_size=2: must be HEIGHT,WIDTH, two whole numbers"),
    ({**ONE_SHOT, "block_size": ()}, "--block_size=: must be HEIGHT,WIDTH, two whole numbers"),
    ({"block_size": (0, 2)}, "--block_size=0,2: must be HEIGHT,WIDTH, two whole numbers of at least 1"),
    ({**ONE_SHOT, "sparsity_m_by_n": (2,)}, "--sparsity_m_by_n=2: must be M,N, two whole numbers"),
    ({**ONE_SHOT, "sparsity_m_by_n": (4, 2)}, "--sparsity_m_by_n=4,2: must be M,N"),
    ({"sparsity_m_by_n": (4, 4)}, "--sparsity_m_by_n=4,4: must be M,N"),
    ({**ONE_SHOT, "sparsity_m_by_n": (0, 4)}, "--sparsity_m_by_n=0,4: must be M,N"),
    (
        {**ONE_SHOT, "block_size": (2, 2), "granularity": "channel"},
        f"--granularity=channel: must be weight with --block_size=2,2: {ONE_KIND}",
    ),
    (
        {**ONE_SHOT, "block_size": (2, 2), "sparsity_m_by_n": (2, 4)},
        f"--sparsity_m_by_n=2,4: must be empty with --block_size=2,2: {ONE_KIND}",
    ),
    (
        {**ONE_SHOT, "granularity": "channel", "sparsity_m_by_n": (2, 4)},
        f"--sparsity_m_by_n=2,4: must be empty with --granularity=channel: {ONE_KIND}",
    ),
    (
        {**SPARSE, "block_size": (1, 4)},
        "--block_size=1,4: must be 1,1 with --regrowth=rigl, which moves single weights",
    ),
    (
        {**SPARSE, "granularity": "channel"},
        "--granularity=channel: must be weight with --regrowth=rigl, which moves single weights",
    ),
    (
        {**SPARSE, "scope": "layer", "sparsity_m_by_n": (2, 4)},
        "--sparsity_m_by_n=2,4: must be empty with --regrowth=rigl, which moves single weights",
    ),
    (
        {**ONE_SHOT, "sparsity_m_by_n": (2, 4), "scope": "erk"},
        "--scope=erk: must be layer with --sparsity_m_by_n=2,4",
    ),
    (
        {**ONE_SHOT, "sparsity_m_by_n": (1, 3)},
        "--target_sparsity=0.5: must be 0.3333 with --sparsity_m_by_n=1,3",
    ),
    (
        {**ONE_SHOT, "sparsity_m_by_n": (2, 4), "layer_sparsity": ("stem_conv:0.0",)},
        "--layer_sparsity=stem_conv:0.0: must be empty with --sparsity_m_by_n=2,4",
    ),
    ({**ONE_SHOT, "layer_sparsity": ("x:2",)}, "--layer_sparsity=x:2: must be REGEX:SPARSITY"),
    (
        {**ONE_SHOT, "layer_sparsity": ("x:80",)},
        "--layer_sparsity=x:80: must be REGEX:SPARSITY, a regular expression of layer names and a sparsity "
        "in [0, 1); did you mean 0.8?",
    ),
    (
        {**ONE_SHOT, "layer_sparsity": ("x:80%",)},
        "--layer_sparsity=x:80%: must be REGEX:SPARSITY, a regular expression of layer names and a sparsity "
        "in [0, 1); did you mean 0.8?",
    ),
    ({**ONE_SHOT, "layer_sparsity": ("x:1",)}, "--layer_sparsity=x:1: must be REGEX:SPARSITY"),
    ({**ONE_SHOT, "layer_sparsity": ("x:nan",)}, "--layer_sparsity=x:nan: must be REGEX:SPARSITY"),
    ({**ONE_SHOT, "layer_sparsity": ("a:0.1", "0.5")}, "--layer_sparsity=0.5: must be REGEX:SPARSITY"),
    ({**ONE_SHOT, "layer_sparsity": ("(:0.5",)}, "--layer_sparsity=(:0.5: must be REGEX:SPARSITY"),
    (
        {"layer_sparsity": ("x:0.5",)},
        "--layer_sparsity=x:0.5: has no effect without --regime=one_shot, iterative or gradual",
    ),
    (
        {**SPARSE, "layer_sparsity": ("x:0.5",)},
        "--layer_sparsity=x:0.5: has no effect without --regime=one_shot, ",
    ),
]


@pytest.mark.parametrize("flags, message", BAD, ids=[message.partition(": ")[0] for _, message in BAD])
def test_a_combination_that_cannot_be(runs, monkeypatch, flags, message):
    assert error_of(runs.config("bad_pruning", **flags), monkeypatch).startswith(message)


TFMOT = {**ONE_SHOT, "pruning_engine": "tfmot"}
BEYOND_TFMOT = [
    ({"scope": "erk"}, "--scope=erk: must be layer"),
    ({"scope": "global"}, "--scope=global: must be layer"),
    ({"score": "taylor"}, "--score=taylor: must be magnitude"),
    ({"granularity": "channel"}, "--granularity=channel: must be weight"),
    ({"block_size": (2, 2)}, "--block_size=2,2: must be 1,1"),
    ({"sparsity_m_by_n": (2, 4)}, "--sparsity_m_by_n=2,4: must be empty"),
    ({"layer_sparsity": ("stem_conv:0.1",)}, "--layer_sparsity=stem_conv:0.1: must be empty"),
    (SPARSE, "--regime=sparse: must be one_shot, iterative or gradual"),
]


@pytest.mark.parametrize(
    "flags, rule", BEYOND_TFMOT, ids=[rule.partition(": ")[0] for _, rule in BEYOND_TFMOT]
)
def test_tfmot_refuses_what_it_cannot_do(runs, monkeypatch, flags, rule):
    message = error_of(runs.config("bad_tfmot", **{**TFMOT, **flags}), monkeypatch)
    assert message.startswith(f"{rule} with --pruning_engine=tfmot")


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            {**ONE_SHOT, "layer_sparsity": ("stage1_.*:0.3", "stage9_.*:0.9")},
            "--layer_sparsity=stage1_.*:0.3,stage9_.*:0.9: 'stage9_.*' must match a layer to prune; "
            "there are: stem_conv, stage1_block1_conv1",
        ),
        (
            {**ONE_SHOT, "spare_ends": True, "prune_layers": "stem_conv|head"},
            "--prune_layers=stem_conv|head --spare_ends: Nothing to prune",
        ),
        (
            {**SPARSE, **FEW, "frequency": 1, "ramp_fraction": 0.5},
            "--frequency=1: must be below 1, the steps in which the masks move",
        ),
    ],
)
def test_what_the_network_shows_to_be_wrong(runs, flags, message):
    """Before the folder is made."""
    config = runs.config("bad_network", **flags)
    with no_training(), pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not config.folder.exists()


SEARCH = {"search": "evolve", "search_images": 32, "search_generations": 2}


def test_sparsities_are_searched_from_where_a_search_was(runs, monkeypatch):
    """A kill in the search; the run's total is exact, and the result has the sparsities that were found."""
    flags = {**FEW, **SEARCH, "regime": "iterative", "schedule": "geometric", "rounds": 2}
    config = runs.config("searched", **flags, target_sparsity=0.75)

    def interrupt(bar, generation, *values, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(keras.utils.Progbar, "update", interrupt)
        run_experiment(config)
    run = RunFolder(config.folder)
    kept = json.loads((run.round(1).path / "search.json").read_text())
    assert len(kept["history"]) == 2 and not run.round(1).finished
    run_experiment(config)
    for number, target in ((1, 0.5), (2, 0.75)):
        folder = run.round(number)
        search = json.loads((folder.path / "search.json").read_text())
        assert (folder.path / "search.png").read_bytes()[1:4] == b"PNG"
        assert search["settings"]["target"] == pytest.approx(target) and len(search["history"]) == 3
        result = folder.read_result()
        weights, zeros = (
            sum(getattr(layer, name) for layer in result.layers) for name in ("weights", "zeros")
        )
        assert zeros == round(target * weights)
        best = search["population"][0]["removed"]
        assert [layer.zeros for layer in result.layers] == best
        if number == 1:
            assert search["history"][:2] == kept["history"]
