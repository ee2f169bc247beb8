"""The network without the channels that change no output, and the proof that nothing else changed."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.dead import LayerChannels, SilentChannels
from tfprune.channels.narrow import NarrowedLayer
from tfprune.channels.shrink import ExactCut
from tfprune.export.arrays import Arrays, by_name
from tfprune.export.audit import compare_outputs
from tfprune.export.network import Network, in_batches, keras_run, weights_by_name
from tfprune.export.signature import BATCH_SIZE
from tfprune.network.graph import computed_graph
from tfprune.network.macs import kernel_uses, total

# What rounding may move the outputs by, relative to the largest.
MAX_DIFFERENCE = 1e-5
# The weights that take the constants of channels that go.
_TAKE_CONSTANTS = ("bias", "moving_mean")


@dataclass(frozen=True)
class NetworkCut:
    """The channels that were cut of a network.

    Attributes:
        reason: Why nothing was cut although channels may be dead; empty otherwise.
        channels: The number of channels that layers make.
        layers: The layers that lost channels.
        gone: Names of the layers that went altogether.
        silent: The channels that stay although the kernels that make them are zero, with the reasons.
        narrowed: The convolutions that take or make fewer channels than there are, by 1x1 convolutions around
            them; not in the sparse runtime's file.
        not_narrowed: Why none is, although some would be: the proof failed with them, as it may where a
            device multiplies with fewer digits than float32 has. Empty otherwise.
        macs_before, macs: Multiply-accumulates for one example, before and after; None where unknown.
        largest_logit_difference_relative: How far the outputs moved, relative to the largest.
        took_constants: Names of the weights that took the constants of channels that went. All others are the
            parts that stay of what they were.
    """

    reason: str = ""
    channels: int = 0
    layers: Sequence[LayerChannels] = ()
    gone: Sequence[str] = ()
    silent: Sequence[SilentChannels] = ()
    narrowed: Sequence[NarrowedLayer] = ()
    not_narrowed: str = ""
    macs_before: int | None = None
    macs: int | None = None
    largest_logit_difference_relative: float = 0.0
    took_constants: Sequence[str] = ()

    @property
    def removed(self) -> int:
        """Returns the number of channels that went."""
        return sum(one.dead for one in self.layers)

    def record(self) -> dict[str, Any]:
        """Returns everything as plain types, ready for JSON."""
        return {
            **asdict(self),
            "removed": self.removed,
            "layers": [asdict(one) for one in self.layers],
            "gone": list(self.gone),
            "silent": [asdict(one) | {"layers": list(one.layers)} for one in self.silent],
            "narrowed": [asdict(one) for one in self.narrowed],
            "took_constants": list(self.took_constants),
        }


def cut_network(network: Network, examples: Arrays, reference: Arrays) -> tuple[Network, NetworkCut]:
    """Cuts the channels of a network that change no output, and proves that nothing else changed.

    The outputs on the examples must be the same up to rounding, `MAX_DIFFERENCE` of the largest. Each weight
    must be the part that stays of what it was, but for the biases, moving means and weights of one constant
    channel that took constants, and the kernels of ones that select and place the channels of a narrowed
    convolution.

    Args:
        network: The network. It is not changed.
        examples: The examples, an array or arrays by input.
        reference: The network's outputs for them, an array or arrays by output.

    Returns:
        The smaller network, with what stays of the masks, and what was cut. It is `network` itself if no
        channel is dead, or if it cannot be cut or the proof fails: `NetworkCut.reason` says why. Its `wide`
        is the smaller network in which no convolution is narrowed; it is that network itself if the proof
        fails of the narrowed one alone.
    """
    if computed_graph(network.model) is None:
        return network, NetworkCut("it has a `call` of its own, in which channels cannot be followed")
    not_narrowed = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Of constants that cannot be found: no harm here.
            cut = ExactCut(network.model)
            found = cut.found
            plain = ExactCut(network.model, narrow=False) if found.narrowed else cut
        channels = sum(one.channels for one in found.layers)
        if not cut.cuts:
            return network, NetworkCut(channels=channels, silent=found.silent)
        smaller, changed, difference = network, [], 0.0
        if plain.cuts:
            smaller, changed, difference = _proven(network, plain, examples, reference)
        if cut is not plain:
            try:
                narrow, changed, difference = _proven(network, cut, examples, reference)
                narrow.wide, smaller = smaller, narrow
            except Exception as error:
                if not plain.cuts:
                    raise
                found, not_narrowed = plain.found, _words(error)
    except Exception as error:  # Of a layer's own configuration or rule, too.
        return network, NetworkCut(_words(error))
    macs_before, macs = (_macs(each, examples) for each in (network, smaller))
    return smaller, NetworkCut(
        channels=channels,
        layers=[one for one in found.layers if one.dead],
        gone=found.gone,
        silent=found.silent,
        narrowed=found.narrowed,
        not_narrowed=not_narrowed,
        macs_before=macs_before,
        macs=macs,
        largest_logit_difference_relative=difference,
        took_constants=changed,
    )


def _words(error: Exception) -> str:
    """Returns what an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _proven(
    network: Network, cut: ExactCut, examples: Arrays, reference: Arrays
) -> tuple[Network, list[str], float]:
    """Returns the smaller network, the names of its weights that took constants, and how far it differs.

    Raises:
        ValueError: It is not what the network was.
    """
    changed = _changed_weights(network.model, cut)
    smaller = _with_masks(network, cut)
    return smaller, changed, _difference(smaller, examples, reference)


