"""The network as it is exported: float32, uncompiled, without wrappers, its masks and what it takes."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.compiler.compile import compile_model
from tfprune.errors import UserError
from tfprune.export.arrays import Arrays, by_name, count_of, one_or_all, part_of
from tfprune.export.signature import BATCH_SIZE, Signature
from tfprune.extras import extra
from tfprune.network.copying import classes_of, computes_in_float32, copy_in_float32
from tfprune.network.graph import call_counts, computed_graph, is_graph
from tfprune.network.kinds import Kernel
from tfprune.runtime.graph import Graph
from tfprune.sparsity import pruned_layers, strip_pruning
from tfprune.sparsity.apply import masks_by_variable
from tfprune.sparsity.model_masks import kernel_names
from tfprune.text import numbered


class Network:
    """A network with its masks, and the two forms of it that files are made from, each made once.

    Args:
        model: The network, that of a `Deployable`.
        masks: Name of a kernel to its mask: 0 for a removed weight, 1 for a kept one, in the kernel's shape.
            The name is the one in `tfprune.sparsity.masks_of`, without a `/kernel` at its end.
        work: A folder for the network's SavedModel.
        signature: What it takes and returns; found if left out.
        not_copied: As in `Deployable`.

    Attributes:
        kernels: Name to the kernel, for each mask.
        work: The folder for its SavedModel.
        weights_bytes: The bytes of all weights, trainable or not, as they are in memory.
        wide: The same network with no convolution narrowed, whose zeros the sparse runtime passes over.

    Raises:
        ValueError: A mask names no kernel, does not fit it, or holds other values.
    """

    def __init__(
        self,
        model: keras.Model,
        masks: Mapping[str, np.ndarray],
        work: str,
        signature: Signature | None = None,
        not_copied: str = "",
    ) -> None:
        """Finds the masked weights."""
        self.model = model
        self.signature = signature or Signature(model)
        self.not_copied = not_copied
        self.masks = dict(masks)
        self.kernels = masked_kernels(model, self.masks)
        self.weights_bytes = sum(int(np.asarray(weight).nbytes) for weight in model.weights)
        self.work = work
        self.wide = self
        self._graph: Graph | None = None
        # Whether TFLite's converter takes any number of examples a call, until it was found not to.
        self.any_batch = True

    @property
    def classes(self) -> dict[str, type]:
        """Returns the classes without which its `.keras` file cannot be loaded, by name."""
        return classes_of(self.model)

    def compiled(self) -> Graph:
        """Returns the network as a graph of the sparse runtime.

        Raises:
            UserError: The sparse runtime cannot run a layer.
        """
        if self._graph is None:
            self._graph = _named(compile_model(self.model, shrink=False), self.model, self.signature)
        return self._graph

    def saved_model(self, batch_size: int | None = None) -> str:
        """Returns the folder of the network's SavedModel.

        Args:
            batch_size: The number of examples of a call of it; None for that of the model, mostly any.
        """
        folder = os.path.join(self.work, f"network_{batch_size or 'any'}")
        if not os.path.exists(folder):
            write_saved_model(self.model, folder, self.signature, batch_size)
        return folder

    def allowed_copies(self) -> dict[str, int]:
        """Returns how many stored tensors may match each masked kernel: 1 in an ordinary network.

        A layer that is called several times may be stored once a call in a TFLite file, with the
        BatchNorm behind each call folded in; equal kernels match each other's tensors.

        Returns:
            Name to the number of calls of all layers with that kernel.
        """
        kernels = named_kernels(self.model).values()
        values = {id(each.variable): ops.convert_to_numpy(each.variable) for each in kernels}
        counts, allowed = call_counts(self.model), {}
        for name, kernel in self.kernels.items():
            own = values[id(kernel.variable)]
            layers = {id(each.layer) for each in kernels if np.array_equal(values[id(each.variable)], own)}
            allowed[name] = sum(counts.get(layer, 1) for layer in layers)
        return allowed


class Deployable:
    """A network as it is exported, with what of it is known from its wrappers.

    It is a copy in float32, without wrappers and without an optimizer. A network trained in mixed precision
    computes in float16 or bfloat16; its weights are float32, and so is what is exported. An optimizer would
    triple the size of the `.keras` file.

    Args:
        model: A built model. It is not changed.
        inputs: What it is called with; needed by a model with a `call` of its own.

    Attributes:
        model: The network, with the same class, layers, names and weights.
        masks: The masks of the wrappers, and without any the zeros of the kernels, by the names of
            `Network`.
        all_zero: Names of the kernels without wrappers that have no other weights than zeros, and no mask: no
            file could be searched for them.
        not_copied: Why it is the given model itself, which no file can be made of that needs its
            configuration; empty if it is a copy.

    Raises:
        UserError: The backend is not TensorFlow, or the model cannot be copied and cannot be exported as it
            is.
    """

    def __init__(self, model: keras.Model, inputs: Any = None) -> None:
        """Copies the model."""
        _check_backend()
        self.masks: dict[str, np.ndarray] = {}
        self.all_zero: list[str] = []
        self.not_copied = ""
        wrapped = bool(pruned_layers(model))
        try:
            self.model = copy_in_float32(model, lambda copy: _call_once(copy, inputs))
        except ValueError as error:
            if wrapped or not computes_in_float32(model):
                what = "strip it first, with `strip_pruning`" if wrapped else "make it in float32"
                raise UserError(f"the model cannot be copied for the export: {error}; {what}") from error
            self.model, self.not_copied = model, str(error)
        masks = masks_by_variable(self.model)
        self.model = strip_pruning(self.model) if wrapped else self.model
        for name, kernel in named_kernels(self.model).items():
            kept = ops.convert_to_numpy(kernel.variable) != 0
            if id(kernel.variable) in masks:
                self.masks[name] = np.array(ops.convert_to_numpy(masks[id(kernel.variable)]), bool)
            elif not kept.any():
                self.all_zero.append(name)
            elif not (wrapped or kept.all()):
                # Beside wrappers a zero is there by chance, as in filters that a network never used.
                self.masks[name] = kept


def _named(graph: Graph, model: keras.Model, signature: Signature) -> Graph:
    """Returns a graph whose inputs and outputs, where there are several, have the signature's names."""
    functional, names = computed_graph(model), signature.tensor_names(model)
    nodes, outputs = list(graph.nodes), list(graph.outputs)
    if len(functional.inputs) > 1:
        for index, tensor in enumerate(functional.inputs):
            nodes[index] = dataclasses.replace(nodes[index], name=names[id(tensor)])
    if len(functional.outputs) > 1:
        for index, tensor in enumerate(functional.outputs):
            outputs[index] = dataclasses.replace(outputs[index], name=names[id(tensor)])
    return Graph(tuple(nodes), tuple(outputs))


