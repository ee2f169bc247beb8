"""What cannot be done is one clear line, before any training, and leaves no run folder."""

import sys

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.support.small_experiments import Runs, no_training
from tfprune.errors import UserError
from tfprune.experiments.run import run_experiment

pytestmark = pytest.mark.slow


def error_of(config):
    """The message of an experiment that must fail without training and without writing a file."""
    before = sorted(config.folder.parent.glob("*"))
    with no_training(), pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    message = str(caught.value)
    assert "\n" not in message
    assert sorted(config.folder.parent.glob("*")) == before
    return message


ONE_SHOT = {"regime": "one_shot", "target_sparsity": 0.5}
ITERATIVE = {"regime": "iterative", "schedule": "geometric", "target_sparsity": 0.5}
GRADUAL = {"regime": "gradual", "schedule": "polynomial", "target_sparsity": 0.5}
OTHER = {"width": 64, "stem": "imagenet"}
TFMOT = {"pruning_engine": "tfmot", "scope": "layer"}


@pytest.mark.parametrize(
    "flags, parts",
    [
        ({"experiment": ""}, ["--experiment=", "letters, digits"]),
        ({"experiment": "../elsewhere"}, ["--experiment=../elsewhere", "letters, digits"]),
        ({"dataset": "mnist"}, ["--dataset=mnist", "cifar10, cifar100, digits, image_folder"]),
        ({"data_dir": "/nowhere"}, ["--data_dir=/nowhere", "existing folder"]),
        ({"data_dir": "x" * 256}, ["--data_dir=xxx", "existing folder"]),
        ({"data_dir": "x/" * 3000}, ["--data_dir=x/x", "existing folder"]),
        ({"data_dir": "~nobody_of_that_name/x"}, ["--data_dir=~nobody", "existing folder"]),
        ({"data_dir": "/tmp/\0"}, ["--data_dir=/tmp/", "existing folder"]),
        ({"data_dir": "/tmp/\udcff"}, ["--data_dir=/tmp/", "existing folder"]),
        ({"weights": "x" * 256}, ["--weights=xxx", "imagenet, none or an existing file"]),
        ({"weights": "~nobody_of_that_name/x.pth"}, ["--weights=~nobody", "existing"]),
        ({"init_from": "dense\u2028x"}, ["--init_from=dense", "one line of text in UTF-8"]),
        (
            {**ONE_SHOT, "layer_sparsity": ("a\udcff:0.5",)},
            ["--layer_sparsity=a", "one line of text in UTF-8"],
        ),
        ({"autoaugment": "randaugment"}, ["--autoaugment=randaugment", "cifar10, imagenet, svhn, none"]),
        ({"model": "resnet_50"}, ["--width=4: has no effect without --model=resnet18 or resnet34"]),
        (
            {**OTHER, "model": "resnet_50"},
            ["--model=resnet_50", ".keras", "did you mean resnet34?"],
        ),
        ({**OTHER, "model": "mobilenetv2"}, ["--model=mobilenetv2", "did you mean MobileNetV2?"]),
        ({**OTHER, "model": "my networks/a"}, ["--model=my networks/a", "keras.applications", "FUNCTION"]),
        ({"stem": "patch"}, ["--stem=patch", "imagenet, cifar"]),
        ({"regime": "lottery"}, ["--regime=lottery", "dense, one_shot, iterative, gradual, sparse"]),
        ({"schedule": "linear"}, ["--schedule=linear", "constant, polynomial, geometric"]),
        ({"scope": "block"}, ["--scope=block", "layer, global, erk"]),
        ({"pruning_engine": "other"}, ["--pruning_engine=other", "tfprune, tfmot"]),
        (
            TFMOT,
            ["--scope=layer: has no effect", "--pruning_engine=tfmot: has no effect without --regime=one"],
        ),
        (
            {**TFMOT, "regime": "sparse", "regrowth": "set", "target_sparsity": 0.5},
            ["--regime=sparse", "one_shot, iterative or gradual with --pruning_engine=tfmot"],
        ),
        ({**TFMOT, **ONE_SHOT, "scope": "global"}, ["--scope=global", "must be layer", "--scope=layer"]),
        (
            {**TFMOT, **GRADUAL, "schedule": "geometric"},
            ["--schedule=geometric", "must be polynomial with --pruning_engine=tfmot"],
        ),
        (
            {**TFMOT, **ONE_SHOT, "mixed_precision": "float16"},
            ["--mixed_precision=float16", "must be none with --pruning_engine=tfmot"],
        ),
        ({"mixed_precision": "int8"}, ["--mixed_precision=int8", "none, float16, bfloat16"]),
        ({"paper_section": "4.3.9"}, ["--paper_section=4.3.9", "4.3.1, 4.3.2", "baseline"]),
        ({"width": 0}, ["--width=0", "at least 1"]),
        ({"image_size": -1}, ["--image_size=-1", "at least"]),
        ({"width": 100_000}, ["--width=100000", "of memory are needed for the weights"]),
        ({"width": 10**18}, ["--width=1", "of memory are needed for the weights"]),
        ({"image_size": 100_000}, ["--image_size=100000", "are needed for training with one image"]),
        ({"image_size": 10**18}, ["--image_size=1", "are needed for training with one image"]),
        (
            {"image_size": 2000, "width": 64, "batch_size": 10**9, "train_examples": 1400},
            ["--batch_size=1000000000", "are needed for training with 1,400 images at a time"],
        ),
        ({"batch_size": -2}, ["--batch_size=-2", "at least 1"]),
        ({"seed": -1}, ["--seed=-1", "at least 0"]),
        ({"seed": 2**32}, ["--seed=4294967296", "below 2**32"]),
        ({"train_examples": -1}, ["--train_examples=-1", "at least 0"]),
        ({"test_examples": -1}, ["--test_examples=-1", "at least 0"]),
        ({**ITERATIVE, "rounds": 0}, ["--rounds=0", "at least 1"]),
        ({**GRADUAL, "frequency": 0}, ["--frequency=0", "at least 1"]),
        ({**GRADUAL, "power": 0.0}, ["--power=0.0", "above 0"]),
        ({**GRADUAL, "ramp_fraction": 0.0}, ["--ramp_fraction=0.0", "(0, 1]"]),
        ({**GRADUAL, "ramp_fraction": 1.1}, ["--ramp_fraction=1.1", "(0, 1]"]),
        ({**ONE_SHOT, "target_sparsity": 1.0}, ["--target_sparsity=1.0", "[0, 1)"]),
        ({**ONE_SHOT, "target_sparsity": -0.1}, ["--target_sparsity=-0.1", "[0, 1)"]),
        ({**ONE_SHOT, "target_sparsity": 95.0}, ["--target_sparsity=95.0", "[0, 1); did you mean 0.95?"]),
        ({**ONE_SHOT, "target_sparsity": float("nan")}, ["--target_sparsity=nan", "[0, 1)"]),
        ({**ONE_SHOT, "target_sparsity": 0.0}, ["--target_sparsity=0.0", "above 0", "one_shot"]),
        (
            {"target_sparsity": 0.5},
            ["--target_sparsity=0.5", "has no effect without --regime=one_shot, iterative, "],
        ),
        ({**ONE_SHOT, "schedule": "geometric"}, ["--schedule=geometric", "constant", "one_shot"]),
        ({**ITERATIVE, "schedule": "constant"}, ["--schedule=constant", "polynomial or geometric"]),
        ({**GRADUAL, "schedule": "constant"}, ["--schedule=constant", "polynomial or geometric"]),
        ({**ONE_SHOT, "rounds": 3}, ["--rounds=3: has no effect without --regime=iterative"]),
        ({**ITERATIVE, "rounds": 3, "epochs": (1, 1)}, ["--epochs=1,1", "one for each of the 3 rounds", "2"]),
        ({**ITERATIVE, "rounds": 2, "epochs": (1, 1, 1)}, ["--epochs=1,1,1", "each of the 2 rounds"]),
        ({"epochs": ()}, ["--epochs=", "one number"]),
        ({"epochs": (0,)}, ["--epochs=0", "at least 1"]),
        ({"epochs": (10**12,)}, ["--epochs=1000000000000", "at most a million"]),
        ({**ITERATIVE, "rounds": 2, "epochs": (1, 0)}, ["--epochs=1,0", "at least 1"]),
        ({"learning_rate": 0.0}, ["--learning_rate=0.0", "above 0"]),
        ({"learning_rate": float("nan")}, ["--learning_rate=nan", "above 0"]),
        ({"head_learning_rate": -1.0}, ["--head_learning_rate=-1.0", "above 0, or 0"]),
        ({"lr_boundaries_epochs": (3, 2)}, ["--lr_boundaries_epochs=3,2", "rising"]),
        ({"lr_factor": 0.0}, ["--lr_factor=0.0", "above 0"]),
        ({"weight_decay": -1.0}, ["--weight_decay=-1.0", "at least 0"]),
        ({**ONE_SHOT, "prune_layers": "("}, ["--prune_layers=(", "regular expression"]),
        ({**ONE_SHOT, "prune_layers": "nothing_.*"}, ["--prune_layers=nothing_.*", "Nothing to prune"]),
        ({"train_examples": 5000}, ["--train_examples=5000", "at most 1437"]),
        ({"test_examples": 5000}, ["--test_examples=5000", "at most 360"]),
        ({"dataset": "image_folder"}, ["--data_dir=", "image_folder"]),
        ({"init_from": "nobody"}, ["--init_from=nobody", "no experiment of that name"]),
        ({"init_from": "/round_00"}, ["--init_from=/round_00", "no experiment of that name"]),
        (
            {"weights": "/nowhere.safetensors"},
            ["--weights=/nowhere.safetensors", "imagenet, none or an existing file"],
        ),
        ({"weights": "resnet18"}, ["--weights=resnet18", "imagenet, none or an existing"]),
        ({"lr_schedule": "linear"}, ["--lr_schedule=linear", "step, cosine"]),
        (
            {"lr_schedule": "cosine", "epochs": (4,), "lr_boundaries_epochs": (2, 3)},
            ["--lr_boundaries_epochs=2,3", "has no effect without --lr_schedule=step"],
        ),
        ({"warmup_epochs": -1.0}, ["--warmup_epochs=-1.0", "at least 0"]),
        ({"warmup_epochs": 2.0, "epochs": (2,)}, ["--warmup_epochs=2.0", "below the number of epochs, 2"]),
        ({"evaluate_every": 0}, ["--evaluate_every=0", "at least 1"]),
        ({"distill_weight": 0.0}, ["--distill_weight=0.0", "(0, 1]"]),
        ({"distill_weight": 1.1}, ["--distill_weight=1.1", "(0, 1]"]),
        ({"distill_temperature": 0.0}, ["--distill_temperature=0.0", "above 0"]),
        ({"distill_temperature": float("inf")}, ["--distill_temperature=inf", "finite"]),
        ({"batchnorm_batches": 0}, ["--batchnorm_batches=0", "at least 1"]),
        ({**ONE_SHOT, "search": "evolve", "search_images": 1}, ["--search_images=1", "at least 2"]),
        (
            {**ONE_SHOT, "search": "evolve", "score": "lamp"},
            ["--score=lamp", "must be magnitude with --search=evolve"],
        ),
        (
            {**ONE_SHOT, "search": "evolve", "layer_sparsity": ("stem_conv:0.5",)},
            ["--layer_sparsity=stem_conv:0.5", "must be empty with --search=evolve"],
        ),
        (
            {**ONE_SHOT, "batchnorm_after_pruning": "fold"},
            ["--batchnorm_after_pruning=fold", "keep, reset_removed, recalibrate"],
        ),
        (
            {"batchnorm_after_pruning": "recalibrate"},
            ["--batchnorm_after_pruning=recalibrate", "has no effect without --regime=one_shot or iterative"],
        ),
        (
            {**GRADUAL, "batchnorm_after_pruning": "reset_removed"},
            [
                "--batchnorm_after_pruning=reset_removed",
                "has no effect without --regime=one_shot or iterative",
            ],
        ),
        (
            {**TFMOT, **ONE_SHOT, "lr_schedule": "cosine"},
            ["--lr_schedule=cosine", "must be step with --pruning_engine=tfmot"],
        ),
        (
            {**TFMOT, **ONE_SHOT, "warmup_epochs": 0.5},
            ["--warmup_epochs=0.5", "must be 0.0 with --pruning_engine=tfmot"],
        ),
        (
            {**TFMOT, **ONE_SHOT, "distill_from": "dense"},
            ["--distill_from=dense", "must be empty with --pruning_engine=tfmot"],
        ),
        (
            {**TFMOT, **ONE_SHOT, "batchnorm_after_pruning": "recalibrate"},
            ["--batchnorm_after_pruning=recalibrate", "must be keep with --pruning_engine=tfmot"],
        ),
        ({"distill_from": "nobody"}, ["--distill_from=nobody", "no experiment of that name"]),
    ],
)
def test_a_value_that_cannot_be(runs, flags, parts):
    message = error_of(runs.config(**{"experiment": "bad_input", **flags}))
    assert message.startswith(parts[0])
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "reference, rule",
    [
        ("dense/round_7", "must be EXPERIMENT or EXPERIMENT/round_KK"),
        ("dense/round_007", "must be EXPERIMENT or EXPERIMENT/round_KK"),
        ("dense/last", "must be EXPERIMENT or EXPERIMENT/round_KK"),
        ("dense/round_01", "the experiment's last round is round_00"),
        ("one_shot/round_12", "the experiment's last round is round_01"),
        ("nobody", "it has: dense, one_shot"),
    ],
)
def test_a_start_that_is_not_there(runs, reference, rule, tmp_path):
    here = Runs(tmp_path)
    here.copy(runs.dense, "dense")
    here.copy(runs.one_shot, "one_shot")
    message = error_of(here.config("bad_start", init_from=reference))
    assert message.startswith(f"--init_from={reference}: ")
    assert rule in message


