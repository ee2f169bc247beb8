"""TFLite files: float32, float16, float16 sparse-encoded, int8."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.errors import UserError
from tfprune.export.arrays import by_name, count_of, one_or_all, part_of
from tfprune.export.formats.format import LARGEST_DIFFERENCE, LARGEST_INT8_DIFFERENCE, Format, Run, Timing
from tfprune.extras import extra

if TYPE_CHECKING:
    from tfprune.export.names import Options
    from tfprune.export.network import Network


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The converter's way of storing the weights of one file.

    Attributes:
        weights: As in `Format.weights`.
        kind: As in `Timing.kind`.
        quantized: Whether the weights are made smaller at all; to int8 if not to float16.
        float16: Whether they become float16.
        sparse: Whether they are sparse-encoded.
        largest_difference: As in `Timing.largest_difference`.
    """

    weights: str
    kind: str = "dense"
    quantized: bool = True
    float16: bool = False
    sparse: bool = False
    largest_difference: float = LARGEST_DIFFERENCE


CONVERSIONS = (
    Conversion("float32", quantized=False),
    Conversion("float16", float16=True),
    Conversion("float16 sparse", "sparse", float16=True, sparse=True),
    # int8 weights stay dense: sparse-encoded, the file does not load under the default delegate. Its
    # activations are quantised too, image by image.
    Conversion("int8", "int8", largest_difference=LARGEST_INT8_DIFFERENCE),
)


class TFLite(Format):
    """A TFLite file with the signature `serving_default`, for LiteRT with its default delegate, XNNPACK.

    Args:
        conversion: One of `CONVERSIONS`.
    """

    group = "tflite"

    def __init__(self, conversion: Conversion) -> None:
        """Names the file and the runtime after the weights."""
        words = conversion.weights.replace(" ", "_")
        self.conversion = conversion
        self.name = f"model_{words}.tflite"
        self.weights = conversion.weights
        self.timing = Timing(
            f"tflite_{words}",
            f"TFLite {conversion.weights}",
            conversion.kind,
            ("ai_edge_litert",),
            "ai-edge-litert",
            conversion.largest_difference,
        )

    @classmethod
    def files(cls, options: "Options") -> Sequence[Format]:
        """Returns a file for each of `CONVERSIONS`."""
        return [cls(conversion) for conversion in CONVERSIONS]

    def write(self, network: "Network", path: str) -> None:
        """Converts the network's SavedModel; for one example a call where only that can be converted.

        Loops over time steps, as in recurrent layers, are such: the sizes in them must be known.

        Raises:
            UserError: TFLite has no operation for something in the network.
        """
        flatbuffer = self._converted(network)
        if self.conversion.sparse:
            _check_encoding(flatbuffer, self._without_encoding(network, os.path.dirname(path)), network)
        with open(path, "wb") as file:
            file.write(flatbuffer)

    def _converted(self, network: "Network") -> bytes:
        if network.any_batch:
            try:
                return convert_to_tflite(network.saved_model(), self.conversion)
            except Exception as error:  # The converter has its own.
                if network.signature.batch_size is not None or "TensorList" not in str(error):
                    raise UserError(_reason(error)) from error
        try:
            flatbuffer = convert_to_tflite(network.saved_model(batch_size=1), self.conversion)
        except Exception as error:
            raise UserError(_reason(error)) from error
        network.any_batch = False
        return flatbuffer

    def _without_encoding(self, network: "Network", folder: str) -> bytes:
        """Returns the file with the same weights, not sparse-encoded; in an export it lies beside it."""
        twin = TFLite(next(each for each in CONVERSIONS if each.float16 and not each.sparse))
        path = os.path.join(folder, twin.name)
        if not os.path.exists(path):
            return twin._converted(network)
        with open(path, "rb") as file:
            return file.read()

    def shortcoming(self, entry: dict[str, Any]) -> str:
        """Tells where 8 bits are too few: the weights are right, and the outputs are finite, but others."""
        finite = entry.get("largest_logit_difference", 0.0) is not None
        if self.conversion.weights == "int8" and finite and entry["weights_passed"]:
            return f"8 bits are too few for this network: {'; '.join(entry['failures'])}"
        return ""

    def load(self, path: str, threads: int | None = None) -> Run:
        """Loads the file in LiteRT's interpreter, by default on all cores, and runs its signature."""
        return _runner(threads, model_path=path)

    def load_batch(self, path: str, threads: int, batch_size: int) -> Run:
        """Loads the file with its tensors allocated once for the batch."""
        with extra("export"):
            from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(path, num_threads=threads)
        sources = interpreter.get_input_details()
        if len(sources) > 1 or len(interpreter.get_output_details()) > 1 or _is_for_one(sources[0]):
            return self.load(path, threads)
        (source,) = sources
        interpreter.resize_tensor_input(source["index"], [batch_size, *source["shape"][1:]])
        interpreter.allocate_tensors()
        result = interpreter.get_output_details()[0]["index"]

        def run(images: np.ndarray) -> np.ndarray:
            interpreter.set_tensor(source["index"], images)
            interpreter.invoke()
            return interpreter.get_tensor(result)

        return run

    def kernels(self, path: str, network: "Network") -> dict[str, list[np.ndarray]]:
        """Decodes all weights of the file, and finds each kernel by its content."""
        from tfprune.export.formats.tflite_weights import matching_weights, read_weights

        with open(path, "rb") as file:
            candidates = read_weights(file.read())
        return {
            name: matching_weights(np.asarray(kernel.variable), kernel.output_axes, candidates)
            for name, kernel in network.kernels.items()
        }

    def findings(self, path: str, network: "Network") -> tuple[dict[str, Any], list[str]]:
        """Tells how many examples a call of the file takes where that is not any number."""
        with extra("export"):
            from ai_edge_litert.interpreter import Interpreter

        inputs = Interpreter(path).get_input_details()
        sizes = [int(size) for details in inputs for size in details["shape_signature"][:1] if size != -1]
        return ({"examples_a_call": sizes[0]} if sizes else {}), []