def named_kernels(model: keras.Model) -> dict[str, Kernel]:
    """Returns the kernels of a model without wrappers by the names of `Network`."""
    return {name.removesuffix("/kernel"): kernel for name, kernel in kernel_names(model).items()}


def masked_kernels(model: keras.Model, masks: Mapping[str, np.ndarray]) -> dict[str, Kernel]:
    """Finds the kernel that each mask belongs to.

    Args:
        model: The network.
        masks: As for `Network`. A name may also have the kernel's own name where it is `kernel`, and be that
            of a layer, for the only one of its weights that has the mask's shape.

    Returns:
        Name to the kernel.

    Raises:
        ValueError: A mask names no kernel, does not fit it, or holds other values.
    """
    kernels = named_kernels(model)
    found = {}
    for name, mask in masks.items():
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(f"a mask must hold only 0 and 1. Received: another value for {name!r}")
        short = name.removesuffix("/kernel")
        of_layer = [kernel for path, kernel in kernels.items() if path.rpartition("/")[0] == name]
        candidates = [kernels[short]] if short in kernels else of_layer
        if not candidates:
            raise ValueError(
                f"`masks` must be keyed by the model's kernels: {sorted(kernels)}. Received: {name!r}"
            )
        fitting = [each for each in candidates if tuple(each.variable.shape) == np.shape(mask)]
        if len(fitting) != 1:
            shapes = {each.name: tuple(each.variable.shape) for each in candidates}
            raise ValueError(
                f"the mask of {name!r} must have the shape of exactly one weight of the layer:"
                f" {shapes}. Received: {np.shape(mask)}"
            )
        found[name] = fitting[0]
    return found