@pytest.mark.parametrize("reference", ["unfinished", "unfinished/round_01"])
def test_a_start_that_is_unfinished(runs, reference, tmp_path):
    here = Runs(tmp_path)
    copy = here.copy(runs.one_shot, "unfinished")
    (copy.folder / "round_01" / "result.json").unlink()
    message = error_of(here.config("bad_start", init_from=reference))
    assert message.startswith(f"--init_from={reference}: ")
    assert "round_01" in message
    assert "is unfinished; run it to its end first" in message


def test_a_finished_round_of_an_unfinished_start_will_do(runs, tmp_path, monkeypatch):
    here = Runs(tmp_path)
    copy = here.copy(runs.one_shot, "unfinished")
    (copy.folder / "round_01" / "result.json").unlink()

    class Trains(Exception):
        pass

    def fit(*args, **kwargs):
        raise Trains

    monkeypatch.setattr("tfprune.experiments.methods.method.fit", fit)
    with pytest.raises(Trains):
        here.run("good_start", init_from="unfinished/round_00")


@pytest.mark.parametrize("size", [0, 100, 0.5, 0.9])
def test_a_truncated_start(runs, size, tmp_path):
    here = Runs(tmp_path)
    path = here.copy(runs.dense, "cut").folder / "round_00" / "model.keras"
    content = path.read_bytes()
    path.write_bytes(content[: size if isinstance(size, int) else int(size * len(content))])
    message = error_of(here.config("bad_start", init_from="cut"))
    assert message.startswith(f"--init_from=cut: {path}: not a readable network of the result beside it: ")


