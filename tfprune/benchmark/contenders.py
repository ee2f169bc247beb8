"""What the benchmark compares: the exported files that run, and the same network in other runtimes."""

import dataclasses
import importlib.util
import os
from collections.abc import Callable

from tfprune.benchmark.timing import describe_failure
from tfprune.runtime.graph import Graph

OURS = "model.tfprune"
OURS_NAME = "tfprune"
DENSE_TFLITE = "tflite_float32"


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to run the network.

    Attributes:
        name: For flags and files.
        title: For people.
        kind: `"dense"` computes with the zeros as with any weight, in float32; `"sparse"` stores or skips
            them; `"int8"` is dense with weights of 8 bits.
        loader: What runs its file, of `tfprune.benchmark.loaders.LOADERS`. One that ends in `_process`
            does so in a process of its own; without the ending, in that whose memory is measured.
        modules: What must be importable.
        packages: What to install for them.
        artifact: The exported file; `""` where the file is made here from `model.tfprune`.
        largest_difference: Of its logits from the network's, relative to the largest logit: more is
            another network, and is not timed. Random pixels and float16 weights through some tens of
            layers stay well below.
    """

    name: str
    title: str
    kind: str
    loader: str
    modules: tuple[str, ...]
    packages: str
    artifact: str = ""
    largest_difference: float = 0.02


_SAVED_MODEL = (("tensorflow",), "tensorflow", "saved_model")
_LITERT = (("ai_edge_litert",), "ai-edge-litert")
_ONNX = (("onnx", "onnxruntime"), "onnx onnxruntime")
_MNN = (("onnx", "MNN", "_tools"), "onnx MNN")
CONTENDERS = (
    Contender(OURS_NAME, "tfprune sparse", "sparse", "runtime", ("llvmlite",), "llvmlite", OURS),
    Contender(DENSE_TFLITE, "TFLite float32", "dense", "tflite", *_LITERT, "model_float32.tflite"),
    Contender("tflite_float16", "TFLite float16", "dense", "tflite", *_LITERT, "model_float16.tflite"),
    Contender(
        "tflite_float16_sparse",
        "TFLite float16 sparse",
        "sparse",
        "tflite",
        *_LITERT,
        "model_float16_sparse.tflite",
    ),
    Contender("saved_model", "SavedModel", "dense", "tensorflow_process", *_SAVED_MODEL),
    # Its activations are quantised too, image by image.
    Contender("tflite_int8", "TFLite int8", "int8", "tflite", *_LITERT, "model_int8.tflite", 0.5),
    Contender("onnxruntime", "ONNX Runtime", "dense", "onnx", *_ONNX),
    Contender("pytorch", "PyTorch", "dense", "torch", ("torch",), "torch"),
    Contender("mnn", "MNN", "dense", "mnn", *_MNN),
    Contender("mnn_sparse", "MNN sparse", "sparse", "mnn", *_MNN),
)
NAMES = tuple(contender.name for contender in CONTENDERS)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A contender with its file, or the reason why it takes no part.

    Attributes:
        contender: Which.
        path: Its file; `""` without one.
        reason: Empty if it can run; `"not installed (pip install ...)"`, `"not exported"`, or why its
            file could not be made.
    """

    contender: Contender
    path: str = ""
    reason: str = ""


def chosen_contenders(names: list[str] | tuple[str, ...]) -> list[Contender]:
    """Returns the contenders of these names, in the order of `CONTENDERS`.

    Args:
        names: Some of `NAMES`; `"all"` stands for all.

    Raises:
        ValueError: There is none, or one is unknown.
    """
    unknown = sorted(set(names) - {*NAMES, "all"})
    if unknown or not names:
        raise ValueError(
            f"must be all or some of {', '.join(NAMES)}. Received: {', '.join(unknown) or 'none'}"
        )
    return [contender for contender in CONTENDERS if "all" in names or contender.name in names]


def prepare(contender: Contender, folder: str, work: str, graph: Graph | None) -> Prepared:
    """Finds or makes a contender's file.

    Args:
        contender: Which.
        folder: The exported files.
        work: Where files for the other runtimes are made.
        graph: That of `model.tfprune`, None where it was not exported.
    """
    missing = [name for name in contender.modules if not _importable(name)]
    if missing:
        return Prepared(contender, reason=f"not installed (pip install {contender.packages})")
    if contender.artifact:
        path = os.path.join(folder, contender.artifact)
        return Prepared(contender, path) if os.path.exists(path) else Prepared(contender, "", "not exported")
    if graph is None:
        return Prepared(contender, reason=f"needs {OURS}, which was not exported")
    try:
        return Prepared(contender, _WRITERS[contender.name](graph, work))
    except Exception as error:
        # A peer's converter may raise anything; it concerns that peer alone.
        return Prepared(contender, reason=f"failed: {describe_failure(error)}")


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _write_onnx(graph: Graph, work: str, image_type: str = "uint8") -> str:
    import onnx

    from tfprune.benchmark.onnx_peer import to_onnx

    path = os.path.join(work, f"model_{image_type}.onnx")
    if not os.path.exists(path):
        onnx.save(to_onnx(graph, image_type), path)
    return path


def _write_torch(graph: Graph, work: str) -> str:
    import torch

    from tfprune.benchmark.torch_peer import to_torch

    path = os.path.join(work, "model.pt")
    torch.save(to_torch(graph), path)
    return path


def _write_mnn(graph: Graph, work: str, sparse: bool) -> str:
    from tfprune.benchmark.mnn_peer import convert_to_mnn

    path = os.path.join(work, "sparse.mnn" if sparse else "dense.mnn")
    convert_to_mnn(_write_onnx(graph, work, "float32"), path, sparse=sparse)
    return path


_WRITERS: dict[str, Callable[[Graph, str], str]] = {
    "onnxruntime": _write_onnx,
    "pytorch": _write_torch,
    "mnn": lambda graph, work: _write_mnn(graph, work, sparse=False),
    "mnn_sparse": lambda graph, work: _write_mnn(graph, work, sparse=True),
}