def _changed_weights(model: keras.Model, cut: ExactCut) -> list[str]:
    """Returns the names of the weights of the smaller model that are not parts of the model's.

    Raises:
        ValueError: Others are among them than those that take constants, and ones of inserted layers.
    """
    smaller = cut.smaller
    inserted = {id(layer.kernel) for layer in cut.inserted}
    before = {
        id(cut.successors[id(weight)]): weight for weight in model.weights if id(weight) in cut.successors
    }
    changed = []
    for name, weight in weights_by_name(smaller).items():
        old = before.get(id(weight))
        if old is not None:
            part, new = cut.part(old, ops.convert_to_numpy(old)), ops.convert_to_numpy(weight)
            if np.array_equal(part, new, equal_nan=True):
                continue
            same = ~cut.taking(old)
            if not same.all() and np.array_equal(part[same], new[same], equal_nan=True):
                changed.append(name)
                continue
        if id(weight) in inserted and _selects(ops.convert_to_numpy(weight)):
            continue
        if weight.name not in _TAKE_CONSTANTS:
            raise ValueError(f"weight {name!r} of the smaller network is not a part of what it was")
        changed.append(name)
    return changed


def _selects(kernel: np.ndarray) -> bool:
    """Returns whether a 1x1 kernel hands channels on, each to one place, in their order."""
    matrix = kernel.reshape(kernel.shape[-2:])
    narrow = matrix if matrix.shape[0] > matrix.shape[1] else matrix.T
    places = narrow.argmax(0)
    return bool((np.diff(places) > 0).all()) and np.array_equal(narrow, np.eye(len(narrow))[:, places])


def _with_masks(network: Network, cut: ExactCut) -> Network:
    """Returns the smaller network with what stays of the masks.

    Raises:
        ValueError: A mask's name is that of another kernel there.
    """
    masks = {
        name: cut.mask(network.kernels[name].variable, np.asarray(mask))
        for name, mask in network.masks.items()
        if id(network.kernels[name].variable) in cut.successors
    }
    smaller = Network(cut.smaller, masks, network.work, network.signature, network.not_copied)
    for name, kernel in network.kernels.items():
        successor = cut.successors.get(id(kernel.variable))
        if successor is not None and smaller.kernels[name].variable is not successor:
            raise ValueError(f"{name!r} is another kernel in the smaller network")
    return smaller


def _difference(smaller: Network, examples: Arrays, reference: Arrays) -> float:
    """Returns how far the outputs moved, relative to the largest of each.

    Raises:
        ValueError: Further than by rounding.
    """
    signature = smaller.signature
    first = signature.outputs[0].name
    run = keras_run(smaller.model, signature)
    found = by_name(in_batches(run, examples, signature.batch_size or BATCH_SIZE), first)
    difference = max(
        compare_outputs(found[name], values)["largest_logit_difference_relative"]
        for name, values in by_name(reference, first).items()
    )
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"the outputs of the smaller network differ by {difference:.2g} of the largest,"
            f" the rule is {MAX_DIFFERENCE:g}"
        )
    return difference


def _macs(network: Network, examples: Arrays) -> int | None:
    shapes = None
    if any(None in port.shape[1:] for port in network.signature.inputs):
        arrays = network.signature.pack(examples)
        shapes = keras.tree.map_structure(lambda array: tuple(array.shape), arrays)
    return total([use.macs for use in kernel_uses(network.model, shapes)])