def weights_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Names each weight of a network once, in the order of `model.weights`.

    The name is the weight's Keras path. A nested model's layer may have the same path as one
    outside it; the later one gets `_1`, `_2`, ... appended.

    Args:
        model: The network.

    Returns:
        Name to weight.
    """
    found: dict[str, keras.Variable] = {}
    for weight in model.weights:
        found[numbered(weight.path, found, second=1)] = weight
    return found


def write_saved_model(
    model: keras.Model, folder: str, signature: Signature | None = None, batch_size: int | None = None
) -> None:
    """Writes a SavedModel that holds each weight once.

    Its signature `serving_default` takes the inputs and returns the outputs by their names in `signature`.
    `tf.saved_model.load(folder).weights` maps each weight's name (see `weights_by_name`) to its variable.

    `model.export` tracks the variables along two paths of objects and stores each under both; a
    module with one dictionary of the TensorFlow variables does not. It has to be these and not
    Keras's own variables, which the TFLite converter does not recognise as constants.

    Args:
        model: The network.
        folder: The folder to write.
        signature: What it takes and returns; found if left out.
        batch_size: The number of examples of a call; None for that of the model, mostly any.
    """
    with extra("export"):
        import tensorflow as tf

    signature = signature or Signature(model)

    # Without annotations: AutoGraph evaluates them where `tf` is not known.
    @tf.function
    def serve(**inputs):  # noqa: ANN003, ANN202
        return signature.unpack(model(signature.pack(inputs), training=False))

    specs = {
        port.name: tf.TensorSpec((batch_size or port.shape[0], *port.shape[1:]), port.dtype, name=port.name)
        for port in signature.inputs
    }
    module = tf.Module()
    module.weights = {name: weight.value for name, weight in weights_by_name(model).items()}
    module.serve = serve
    tf.saved_model.save(module, folder, signatures={"serving_default": serve.get_concrete_function(**specs)})


def keras_run(model: keras.Model, signature: Signature | None = None) -> Callable[[Arrays], Arrays]:
    """Returns a network in inference mode as a function of arrays.

    Args:
        model: The network.
        signature: What it takes and returns; found if left out.

    Returns:
        A function from a batch, an array or arrays by input, to an array or arrays by output.
    """
    with extra("export"):
        import tensorflow as tf

    signature = signature or Signature(model)
    name = signature.inputs[0].name

    @tf.function(reduce_retracing=True)
    def step(inputs):  # noqa: ANN001, ANN202
        return signature.unpack(model(signature.pack(inputs), training=False))

    def run(batch: Arrays) -> Arrays:
        given = {key: tf.constant(array) for key, array in by_name(batch, name).items()}
        return one_or_all({key: value.numpy() for key, value in step(given).items()})

    return run


def in_batches(run: Callable[[Arrays], Arrays], inputs: Arrays, batch_size: int = BATCH_SIZE) -> Arrays:
    """Returns the outputs for many examples, a batch a call.

    Args:
        run: A function from a batch to outputs.
        inputs: The examples, an array or arrays by input.
        batch_size: Examples a call.

    Returns:
        An array or arrays by output.
    """
    starts = range(0, count_of(inputs), batch_size)
    parts = [run(part_of(inputs, slice(start, start + batch_size))) for start in starts]
    if isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)


def keras_logits(model: keras.Model, inputs: Arrays) -> Arrays:
    """Returns the outputs of a network in inference mode.

    Args:
        model: The network.
        inputs: The examples, as its calls take them; `[n, height, width, 3]` of a network of images.

    Returns:
        An array, `[n, classes]` of a network of images, or arrays by output.
    """
    signature = Signature(model, inputs)
    return in_batches(keras_run(model, signature), signature.arrays(), signature.batch_size or BATCH_SIZE)


def _check_backend() -> None:
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            "export works on the TensorFlow backend only: set KERAS_BACKEND=tensorflow."
            f" Received: KERAS_BACKEND={keras.backend.backend()}"
        )


def _call_once(copy: keras.Model, inputs: Any) -> None:
    """Gives a model with a `call` of its own its variables."""
    if inputs is not None and not is_graph(copy):
        copy(keras.tree.map_structure(lambda array: np.asarray(array)[:1], inputs), training=False)
