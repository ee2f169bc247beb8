"""The exported files that run, and the same network in other runtimes: all that the benchmark compares.

To add another runtime, write a subclass of `Peer` and list it in `PEERS`. An exported format that
has a `timing` is a contender already.
"""

import abc
import dataclasses
import importlib.util
import os

import numpy as np

from tfprune.export.arrays import Arrays
from tfprune.export.formats import all_files
from tfprune.export.formats.format import Format, Run, Timing
from tfprune.export.formats.sparse import Sparse
from tfprune.runtime.graph import Graph
from tfprune.timing import describe_failure

OURS = Sparse.name
OURS_NAME = Sparse.timing.name
DENSE_TFLITE = "tflite_float32"


class NotExportedError(Exception):
    """A contender needs a file that was not exported; the message says so."""


class Contender(abc.ABC):
    """One way to run the network.

    Its `load` imports what its runtime needs and nothing else: the processes whose memory is measured call
    it.

    Attributes:
        timing: Its name, kind, and what it needs.
    """

    timing: Timing

    @abc.abstractmethod
    def file(self, folder: str, work: str, graph: Graph | None, example: Arrays) -> str:
        """Finds or makes its file.

        Args:
            folder: The folder of the exported files.
            work: The folder for the files of other runtimes.
            graph: The graph of `model.tfprune`; None where it was not exported.
            example: One of the examples that it will be called with.

        Returns:
            The path of the file.

        Raises:
            NotExportedError: It needs a file that was not exported.
            Exception: Whatever a peer's converter raises.
        """

    def largest_difference(self, path: str) -> float:
        """Returns the largest difference of its outputs from the network's, relative to the largest.

        Args:
            path: The file.
        """
        return self.timing.largest_difference

    @abc.abstractmethod
    def load(self, path: str, threads: int, batch_size: int) -> Run:
        """Loads the file and returns a function that runs it on a batch.

        Args:
            path: The file.
            threads: How many threads it may use; fixed from here on.
            batch_size: The only number of examples that the function will be called with.
        """


class ExportedFile(Contender):
    """An exported file in its own runtime.

    Args:
        file_format: The format, with a `timing`.
    """

    def __init__(self, file_format: Format) -> None:
        """Takes the format's timing."""
        self._format = file_format
        self.timing = file_format.timing

    def file(self, folder: str, work: str, graph: Graph | None, example: Arrays) -> str:
        """Finds the file among those exported."""
        path = os.path.join(folder, self._format.name)
        if not os.path.exists(path):
            raise NotExportedError("not exported")
        return path

    def largest_difference(self, path: str) -> float:
        """Asks the format, which may look into the file."""
        return self._format.difference_of(path)

    def load(self, path: str, threads: int, batch_size: int) -> Run:
        """Loads the file as its format does."""
        return self._format.load_batch(path, threads, batch_size)


class Peer(Contender):
    """Another runtime, which gets the network from the graph of `model.tfprune`."""

    def file(self, folder: str, work: str, graph: Graph | None, example: Arrays) -> str:
        """Makes the runtime's file from the graph."""
        if graph is None:
            raise NotExportedError(f"needs {OURS}, which was not exported")
        if graph.outputs or len(graph.inputs) > 1 or graph.inputs[0].given:
            raise NotExportedError("is timed with networks of one image that give one vector")
        return self.convert(graph, work, str(example.dtype))

    @abc.abstractmethod
    def convert(self, graph: Graph, work: str, dtype: str) -> str:
        """Writes the network in the runtime's own format.

        Args:
            graph: The network, of one input `[n, height, width, channels]`.
            work: The folder to write to.
            dtype: Of the input: `"uint8"` or `"float32"`.

        Returns:
            The path of the file.
        """


