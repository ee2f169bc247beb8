"""Halves the channels of every model of `keras.applications`, and compares it with its masked twin.

  python scripts/structured_coverage.py                # all; the table in docs/structured_coverage.md
  python scripts/structured_coverage.py --only=ResNet  # what has the word in its name; writes nothing

Each model is made with random weights, BatchNorm's statistics too, and traced. Of each group of channels a
random half is cut, and the cut model is compared with the whole one in which these channels are zero. A
second process, which cannot import tfprune, loads the saved `.keras` file, compares its outputs, writes a
TFLite file and runs that. Each model that was tried is a line of `--records`, so that a run that was ended
goes on; one that fails is a row with the reason. They come one after the other, each within `--memory`.
"""

import argparse
import inspect
import json
import math
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "structured_coverage.md"
BEGIN, END = "<!-- Written by scripts/structured_coverage.py. -->", "<!-- End of what it writes. -->"
GIB = 2**30
SIDE = 96
"""Height and width of the images: all the models take them."""
LARGEST_DIFFERENCE = 1e-5
LARGEST_TFLITE_DIFFERENCE = 1e-4


def randomise(model: Any, rng: Any) -> None:
    """Gives the weights with one axis values that show if they are lost; kernels are random as they are."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            continue
        for variable in layer.weights:
            if len(variable.shape) == 1:
                positive = variable.name in ("gamma", "moving_variance")
                size = variable.shape
                variable.assign(rng.uniform(0.5, 1.5, size) if positive else rng.normal(0, 0.1, size))


def masked(model: Any, traced: Any, kept: Any) -> Any:
    """Returns the model with zeros in the place of the channels that go; the given one is changed, too.

    A layer normalisation of the twin counts the channels that stay.
    """
    import keras
    from keras import ops

    class OfKept(keras.layers.LayerNormalization):
        """Layer normalisation over some of its channels."""

        def call(self, inputs: Any) -> Any:
            mean, variance = ops.moments(ops.take(inputs, self.places, -1), -1, keepdims=True)
            return (inputs - mean) * ops.rsqrt(variance + self.epsilon) * self.gamma + self.beta

    places = {}
    for one in traced.slices:
        if isinstance(one.layer, keras.layers.LayerNormalization):
            places[id(one.layer)] = kept(one.labels).nonzero()[0]
        if one.role in ("makes", "scales"):
            sizes = [1] * len(one.variable.shape)
            sizes[one.axis] = -1
            one.variable.assign(ops.convert_to_numpy(one.variable) * kept(one.labels).reshape(sizes))
    if not places:
        return model
    twins = []

    def twin_of(layer: Any) -> Any:
        if id(layer) not in places:
            return layer
        twin = OfKept.from_config(layer.get_config())
        twin.places = places[id(layer)]
        twins.append((layer, twin))
        return twin

    masked_model = keras.models.clone_model(model, clone_function=twin_of, recursive=True)
    for old, new in twins:
        new.set_weights(old.get_weights())
    return masked_model


def halve(model: Any, images: Any, rng: Any) -> tuple[dict[str, Any], Any, Any]:
    """Cuts a model in half and compares it with its twin; the weights of the given one are changed.

    Args:
        model: The model; its weights should be random.
        images: What the two are compared on.
        rng: The source of what is cut.

    Returns:
        What is found, the smaller model and its outputs.
    """
    import keras
    import numpy as np

    from tfprune.channels.cut import build_smaller
    from tfprune.channels.groups import Traced
    from tfprune.network.macs import kernel_uses

    start = time.perf_counter()
    traced = Traced(model)
    groups = traced.groups
    stays = np.ones(traced.count, bool)
    for group in groups:
        stays[rng.permutation(group.sets)[: len(group.sets) // 2]] = False

    def kept(labels: np.ndarray) -> np.ndarray:
        return stays[traced.sets[labels]]

    smaller = build_smaller(model, traced.trace.cuts, kept)
    seconds = time.perf_counter() - start
    uses = kernel_uses(model)
    shapes = [
        {id(old): each.shape for old, each in zip(model.weights, one.weights, strict=True)}
        for one in (model, smaller)
    ]
    made = [one for one in traced.slices if one.role == "makes" and len(one.variable.shape) > 1]
    found = {
        "parameters": [each.count_params() for each in (model, smaller)],
        # What stays of a kernel is used as often as before.
        "macs": [sum(use.uses * math.prod(shapes[i][id(use.variable)]) for use in uses) for i in (0, 1)],
        "channels": [sum(len(one.labels) for one in made), int(sum(kept(one.labels).sum() for one in made))],
        "groups": sum(not group.fixed for group in groups),
        "fixed": [str(group) for group in groups if group.fixed],
        "unknown": traced.trace.unknown,
        "seconds": seconds,
    }
    outputs = keras.ops.convert_to_numpy(smaller(images, training=False))
    expected = keras.ops.convert_to_numpy(masked(model, traced, kept)(images, training=False))
    found["difference"] = float(np.abs(outputs - expected).max() / np.abs(expected).max())
    return found, smaller, outputs


def write_halved(name: str) -> None:
    """Writes what is found of a model, the smaller one, its images and its outputs into this folder."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(SIDE, SIDE, 3), classifier_activation=None
    )
    randomise(model, rng)
    images = rng.uniform(0, 255, (1, SIDE, SIDE, 3)).astype(np.float32)
    found, smaller, outputs = halve(model, images, rng)
    smaller.save("model.keras")
    np.save("images.npy", images)
    np.save("expected.npy", outputs)
    write_found(found)


