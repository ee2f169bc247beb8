"""What each extra is for, done with whatever versions are installed: `python extra_ways.py EXTRA`.

Run by path; needs the installed package with that extra alone, and Keras's backend.
"""

import os
import subprocess
import sys
import tempfile

import journey
import keras
import numpy as np

from tfprune.sparsity import prune_low_magnitude, prune_to, strip_pruning, summarize

# A training of seconds on the demo's digits.
SHORT = ("--epochs=1", "--lr_boundaries_epochs=", "--train_examples=128", "--test_examples=64", "--width=4")


def pruned() -> keras.Model:
    """Returns a stripped network of uint8 images, half of it zero."""
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    network = journey.network()
    network.get_layer("head").bias.assign([0.0, 10.0, 20.0, 30.0])  # So that int8 changes no prediction.
    model = prune_low_magnitude(keras.Model(inputs, network(scaled)), None)
    prune_to(model, 0.5)
    return strip_pruning(model)


def plot() -> None:
    """Draws a summary."""
    summarize(pruned()).plot("summary.png")
    assert os.path.getsize("summary.png") > 1000


def runtime() -> None:
    """Exports for the sparse runtime and runs that."""
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype("uint8")
    journey.export_and_run(pruned(), images, "model.tfprune")


def export() -> None:
    """Exports in every format, with the audit."""
    from tfprune.export import export_model

    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype("uint8")
    audit = export_model(pruned(), "exported", inputs=images, progress=lambda line: None)
    assert audit["passed"] and len(audit["artifacts"]) > 4, audit


def experiments() -> None:
    """Trains, prunes, evaluates, exports, measures and compares by the commands."""
    command("train", "--flagfile=demo_dense", *SHORT)
    command("train", "--flagfile=demo_one_shot", *SHORT)
    command("evaluate", "--experiment=demo_one_shot")
    command("export", "--experiment=demo_one_shot", "--audit_images=16")
    command("benchmark", "--experiment=demo_one_shot", "--rounds=2", "--batch_sizes=1", "--threads=1")
    command("compare", "--html")
    command("reproduce", "--profile=tiny", "--dry_run", "--output_dir=study")
    for name in ("index.html", "comparison.png", "demo_one_shot/export/benchmark.json"):
        assert os.path.getsize(os.path.join("saved_models", name)) > 1000, name


def tfmot() -> None:
    """Prunes by tfmot."""
    flags = ("--pruning_engine=tfmot", "--scope=layer", "--init_from=", "--experiment=by_tfmot")
    command("train", "--flagfile=demo_one_shot", *SHORT, *flags)


def pretrained() -> None:
    """Builds EfficientNet-Lite0 with its published weights."""
    from tfprune.models import build_efficientnet_lite0, load_backbone

    network = build_efficientnet_lite0(classes=4, image_size=32)
    before = np.asarray(network.get_layer("stem_conv").kernel)
    load_backbone(network, "imagenet")
    assert not np.array_equal(before, np.asarray(network.get_layer("stem_conv").kernel))


def command(name: str, *flags: str) -> None:
    """Runs one of the installed commands; its last line is the error if it fails."""
    program = os.path.join(os.path.dirname(sys.executable), f"tfprune-{name}")
    done = subprocess.run([program, *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"tfprune-{name}: {(done.stdout + done.stderr).strip().splitlines()[-1]}")


WAYS = {
    "plot": (plot,),
    "runtime": (runtime,),
    "export": (runtime, export),
    "experiments": (plot, runtime, export, experiments),
    "all": (plot, runtime, export, experiments, tfmot),
    "pretrained": (pretrained,),
}


def main() -> None:
    """Does what the extra is for; any exception is a finding."""
    os.chdir(tempfile.mkdtemp())
    for way in WAYS[sys.argv[1]]:
        way()


if __name__ == "__main__":
    main()