class OnnxRuntime(Peer):
    """ONNX Runtime on the CPU, with all its graph optimizations."""

    timing = Timing("onnxruntime", "ONNX Runtime", "dense", ("onnx", "onnxruntime"), "onnx onnxruntime")

    def convert(self, graph: Graph, work: str, dtype: str) -> str:
        """Writes an ONNX file."""
        return _write_onnx(graph, work, dtype)

    def load(self, path: str, threads: int, batch_size: int) -> Run:
        """Loads the ONNX file."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"image": images})[0]


class PyTorch(Peer):
    """PyTorch, channels-last and without compilation."""

    timing = Timing("pytorch", "PyTorch", "dense", ("torch",), "torch")

    def convert(self, graph: Graph, work: str, dtype: str) -> str:
        """Writes a program of tensors."""
        import torch

        from tfprune.benchmark.torch_peer import to_torch

        path = os.path.join(work, "model.pt")
        torch.save(to_torch(graph), path)
        return path

    def load(self, path: str, threads: int, batch_size: int) -> Run:
        """Loads the program; the number of threads is the whole process's."""
        import torch

        from tfprune.benchmark.torch_peer import TorchNetwork

        torch.set_num_threads(threads)
        network = TorchNetwork(torch.load(path, weights_only=True))

        def run(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return network(torch.from_numpy(images)).numpy()

        return run


class Mnn(Peer):
    """MNN on the CPU in float32 (its precision "high").

    Args:
        sparse: Whether it uses its own sparse convolutions.
    """

    def __init__(self, sparse: bool) -> None:
        """Names the contender."""
        name, title, kind = ("mnn_sparse", "MNN sparse", "sparse") if sparse else ("mnn", "MNN", "dense")
        self._sparse = sparse
        self.timing = Timing(name, title, kind, ("onnx", "MNN", "_tools"), "onnx MNN")

    def convert(self, graph: Graph, work: str, dtype: str) -> str:
        """Writes an MNN file by way of an ONNX file."""
        from tfprune.benchmark.mnn_peer import convert_to_mnn

        path = os.path.join(work, f"{self.timing.name}.mnn")
        convert_to_mnn(_write_onnx(graph, work, "float32"), path, sparse=self._sparse)
        return path

    def load(self, path: str, threads: int, batch_size: int) -> Run:
        """Loads the MNN file."""
        from tfprune.benchmark.mnn_peer import load_mnn

        return load_mnn(path, threads, batch_size)


PEERS = (OnnxRuntime(), PyTorch(), Mnn(sparse=False), Mnn(sparse=True))


def listed_contenders() -> list[Contender]:
    """Returns the exported files that are timed, `model.tfprune` first, and `PEERS`."""
    files = [ExportedFile(file) for file in all_files() if file.timing]
    return [*sorted(files, key=lambda contender: contender.timing.name != OURS_NAME), *PEERS]


CONTENDERS = tuple(listed_contenders())
NAMES = tuple(contender.timing.name for contender in CONTENDERS)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A contender with its file, or the reason why it takes no part.

    Attributes:
        contender: The contender.
        path: Its file; `""` without one.
        reason: Empty if it can run; `"not installed (pip install ...)"`, `"not exported"`, or why its
            file could not be made.
    """

    contender: Contender
    path: str = ""
    reason: str = ""

    @property
    def timing(self) -> Timing:
        """The contender's name, kind, and what it needs."""
        return self.contender.timing


def contender_of(name: str) -> Contender:
    """Returns the contender of a name.

    Raises:
        ValueError: There is none.
    """
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}. Received: name={name!r}")
    return CONTENDERS[NAMES.index(name)]


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
    return [contender for contender in CONTENDERS if "all" in names or contender.timing.name in names]


def prepare(contender: Contender, folder: str, work: str, graph: Graph | None, example: Arrays) -> Prepared:
    """Finds or makes a contender's file.

    Args:
        contender: The contender.
        folder: The folder of the exported files.
        work: The folder for the files of other runtimes.
        graph: The graph of `model.tfprune`; None where it was not exported.
        example: One of the examples that it will be called with.
    """
    if not all(_importable(name) for name in contender.timing.modules):
        return Prepared(contender, reason=f"not installed (pip install {contender.timing.packages})")
    try:
        return Prepared(contender, contender.file(folder, work, graph, example))
    except NotExportedError as error:
        return Prepared(contender, reason=str(error))
    except Exception as error:
        # A peer's converter may raise anything; it concerns that peer alone.
        return Prepared(contender, reason=f"failed: {describe_failure(error)}")


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _write_onnx(graph: Graph, work: str, image_type: str) -> str:
    import onnx

    from tfprune.benchmark.onnx_peer import to_onnx

    path = os.path.join(work, f"model_{image_type}.onnx")
    if not os.path.exists(path):
        onnx.save(to_onnx(graph, image_type), path)
    return path
