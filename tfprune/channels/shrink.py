"""Cuts exactly the channels that no output depends on."""

from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np

from tfprune.channels.cut import Builder
from tfprune.channels.dead import Dead, LayerChannels, SilentChannels
from tfprune.channels.groups import Traced
from tfprune.channels.narrow import NarrowedLayer
from tfprune.network.wrapping import wrapping_layers


@dataclass(frozen=True)
class DeadChannels:
    """The channels that `shrink` removes of a model, and those that it does not. `print` shows them.

    Attributes:
        layers: The layers that make channels, with the number of those that are dead.
        silent: The channels that stay although the kernels that make them are zero, with the reasons.
        gone: Names of the layers that go altogether, those that make no channels of their own too.
        narrowed: The convolutions that take or make fewer channels than there are.
    """

    layers: tuple[LayerChannels, ...]
    silent: tuple[SilentChannels, ...]
    gone: tuple[str, ...] = ()
    narrowed: tuple[NarrowedLayer, ...] = ()

    def __str__(self) -> str:
        total, dead = sum(one.channels for one in self.layers), sum(one.dead for one in self.layers)
        lines = [f"{dead:,} of {total:,} channels change no output"]
        lines += [f"  {one.layer}: {one.dead} of {one.channels}" for one in self.layers if one.dead]
        if self.gone:
            lines.append(f"Layers that go altogether: {', '.join(self.gone)}")
        if self.narrowed:
            lines.append("Convolutions that are narrowed, by 1x1 convolutions around them:")
        lines += [
            f"  {one.layer}: takes {one.takes} of {one.of_taken}, makes {one.makes} of {one.of_made}"
            for one in self.narrowed
        ]
        if self.silent:
            lines.append("Channels whose kernels are zero, and that stay:")
        lines += [f"  {one.channels} of {', '.join(one.layers)}: {one.reason}" for one in self.silent]
        return "\n".join(lines)


class ExactCut:
    """A model beside the smaller one with the same outputs, for those who compare them.

    Args:
        model: A built functional or Sequential model. It is not changed.
        narrow: As for `shrink`.

    Attributes:
        successors: id of a weight of `model` -> the weight in its place, once `smaller` is built; none for
            those of layers that go altogether.

    Raises:
        ValueError: If the model is subclassed or not built.
    """

    def __init__(self, model: keras.Model, *, narrow: bool = True) -> None:
        self._traced = Traced(model)
        self._dead = dead = Dead(self._traced)
        narrowed = self._traced if narrow and not wrapping_layers(model) else None
        self._builder = Builder(
            self._traced.trace.cuts, dead.kept, dead.edits, dead.biases, dead.joins, dead.needed, narrowed
        )
        self.successors = self._builder.successors

    @cached_property
    def found(self) -> DeadChannels:
        """The channels and layers that go, and the channels that stay although zeros make them."""
        gone = tuple(layer.name for layer in self._dead.removed)
        narrowing = self._builder.narrowing
        narrowed = () if narrowing is None else tuple(narrowing.layers)
        return DeadChannels(tuple(self._dead.layers), tuple(self._dead.silent), gone, narrowed)

    @property
    def cuts(self) -> bool:
        """Whether there is anything to cut."""
        narrowing = self._builder.narrowing
        return bool(self._dead.dead.any() or self._dead.joins or (narrowing and narrowing.layers))

    @cached_property
    def smaller(self) -> keras.Model:
        """The smaller model."""
        return self._builder.model(self._traced.model)

    @property
    def inserted(self) -> list[keras.layers.Layer]:
        """The layers of the smaller model, once it is built, that narrow a convolution beside them."""
        narrowing = self._builder.narrowing
        return [] if narrowing is None else narrowing.inserted

    def part(self, variable: keras.Variable, values: np.ndarray) -> np.ndarray:
        """Returns the part of values in the shape of a weight that stays."""
        return self._builder.part(variable, values)

    def taking(self, variable: keras.Variable) -> np.ndarray:
        """Returns for each value of the weight in the place of one whether it took what goes into account."""
        return self.part(variable, self._dead.taking(variable))

    def mask(self, variable: keras.Variable, mask: np.ndarray) -> np.ndarray:
        """Returns the mask of the weight in the place of one, given that one's."""
        return self.part(variable, self._dead.mask(variable, mask))


def shrink(model: keras.Model, *, narrow: bool = True) -> keras.Model:
    """Returns a smaller model with the same outputs, without the channels that change none of them.

    A channel goes if each weight that takes it is zero; if its value is zero whatever the inputs are; or if
    its value is a constant that can be moved into the bias of the layer that takes it, or into the BatchNorm
    behind that layer: in dense layers, and in convolutions that pad nothing. Of several constants that a
    convolution pads one is left, whose weights do for all. What computes with channels
    together, as LayerNormalization, keeps its channels, and each layer keeps one. In inference the outputs
    are the same up to rounding: 1e-5 of the largest one in float32. `dead_channels` tells what goes, and why
    the rest stays.

    Where tensors meet in an addition, a subtraction or a product, and each channel of one of them is a
    constant, that tensor goes with all layers that it alone needs: of a residual block without weights
    nothing is left but the sum with the constants, an operation with the name of the layer and "_constant",
    and not even that where they change nothing. So does what a concatenation takes of dead channels alone. A
    branch stays if it has a layer of one's own or an activity regularizer, which may add a loss, or if time
    steps are masked.

    A channel that stays for some layers may be of no use to others: on the stream of a residual network each
    convolution takes and makes all channels, of which it may have weights for few. Such a convolution, of any
    kernel larger than 1, is narrowed where that saves work: a 1x1 convolution of ones before it, named
    "_select", hands on what it takes, and one behind it or its BatchNorm, named "_scatter", puts what it
    makes in its place, with the constants of the other channels as its bias. These are not trained, and
    exact. Convolutions that take the same channels of a tensor have one selection.

    A wrapped model stays wrapped: what is left of its masks, its schedules and its step are those of
    `model`, so that training goes on, and no convolution of it is narrowed. A schedule that goes on counts
    the weights that are left: their sparsity is lower after the cut, and the schedule brings it back to its
    target.

    Args:
        model: A built functional or Sequential model, nested models in it too. It is not changed.
        narrow: Whether to narrow convolutions of a model without wrappers. False adds no layer: for training
            in which other weights than those that are left may grow; for pruning once more, which would take
            the ones of inserted layers for weights (`prune_frozen=False` leaves them alone); and for
            tfprune's sparse runtime, which passes over zeros by itself.

    Returns:
        A new model, functional or Sequential as `model` is, with the same names; not compiled.

    Raises:
        ValueError: If the model is subclassed or not built.
    """
    return ExactCut(model, narrow=narrow).smaller


def dead_channels(model: keras.Model) -> DeadChannels:
    """Finds the channels of a model that change no output, which `shrink` removes.

    Args:
        model: A built functional or Sequential model. It is not changed.

    Returns:
        The number of dead channels in each layer, the channels that are made by zeros alone and yet stay, and
        the convolutions that are narrowed.

    Raises:
        ValueError: If the model is subclassed or not built.
    """
    return ExactCut(model).found