def test_a_start_with_other_bytes(runs, tmp_path):
    here = Runs(tmp_path)
    path = here.copy(runs.dense, "changed").folder / "round_00" / "model.keras"
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 3, 2 * len(content) // 3):
        content[i] ^= 0x55
    path.write_bytes(content)
    message = error_of(here.config("bad_start", init_from="changed"))
    assert message.startswith(
        f"--init_from=changed: {path}: not a readable network of the result beside it: "
    )


@pytest.mark.parametrize("text", ['{"cut', "[]", ""])
def test_a_start_with_a_damaged_result(runs, text, tmp_path):
    here = Runs(tmp_path)
    path = here.copy(runs.dense, "broken").folder / "round_00" / "result.json"
    path.write_text(text)
    message = error_of(here.config("bad_start", init_from="broken"))
    assert message.startswith(f"--init_from=broken: {path}: not a readable result of a round: ")


def test_a_start_without_its_model(runs, tmp_path):
    here = Runs(tmp_path)
    path = here.copy(runs.dense, "broken").folder / "round_00" / "model.keras"
    path.unlink()
    message = error_of(here.config("bad_start", init_from="broken"))
    assert message.startswith(
        f"--init_from=broken: {path}: not a readable network of the result beside it: No such file"
    )


@pytest.mark.parametrize(
    "flags, parts",
    [
        ({"width": 6}, ["stem_conv/kernel", "(3, 3, 3, 4)", "--width=6", "(3, 3, 3, 6)"]),
        ({"stem": "imagenet"}, ["stem_conv/kernel", "(3, 3, 3, 4)", "--stem=imagenet", "(7, 7, 3, 4)"]),
        ({"model": "resnet34"}, ["has no layer 'stage1_block2_bn1'", "--model=resnet34"]),
    ],
)
def test_a_start_of_another_architecture(runs, flags, parts):
    assert runs.dense.round(0).finished
    message = error_of(runs.config("bad_start", init_from="dense", **flags))
    assert message.startswith("--init_from=dense: a checkpoint of another architecture: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize("flags", [ONE_SHOT, ITERATIVE, GRADUAL])
def test_a_target_below_the_starting_sparsity(runs, flags):
    assert runs.one_shot.round(1).finished
    message = error_of(runs.config("bad_target", init_from="one_shot", **flags))
    assert message.startswith("--target_sparsity=0.5: must be at least the starting network's sparsity, 0.9")


def test_layers_that_miss_what_the_start_has_pruned(runs):
    flags = {**ONE_SHOT, "target_sparsity": 0.95, "prune_layers": "stage1_.*"}
    assert runs.one_shot.round(1).finished
    message = error_of(runs.config("bad_layers", init_from="one_shot", **flags))
    assert message.startswith("--prune_layers=stage1_.*: must select every layer that --init_from=one_shot")
    assert "stem_conv" in message
    assert "stage1" not in message.split("misses")[1]


def test_weights_that_do_not_fit(runs, tmp_path):
    path = tmp_path / "random.safetensors"
    save_file({"conv1.weight": np.zeros((4, 3, 5, 5), np.float32), "other": np.zeros(3, np.float32)}, path)
    message = error_of(runs.config("bad_weights", weights=str(path)))
    assert message.startswith(f"--weights={path}: ")
    for part in (
        "missing: bn1.weight",
        "unexpected: other",
        "conv1.weight (4, 3, 5, 5) instead of (4, 3, 3, 3)",
    ):
        assert part in message


def test_weights_that_are_cut_short(runs, tmp_path):
    path = tmp_path / "cut.safetensors"
    save_file({"conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    message = error_of(runs.config("bad_weights", weights=str(path)))
    assert message.startswith(f"--weights={path}: {path}: not a readable file of weights: ")


def test_weights_that_cannot_be_downloaded(runs, monkeypatch):
    def download(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    message = error_of(runs.config("bad_weights", weights="imagenet"))
    assert message.startswith("--weights=imagenet: The ImageNet weights could not be had")
    assert "pass the path of a local .safetensors or .pth file" in message


def test_weights_that_need_a_package_that_is_not_there(runs, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    message = error_of(runs.config("bad_weights", weights=str(path)))
    reason = "torch is not installed: it comes with the extra tfprune[pretrained]"
    assert message.startswith(f"--weights={path}: {reason}")


def test_a_dataset_that_cannot_be_downloaded(runs, monkeypatch, tmp_path):
    def load(*args, **kwargs):
        raise OSError("cifar10 is not prepared and could not be downloaded")

    monkeypatch.setattr("tfprune.data.datasets.load", load)
    message = error_of(runs.config("bad_data", dataset="cifar10", data_dir=str(tmp_path)))
    assert message == "--dataset=cifar10: cifar10 is not prepared and could not be downloaded"


def test_an_image_folder_without_its_folders(runs, tmp_path):
    config = runs.config("bad_data", dataset="image_folder", data_dir=str(tmp_path))
    message = error_of(config)
    assert message.startswith(f"--data_dir={tmp_path}: ")
    assert f"{tmp_path} must have the folders train and test" in message


def test_an_image_that_cannot_be_read(runs, tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "1.png")
    broken = tmp_path / "train" / "cat" / "1.png"
    broken.write_bytes(broken.read_bytes()[:20])
    flags = {"dataset": "image_folder", "train_examples": 0, "test_examples": 0}
    message = error_of(runs.config("bad_data", data_dir=str(tmp_path), **flags))
    assert message.startswith(f"--data_dir={tmp_path}: ")
    assert str(broken) in message


@pytest.mark.parametrize("place", ["output_dir", "run folder"])
def test_a_file_in_the_place_of_a_folder(runs, tmp_path, place):
    file = tmp_path / "file"
    file.write_text("in the way")
    output_dir, experiment = (file, "bad_place") if place == "output_dir" else (tmp_path, "file")
    config = runs.config(experiment, output_dir=str(output_dir))
    with pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    assert str(caught.value).startswith(f"--output_dir={output_dir}: cannot be written: ")
    assert file.read_text() == "in the way"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_empty_folder_stays_empty(runs, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="--train_examples=5000"):
        run_experiment(runs.config("mine", output_dir=str(tmp_path), train_examples=5000))
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize(
    "text", ["--width=4\n", "--widht=4\n--experiment=x\n", "experiment\n", "--width=four\n"]
)
def test_a_damaged_flags_txt(runs, tmp_path, text):
    path = tmp_path / "damaged" / "flags.txt"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        run_experiment(runs.config("damaged", output_dir=str(tmp_path)))
    assert str(caught.value).startswith(f"{path}: ")


def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(runs):
    """Epoch 1 trains; in epoch 2 the learning rate is 1e37."""
    flags = {"epochs": (3,), "learning_rate": 1e-3, "lr_boundaries_epochs": (1,), "lr_factor": 1e40}
    config = runs.config("diverges", **flags)
    with pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    message = str(caught.value)
    checkpoint = config.folder / "round_00" / "checkpoint_0001.keras"
    assert message.startswith("diverges round 0: the loss is ")
    assert "in epoch 2, step " in message
    assert f"Last good checkpoint: {checkpoint}" in message
    assert "--learning_rate" in message
    assert not (config.folder / "round_00" / "result.json").exists()
    for variable in keras.models.load_model(checkpoint).variables:
        assert np.isfinite(keras.ops.convert_to_numpy(variable)).all(), variable.path


def test_a_last_step_that_ruins_the_network_is_noticed(runs):
    """With one step an epoch, no training loss sees the update before the checkpoint."""
    flags = {"epochs": (1,), "learning_rate": 1e37, "train_examples": 64}
    config = runs.config("ruined", **flags)
    with pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    message = str(caught.value)
    assert message.startswith("ruined round 0: the test loss is ")
    assert "after epoch 1, step 1" in message
    assert "Last good checkpoint: none" in message
    assert not list((config.folder / "round_00").glob("*.keras"))