def _runner(threads: int | None = None, **source: Any) -> Run:
    """Returns a file as a function that takes a batch of any size; arguments as of LiteRT's interpreter."""
    with extra("export"):
        from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(num_threads=threads or os.cpu_count(), **source)
    runner = interpreter.get_signature_runner("serving_default")
    inputs = runner.get_input_details()
    one_by_one = any(_is_for_one(details) for details in inputs.values())
    (first, *_) = inputs

    def run(batch: Any) -> Any:
        named = by_name(batch, first)
        if one_by_one:
            parts = [_copied(runner(**part_of(named, slice(i, i + 1)))) for i in range(count_of(named))]
            outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        else:
            outputs = _copied(runner(**named))
        return one_or_all(outputs)

    return run


def _check_encoding(encoded: bytes, plain: bytes, network: "Network") -> None:
    """Checks that a sparse-encoded file has the weights of its twin without the encoding, and runs like it.

    TensorFlow's converter (2.21) cuts the rows of small matrices to whole blocks of four, and LiteRT (2.3)
    computes something else with sparse transposed convolutions: nobody could export the network so.

    Raises:
        UserError: It does not.
    """
    from tfprune.export.formats.tflite_weights import read_weights

    twins: dict[str, list[np.ndarray]] = {}
    for weights in read_weights(plain):
        twins.setdefault(weights.name, []).append(weights.values)
    for weights in read_weights(encoded):
        same = twins.get(weights.name, [weights.values])
        if not any(np.array_equal(weights.values, values) for values in same):
            shape = list(weights.values.shape)
            raise UserError(f"TFLite's converter loses weights in its sparse encoding of a matrix {shape}")
    example = part_of(network.signature.arrays(), slice(0, network.signature.batch_size or 1))
    found, expected = (by_name(_runner(model_content=each)(example), "") for each in (encoded, plain))
    for name, values in expected.items():
        most = LARGEST_DIFFERENCE * np.abs(values).max()
        if not np.allclose(found[name], values, rtol=0, atol=most):
            raise UserError(
                "LiteRT, its runtime, computes something else with the sparse encoding of a layer"
            )


def _is_for_one(details: dict[str, Any]) -> bool:
    """Returns whether an input takes one example a call, and the batch axis is not open."""
    return list(details["shape_signature"][:1]) == [1]


def _copied(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns outputs that the next call does not overwrite."""
    return {name: array.copy() for name, array in outputs.items()}


def _reason(error: Exception) -> str:
    """Returns why the converter did not convert, in one line."""
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op", str(error))))
    if missing:
        return f"TFLite has no operation for TensorFlow's {', '.join(missing)}"
    return f"TFLite's converter does not take it: {' '.join(str(error).split())[:200]}"


def convert_to_tflite(saved_model_folder: str, conversion: Conversion) -> bytes:
    """Converts a SavedModel to a TFLite flatbuffer with the signature `serving_default`.

    The batch size stays open. LiteRT allocates one image at first and resizes to what it is given;
    XNNPACK takes the operators either way.

    Args:
        saved_model_folder: The SavedModel.
        conversion: How the weights are stored. int8 is dynamic-range quantisation: per-channel weights
            of tensors with at least 1,024 values, activations in float32. A sparse-encoded
            `Conv2DTranspose` returns NaN under LiteRT 2.3's default delegate (the audit finds it).

    Returns:
        The flatbuffer.
    """
    with extra("export"):
        import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        saved_model_folder, signature_keys=["serving_default"]
    )
    if conversion.quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if conversion.float16:
        converter.target_spec.supported_types = [tf.float16]
    if conversion.sparse:
        converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    return converter.convert()
