"""Runs one file in its own runtime, as its users would, with a number of threads and a batch size.

Each loader imports what it needs and nothing else: the processes whose memory is measured use them.
"""

from collections.abc import Callable

import numpy as np

# Takes uint8 images [batch, height, width, channels], returns float32 logits [batch, classes].
Network = Callable[[np.ndarray], np.ndarray]


def load(loader: str, path: str, threads: int, batch_size: int) -> Network:
    """Loads a file and returns what classifies a batch with it.

    Args:
        loader: One of `LOADERS`.
        path: The file.
        threads: How many it may use; fixed from here on.
        batch_size: The only batch size it is asked for.

    Returns:
        uint8 `[batch_size, height, width, channels]` to float32 `[batch_size, classes]`.
    """
    if loader not in LOADERS:
        raise ValueError(f"`loader` must be one of {', '.join(LOADERS)}. Received: loader={loader!r}")
    return LOADERS[loader](path, threads, batch_size)


def _load_tflite(path: str, threads: int, batch_size: int) -> Network:
    """LiteRT's interpreter with its default delegate, XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    source = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(source["index"], [batch_size, *source["shape"][1:]])
    interpreter.allocate_tensors()
    result = interpreter.get_output_details()[0]["index"]

    def run(images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return run


def _load_runtime(path: str, threads: int, batch_size: int) -> Network:
    """tfprune's own."""
    from tfprune import runtime

    return runtime.load(path, threads=threads)


def _load_onnx(path: str, threads: int, batch_size: int) -> Network:
    """ONNX Runtime on the CPU, all its graph optimizations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def _load_torch(path: str, threads: int, batch_size: int) -> Network:
    """PyTorch without compilation; the number of threads is the whole process's."""
    import torch

    from tfprune.benchmark.torch_network import TorchNetwork

    torch.set_num_threads(threads)
    network = TorchNetwork(torch.load(path, weights_only=True))

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return run


def _load_mnn(path: str, threads: int, batch_size: int) -> Network:
    """MNN on the CPU in float32 (its precision "high")."""
    from tfprune.benchmark.mnn_peer import load_mnn

    return load_mnn(path, threads, batch_size)


def _load_tensorflow(path: str, threads: int, batch_size: int) -> Network:
    """TensorFlow in this process, which must not have used it."""
    from tfprune.benchmark.tensorflow_peer import load_saved_model

    return load_saved_model(path, threads, batch_size)


def _start_tensorflow(path: str, threads: int, batch_size: int) -> Network:
    """TensorFlow in a process of its own."""
    from tfprune.benchmark.tensorflow_peer import start_saved_model

    return start_saved_model(path, threads, batch_size)


LOADERS: dict[str, Callable[[str, int, int], Network]] = {
    "tensorflow": _load_tensorflow,
    "tensorflow_process": _start_tensorflow,
    "tflite": _load_tflite,
    "runtime": _load_runtime,
    "onnx": _load_onnx,
    "torch": _load_torch,
    "mnn": _load_mnn,
}
