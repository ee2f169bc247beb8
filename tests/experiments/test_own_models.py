"""Networks, data and metrics of the user's own go through all regimes, stop, go on, and are evaluated."""

import dataclasses
import json
import os
import pathlib
import sys

import keras
import numpy as np
import pytest

from tests.support import own_networks
from tests.support.interrupted_runs import Interrupt, left_over, run_until
from tests.support.killed import killed_runs
from tests.support.small_experiments import no_training
from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.experiments.evaluate import evaluate_round
from tfprune.experiments.networks import load_model
from tfprune.experiments.run import run_experiment
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder
from tfprune.runs.metric import ACCURACY, Metric
from tfprune.training.by_name import make_known

pytestmark = pytest.mark.slow

OWN = "tests.support.own_networks:"
FLAGS = {
    "dataset": f"{OWN}images",
    "image_size": 0,
    "autoaugment": "none",
    "batch_size": 8,
    "learning_rate": 1e-2,
    "epochs": (1,),
}
REGIMES = {
    "dense": {},
    "one_shot": {"regime": "one_shot", "target_sparsity": 0.6},
    "gradual": {
        "regime": "gradual",
        "schedule": "polynomial",
        "target_sparsity": 0.6,
        "frequency": 2,
    },
    "iterative": {
        "regime": "iterative",
        "schedule": "geometric",
        "target_sparsity": 0.6,
        "rounds": 2,
        "epochs": (1,),
    },
    "sparse": {
        "regime": "sparse",
        "target_sparsity": 0.6,
        "regrowth": "rigl",
        "frequency": 1,
        "scope": "erk",
    },
}
ERROR = Metric("mean_absolute_error", in_percent=False, higher_is_better=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


def config_of(folder, experiment, model, **flags):
    return ExperimentConfig(
        experiment,
        output_dir=str(folder),
        **{**FLAGS, "model": model if set(".:") & set(model) else OWN + model, **flags},
    )


def run(config, log=None):
    run_experiment(config, log=log or (lambda line: None))
    return RunFolder(config.folder)


def error_of(config):
    before = sorted(config.folder.parent.glob("*"))
    with no_training(), pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    assert sorted(config.folder.parent.glob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


# A network and its data, flags that it needs, and the metric by which it is judged.
KINDS = {
    "sequence": ("images", {}, ACCURACY),
    "subclassed": ("images", {}, ACCURACY),
    "on_graph": ("images", {}, ACCURACY),
    "recurrent": ("signals", {}, ERROR),
    "attention": ("signal_batches", {}, ERROR),
    "per_pixel": ("masks", {}, ACCURACY),
    "two_in_two_out": ("several", {}, Metric("kind_accuracy", True, True)),
}


@pytest.mark.parametrize(
    ("kind", "regime"),
    [
        *(("subclassed", regime) for regime in REGIMES),
        *((kind, "gradual") for kind in ("sequence", "recurrent", "per_pixel")),
        *((kind, "iterative") for kind in ("on_graph", "attention", "two_in_two_out")),
    ],
)
def test_every_kind_in_every_regime(kind, regime, folder):
    dataset, flags, metric = KINDS[kind]
    config = config_of(
        folder, f"{kind}_{regime}", kind, dataset=OWN + dataset, **{**REGIMES[regime], **flags}
    )
    lines = []
    found = run(config, lines.append)
    last = found.round(config.last_round)
    result = last.read_result()
    assert result.metric == metric
    assert any(f"{metric.name} " in line and "epoch 1 of" in line for line in lines)
    assert any("prunes " in line and "loss " in line for line in lines)
    if regime == "dense":
        assert result.sparsity == 0
    else:
        assert result.sparsity == pytest.approx(0.6, abs=0.03)
        model = load_model(last)
        masks = sparsity.masks_of(model)
        assert any((~mask).any() for mask in masks.values())
        stripped = sparsity.strip_pruning(model)
        assert np.isfinite(result.figures["loss"])
        if kind == "on_graph":
            assert stripped.kept() == "a method of its own"
    evaluation = evaluate_round(found, last, "")
    assert evaluation.metric == metric
    assert evaluation.value == pytest.approx(result.metric_at_end, rel=1e-4, abs=1e-4)


def assert_same(ours, theirs, numbers):
    """By the order of their weights: in one process Keras numbers the names that it makes up."""
    for number in numbers:
        one, other = (load_model(found.round(number)).get_weights() for found in (ours, theirs))
        for weights, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(weights, expected)
        one, other = (found.round(number).read_result() for found in (ours, theirs))
        assert (one.figures, one.metric_before) == (other.figures, other.metric_before)


@pytest.mark.parametrize(("kind", "regime"), [("subclassed", "iterative"), ("two_in_two_out", "one_shot")])
def test_an_interrupted_run_ends_where_one_without_ends(kind, regime, folder):
    dataset, flags, _ = KINDS[kind]
    flags = {"dataset": OWN + dataset, **REGIMES[regime], "epochs": (2,), **flags}
    whole = run(config_of(folder, f"{kind}_whole", kind, **flags))
    config = config_of(folder, f"{kind}_stopped", kind, **flags)
    rounds = range(1, config.last_round + 1)
    for number in rounds:
        run_until(config, number, Interrupt(epoch=2, step=2))
    found = run(config)
    assert_same(found, whole, (0, *rounds))
    assert not left_over(found)


def test_a_function_is_known_before_a_file_needs_it():
    make_known(f"out:{OWN}known_by_name_alone")
    name = f"{OWN[:-1]}>known_by_name_alone"
    assert keras.saving.get_registered_object(name) is own_networks.known_by_name_alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")
def test_kills_lose_nothing(tmp_path):
    config = config_of(
        tmp_path, "run", "on_graph", **REGIMES["iterative"], loss=(f"{OWN}cubed",), metrics=("mse",)
    )
    config = dataclasses.replace(
        config, model=f"{OWN}recurrent", dataset=f"{OWN}signals", metrics=(f"{OWN}near", "mae")
    )
    whole, killed = killed_runs(tmp_path, config, 3, timeout=600)
    assert killed
    assert whole.round(2).read_result().metric == Metric("near", in_percent=False, higher_is_better=True)
    for one, _ in killed:
        assert_same(one, whole, range(3))


def saved(path, *, wrapped=False, compiled=None, units=3, activation=None):
    """A file with a network for the images."""
    x = keras.Input((8, 8, 3), dtype="uint8")
    y = keras.layers.Conv2D(8, 3, activation="relu", name="body")(keras.layers.Rescaling(1 / 255)(x))
    y = keras.layers.Dense(units, activation=activation, name="out")(keras.layers.Flatten()(y))
    model = keras.Model(x, y)
    if wrapped:
        model = sparsity.prune_low_magnitude(
            model, sparsity.PolynomialDecay(0.0, 0.9, 0, 1), layers=keras.layers.Conv2D
        )
        sparsity.prune_to(model, 0.5)
    if compiled:
        model.compile("sgd", **compiled)
    model.save(path)
    return model


@pytest.mark.parametrize("regime", ["dense", "one_shot", "gradual"])
def test_a_pruned_file_keeps_its_zeros(regime, tmp_path):
    before = saved(tmp_path / "pruned.keras", wrapped=True)
    zeros = ~next(iter(sparsity.masks_of(before).values()))
    for name, network in (("wrapped", before), ("stripped", sparsity.strip_pruning(before))):
        network.save(tmp_path / f"{name}.keras")
        config = config_of(tmp_path, name, str(tmp_path / f"{name}.keras"), **REGIMES[regime])
        model = load_model(run(config).round(config.last_round))
        body = next(w for w in sparsity.pruned_layers(model) if w.layer.name == "body")
        assert not keras.ops.convert_to_numpy(body.masks[0])[zeros].any()
        assert not keras.ops.convert_to_numpy(body.layer.kernel)[zeros].any()
        if regime == "dense":
            assert sparsity.summarize(model).variables[0].sparsity == pytest.approx(0.5, abs=0.01)
        message = error_of(
            config_of(tmp_path, "lost", config.model, **REGIMES["one_shot"], prune_layers="out")
        )
        assert message.startswith("--prune_layers=out: must select every layer that --model=")
        assert message.endswith("has pruned; misses body")


def test_a_file_is_trained_as_it_was_compiled_also_when_it_is_gone(tmp_path):
    path = tmp_path / "compiled.keras"
    saved(
        path,
        units=2,
        activation="softmax",
        compiled={
            "loss": "sparse_categorical_crossentropy",
            "metrics": ["sparse_categorical_crossentropy", "accuracy"],
        },
    )
    flags = {"dataset": f"{OWN}images_of_two", **REGIMES["iterative"]}
    config = config_of(tmp_path, "run", str(path), **flags)
    lines = []
    run_until(config, 2, Interrupt(epoch=1, step=2))
    path.unlink()
    found = run(config, lines.append)
    result = found.round(2).read_result()
    name = "sparse_categorical_crossentropy"
    assert result.metric == Metric(name, in_percent=False, higher_is_better=False)
    assert {name, "accuracy", "loss"} == result.figures.keys()
    assert evaluate_round(found, found.round(2), "")
    assert json.loads((found.path / "compiled.json").read_text())["metrics"] == [name, "accuracy"]


def test_a_new_head_for_other_data(tmp_path):
    path = str(tmp_path / "file.keras")
    saved(path, units=7)
    message = error_of(config_of(tmp_path, "misfit", path))
    for part in (f"--model={path}: does not fit", "7 outputs", "3 classes", "--new_head gives it"):
        assert part in message
    config = config_of(tmp_path, "fits", path, new_head=True, **REGIMES["one_shot"], head_learning_rate=0.1)
    model = load_model(run(config).round(1))
    assert model.output_shape == (None, 3)
    again = config_of(tmp_path, "again", path, new_head=True, init_from="fits", **REGIMES["one_shot"])
    assert run(again).round(1).read_result().sparsity == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("kind", ["sequence", "subclassed", "on_graph"])
def test_weights_and_masks_come_from_another_run(kind, folder):
    start = run(config_of(folder, f"{kind}_start", kind, **REGIMES["one_shot"]))
    before = sparsity.masks_of(load_model(start.round(1)))
    config = config_of(folder, f"{kind}_further", kind, init_from=f"{kind}_start", epochs=(1,))
    after = sparsity.masks_of(load_model(run(config).round(0)))
    assert [mask.tolist() for mask in before.values()] == [mask.tolist() for mask in after.values()]
    other = config_of(
        folder, f"{kind}_two", kind, init_from=f"{kind}_start", dataset=f"{OWN}images_of_two", epochs=(1,)
    )
    model = load_model(run(other).round(0))
    assert [w.shape[-1] for w in model.weights if len(w.shape) == 2 and w.dtype == "float32"] == [2]
    message = error_of(config_of(folder, "else", "per_pixel", init_from=f"{kind}_start"))
    assert message.startswith(f"--init_from={kind}_start: a checkpoint of another architecture")


# Every two of the values meet.
@pytest.mark.parametrize(
    ("kind", "after", "score"),
    [
        ("sequence", "reset_removed", "taylor"),
        ("sequence", "recalibrate", "fisher"),
        ("subclassed", "recalibrate", "fisher"),
        ("subclassed", "recalibrate", "taylor"),
    ],
)
def test_gradients_and_batchnorm(kind, after, score, folder):
    name = f"{kind}_{after}_{score}"
    config = config_of(folder, name, kind, **REGIMES["one_shot"], score=score, batchnorm_after_pruning=after)
    config = dataclasses.replace(config, epochs=(1,))
    assert run(config).round(1).read_result().sparsity == pytest.approx(0.6, abs=0.01)


def test_channels_of_a_subclassed_model_are_not_known(folder):
    flags = REGIMES["one_shot"] | {"batchnorm_after_pruning": "reset_removed"}
    message = error_of(config_of(folder, "unknown", "subclassed", **flags))
    assert message == (
        "--batchnorm_after_pruning=reset_removed: needs a functional or Sequential model, whose layers' "
        "connections are known; Subclassed is subclassed"
    )


def test_gradients_of_several_outputs(folder):
    flags = {**REGIMES["one_shot"], "epochs": (1,), "score": "taylor"}
    config = config_of(folder, "taylor_two", "two_in_two_out", dataset=f"{OWN}several", **flags)
    assert run(config).round(1).read_result().sparsity == pytest.approx(0.6, abs=0.02)


def test_kernels_in_composite_layers_are_chosen_by_their_paths(folder):
    flags = {"dataset": f"{OWN}signals", "prune_layers": "attention/.*|sum"}
    one_shot = {**REGIMES["one_shot"], "layer_sparsity": ("attention/query:0.25", "sum:0.75")}
    config = config_of(folder, "paths", "attention", **flags, **one_shot)
    run(config)
    masks = sparsity.masks_of(load_model(RunFolder(config.folder).round(1)))
    shares = {name: 1 - mask.mean() for name, mask in masks.items()}
    assert next(v for k, v in shares.items() if "query" in k or "einsumdense_0" in k) == pytest.approx(
        0.25, abs=0.05
    )
    assert shares["sum/kernel"] == pytest.approx(0.75, abs=0.05)
    gradual = config_of(
        folder,
        "gradual_paths",
        "attention",
        **{**flags, "prune_layers": "attention/query.*|sum"},
        **REGIMES["gradual"],
    )
    model = load_model(run(gradual).round(1))
    assert len(sparsity.masks_of(model)) == 2
    message = error_of(
        config_of(folder, "no", "attention", **flags, **{**one_shot, "layer_sparsity": ("atention:0.5",)})
    )
    assert message.startswith("--layer_sparsity=atention:0.5: 'atention' must match a layer to prune")


@pytest.mark.parametrize("kind", ["sequence", "subclassed"])
def test_a_teacher_with_probabilities_or_logits(kind, folder):
    run(config_of(folder, "soft_teacher", "sequence", epochs=(1,)))
    config = config_of(
        folder, f"taught_{kind}", kind, **{**REGIMES["one_shot"], "epochs": (2,)}, distill_from="soft_teacher"
    )
    lines = []
    assert run(config, lines.append).round(1).read_result().metric == ACCURACY
    run(config_of(folder, "regression", "recurrent", dataset=f"{OWN}signals", epochs=(1,)))
    message = error_of(
        config_of(folder, "no", "recurrent", dataset=f"{OWN}signals", distill_from="regression")
    )
    assert message.startswith("--distill_from=regression: must be empty")
    assert "1 number and labels of numbers" in message


def test_the_learning_rate_of_the_head(folder):
    """The last layer with weights, where none is called head."""
    config = config_of(folder, "head", "recurrent", dataset=f"{OWN}signals", learning_rate=1e-9)
    config = dataclasses.replace(config, head_learning_rate=1e-1, weight_decay=0.0)
    found = run(dataclasses.replace(config, epochs=(1,)))
    before = own_networks.recurrent((own_networks.STEPS, 3))
    after = load_model(found.round(0))
    assert after.get_layer("sum").bias.numpy().item() != 0
    assert len(before.weights) == len(after.weights)


@pytest.mark.parametrize(
    "flags, parts",
    [
        ({"model": f"{OWN}nobody"}, ["has no 'nobody'"]),
        ({"model": "no.such.module:net"}, ["there is no module 'no'"]),
        ({"model": f"{OWN}STEPS"}, ["must be a function"]),
        ({"model": f"{OWN}images"}, ["must return a Keras model"]),
        ({"model": "gone.keras"}, ["gone.keras", "No such file"]),
        ({"model": f"{OWN}unregistered"}, ["'Unregistered' is not known", "register_keras_serializable"]),
        ({"model": f"{OWN}forgetful", "dataset": f"{OWN}signals"}, ["cannot be saved and loaded again"]),
        ({"model": f"{OWN}recurrent"}, [f"{OWN}recurrent fails: ValueError", "ndim=3"]),
        ({"model": f"{OWN}on_graph", "dataset": f"{OWN}signals"}, ["on_graph fails", "units=None"]),
        ({"model": f"{OWN}sequence", "width": 8}, ["--width=8: has no effect without --model=resnet18"]),
        ({"model": f"{OWN}sequence", "stem": "cifar"}, ["--stem=cifar: has no effect"]),
        ({"model": f"{OWN}sequence", "weights": "none"}, ["--weights=none: has no effect"]),
        ({"model": f"{OWN}sequence", "new_head": True}, ["--new_head=True: has no effect", "FILE.keras"]),
        ({"model": f"{OWN}sequence", "loss": ("mse",)}, ["cannot be evaluated", "--loss=mse"]),
        ({"model": f"{OWN}sequence", "metrics": (f"{OWN}undecided",)}, ["higher_is_better"]),
        (
            {"model": f"{OWN}sequence", "pruning_engine": "tfmot", "scope": "layer", **REGIMES["one_shot"]},
            ["must be resnet18 or resnet34 with --pruning_engine=tfmot"],
        ),
        ({"model": "resnet18", "dataset": f"{OWN}signals", "weights": "none"}, ["images of three channels"]),
        ({"model": "MobileNetV2", "weights": "missing.h5"}, ["--weights=missing.h5", "existing file"]),
        ({"model": "InceptionV3", "weights": "none"}, ["--model=InceptionV3", "takes no such images"]),
    ],
)
def test_what_cannot_be_is_one_line_before_there_is_a_folder(flags, parts, tmp_path):
    message = error_of(ExperimentConfig("bad", output_dir=str(tmp_path), **{**FLAGS, **flags}))
    assert message.startswith("--")
    for part in parts:
        assert part in message


def test_a_module_that_is_gone_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "of_mine_gone.py").write_text(pathlib.Path(own_networks.__file__).read_text())
    monkeypatch.chdir(tmp_path)
    found = run(config_of(tmp_path, "run", "of_mine_gone:sequence", epochs=(1,)))
    (tmp_path / "of_mine_gone.py").unlink()
    monkeypatch.delitem(sys.modules, "of_mine_gone")
    for attempt in (lambda: load_model(found.round(0)), lambda: evaluate_round(found, found.round(0), "")):
        with pytest.raises(
            UserError, match="--model=of_mine_gone:sequence: there is no module 'of_mine_gone'"
        ):
            attempt()


def test_a_network_of_keras(folder):
    config = config_of(folder, "mobile", "x.y", image_size=32, weights="none", **REGIMES["one_shot"])
    config = dataclasses.replace(config, model="MobileNet", epochs=(1,), train_examples=8, test_examples=8)
    result = run(config).round(1).read_result()
    assert result.sparsity == pytest.approx(0.6, abs=0.001)