def run_without_tfprune(name: str) -> None:
    """Loads what `write_halved` left in this folder, compares it, writes a TFLite file and runs that."""
    if "tfprune" in sys.modules:
        raise RuntimeError("tfprune is imported")
    sys.modules["tfprune"] = None  # `import tfprune` fails.
    import keras
    import numpy as np
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    images, expected = np.load("images.npy"), np.load("expected.npy")
    model = keras.models.load_model("model.keras")
    function = tf.function(lambda inputs: model(inputs, training=False))
    function = function.get_concrete_function(tf.TensorSpec(images.shape))
    outputs = {"reloaded": function(tf.constant(images)).numpy()}
    # Five times as fast as by way of a SavedModel.
    function = convert_variables_to_constants_v2(function)
    content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    Path("model.tflite").write_bytes(content)
    interpreter = Interpreter("model.tflite")
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    outputs["tflite"] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    largest = np.abs(expected).max()
    write_found({key: float(np.abs(value - expected).max() / largest) for key, value in outputs.items()})


def write_found(found: dict[str, Any]) -> None:
    """Adds to what is known of a model, in this folder."""
    path = Path("found.json")
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(before | found), encoding="utf-8")


def limited(step: Callable[[str], None], name: str, folder: str, memory: float) -> None:
    """Runs a step in a folder, within a limit of memory; writes why it failed, if it does."""
    limit = int(memory * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.chdir(folder)
    try:
        step(name)
    except Exception as error:  # Of any of the libraries.
        write_found({"failure": f"{step.__name__}: {type(error).__name__}: {error}"})


def record_of(name: str, memory: float) -> dict[str, Any]:
    """Returns what is found of one model, each step in a process of its own."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["keras", "tensorflow"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        found: dict[str, Any] = {}
        for step in (write_halved, run_without_tfprune):
            process = processes.Process(target=limited, args=(step, name, folder, memory))
            process.start()
            process.join()
            if path.exists():
                found = json.loads(path.read_text(encoding="utf-8"))
            if process.exitcode:
                found["failure"] = f"{step.__name__}: exit status {process.exitcode}"
            if "failure" in found:
                break
    return {"model": name} | found


def passed(record: dict[str, Any]) -> bool:
    """Returns whether all that is asked of a model holds."""
    return "failure" not in record and (
        max(record["difference"], record["reloaded"]) <= LARGEST_DIFFERENCE
        and record["tflite"] <= LARGEST_TFLITE_DIFFERENCE
    )


def cells(record: dict[str, Any]) -> list[str]:
    """Returns the row of a model."""
    if "parameters" not in record:
        return [record["model"], *[""] * 7, record["failure"]]
    parameters, macs = ([f"{value / 1e6:,.1f}" for value in record[key]] for key in ("parameters", "macs"))
    channels = [f"{value:,}" for value in record["channels"]]
    stays = [*record["fixed"], *(f"{name}: no rule for {kind}" for name, kind in record["unknown"].items())]
    result = record.get("failure") or f"{record['reloaded']:.0e}, {record['tflite']:.0e}"
    return [
        record["model"],
        " to ".join(parameters),
        " to ".join(macs),
        " to ".join(channels),
        str(record["groups"]),
        "; ".join(stays),
        f"{record['seconds']:.1f}",
        f"{record['difference']:.0e}",
        result if passed(record) or "failure" in record else f"{result}: too large",
    ]


HEADER = [
    *("model", "parameters, millions", "MACs, millions", "channels", "groups", "what stays, and why"),
    *("seconds", "difference", "reloaded, TFLite"),
]


def write_table(rows: list[list[str]]) -> None:
    """Puts the table between the marks of the document."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def application_names() -> list[str]:
    """Returns the names of the models of `keras.applications`."""
    import keras

    makers = vars(keras.applications).items()
    return [name for name, maker in makers if inspect.isfunction(maker) and name[0].isupper()]


def main() -> None:
    """Parses the command line, and does what it names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a word of the names; no table is written")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB of addresses for each process")
    parser.add_argument(
        "--records",
        type=Path,
        default=Path(tempfile.gettempdir()) / "structured_coverage.jsonl",
        help="a line for each model that was tried; remove the file to begin anew",
    )
    flags = parser.parse_args()
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    lines = flags.records.read_text(encoding="utf-8").splitlines() if flags.records.exists() else []
    records = {record["model"]: record for record in map(json.loads, lines)}
    names = [name for name in application_names() if flags.only in name]
    for place, name in enumerate(names, start=1):
        if name not in records:
            records[name] = record_of(name, flags.memory)
            with flags.records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[name]) + "\n")
        print(f"{place}/{len(names)}", *cells(records[name]), sep=" | ", flush=True)
    if not flags.only:
        write_table([cells(records[name]) for name in names])
    sys.exit(not all(passed(records[name]) for name in names))


if __name__ == "__main__":
    main()
