"""`PruneLowMagnitude`: a layer that runs another layer with some of its weights masked out."""

import contextlib
import operator
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfprune.network import kinds
from tfprune.network.calls import asked_to_train, forget_losses, show_signature
from tfprune.network.graph import hand_on_input_shape, is_built
from tfprune.network.wrapping import Wrapping
from tfprune.sparsity.learned import Learned, make_learned
from tfprune.sparsity.patterns import Blocks, MOfN, Pattern, from_arguments
from tfprune.sparsity.rounding import rounded_kernels, to_8_bits
from tfprune.sparsity.rule import DEFAULT_SCHEDULE, Rule
from tfprune.sparsity.schedules import LAST_STEP, serialize_schedule
from tfprune.sparsity.scores import Score


class PrunedKernel(NamedTuple):
    """A prunable kernel of a wrapped layer, with its mask."""

    kernel: kinds.Kernel
    mask: keras.Variable


# id of a variable -> its mask, and how that is learned, inside `one_mask_a_variable`.
_masks: ContextVar[dict[int, tuple[keras.Variable, Learned | None]] | None] = ContextVar(
    "masks", default=None
)


@contextlib.contextmanager
def one_mask_a_variable() -> Iterator[None]:
    """Lets the wrappers made inside the block share masks where their layers share variables.

    A layer may be called both by the model and by another layer that holds it, such as an embedding table
    that is also the last layer's kernel.
    """
    outside = _masks.set({})
    try:
        yield
    finally:
        _masks.reset(outside)


@keras.saving.register_keras_serializable("tfprune")
class PruneLowMagnitude(Wrapping):
    """A layer that runs `layer` with masked values of its prunable variables.

    The wrapper owns a mask for each prunable variable: a non-trainable boolean variable of the same shape,
    True where the weight stays. In the forward pass the inner layer sees `where(mask, weight, 0)`, so that
    the gradient of a removed weight is zero. Where a mask changes, the removed weights and the optimizer's
    slots for them become exactly zero; nothing moves them from there.

    Removed weights never return, unless `regrowth` lets them. (The gradients of tfmot's wrapper are dense:
    they move removed weights, which may return.) The masks change by the schedule, in `UpdatePruningStep`
    and `Pruner`, and in `prune_to` and `set_masks`.

    Arguments that are not listed here are those of `prune_low_magnitude`.

    Args:
        layer: The layer to prune. Its variables are used as they are, not copied.
        pruning_schedule: A `PruningSchedule`, or one of tfmot's, or None: the masks change in `prune_to`
            alone. Default: `ConstantSparsity(0.5, begin_step=0, frequency=100)`, as in tfmot.
        kernels: The kernels to prune, by their numbers, from 0, among those of the layer. None: all.
        schedules: A schedule, or None, for each of `kernels`, where they have several. Default:
            `pruning_schedule` for all.
        seed: The seed of random scores and growth. Default: drawn from Python's `random`, which
            `keras.utils.set_random_seed` seeds.
        in_8_bits: Whether the layer computes with weights of 8 bits, as `quantize_aware` says.
        **kwargs: As for every Keras layer.

    Raises:
        ValueError: On a value that `prune_low_magnitude` refuses; or, once `layer` is built, if nothing in it
            can be pruned and its class is not one of Keras's.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        pruning_schedule: Any = DEFAULT_SCHEDULE,
        block_size: tuple[int, int] = (1, 1),
        block_pooling_type: str = "AVG",
        sparsity_m_by_n: tuple[int, int] | None = None,
        *,
        scope: str = "layer",
        score: str | Score = "magnitude",
        granularity: str = "weight",
        regrowth: Any = None,
        learning: Any = None,
        pattern: Pattern | None = None,
        min_density: float = 0.0,
        kernels: Iterable[int] | None = None,
        schedules: Sequence[Any] | None = None,
        seed: int | None = None,
        in_8_bits: bool = False,
        **kwargs: Any,
    ) -> None:
        if isinstance(layer, PruneLowMagnitude):
            raise ValueError(f"The layer is wrapped already. Received: layer={layer.name!r}")
        kwargs.setdefault("name", f"prune_low_magnitude_{layer.name}")
        # The wrapper passes values through; the inner layer casts them by its own policy.
        kwargs.setdefault("dtype", layer.variable_dtype)
        show_signature(self, layer)
        super().__init__(layer, autocast=False, **kwargs)
        hand_on_input_shape(layer, self)
        if "trainable" in kwargs:
            layer.trainable = kwargs["trainable"]
        kinds.give_prunable_weights(layer)
        pattern = from_arguments(block_size, block_pooling_type, sparsity_m_by_n, granularity, pattern)
        rule = Rule(pruning_schedule, pattern, scope, score, regrowth, min_density, learning)
        self.kernels = None if kernels is None else _numbers(kernels)
        # One for all pruned kernels, or one for each.
        self.rules = [rule]
        if schedules is not None:
            if self.kernels is None or len(schedules) != len(self.kernels):
                raise ValueError(
                    "`schedules` must have one schedule for each of `kernels`. "
                    f"Received: kernels={kernels!r}, schedules={schedules!r}"
                )
            self.rules = [replace(rule, pruning_schedule=schedule) for schedule in schedules]
            if all(schedule is schedules[0] for schedule in schedules):
                self.rules = self.rules[:1]
        self.seed = random.randrange(2**31) if seed is None else int(seed)
        self.in_8_bits = bool(in_8_bits)
        self.supports_masking = layer.supports_masking
        self.masks: list[keras.Variable] = []
        # How each mask is learned, None where it is not.
        self.learned: list[Learned | None] = []
        self._has_masks = False
        self._count = 0
        self._updater: Any = None
        # What `pruning_step` was when it was last written, and the steps taken by now: in mid-fit on JAX the
        # variable lags behind, and an exception may end the fit.
        self.counted: tuple[int, int] | None = None
        # While gradients of removed weights are measured, the layer runs without masks: they are zero.
        self.masked = True
        # In a loop of one's own that tells `UpdatePruningStep` of epochs alone: whether the calls in training
        # are the steps. In the graph of a compiled loop too, so it is the variable that counts.
        self.counts_calls = False
        # While statistics are measured, the layer runs in training mode, but nobody trains it.
        self.measured = False
        if is_built(layer):
            self.build()

    def __getattr__(self, name: str) -> Any:
        """Returns a public attribute that the inner layer alone has: models use those of their layers."""
        try:
            return super().__getattr__(name)  # PyTorch keeps layers there.
        except AttributeError:
            layer = vars(self).get("layer") or vars(self).get("_modules", {}).get("layer")
            if layer is None or name.startswith("_"):
                raise
        return getattr(layer, name)

    @property
    def trainable(self) -> bool:
        """Returns whether the inner layer is trained."""
        return self.layer.trainable if hasattr(self, "layer") else self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = self.layer.trainable = bool(value)
        for learned in self.learned:
            if learned is not None:
                learned.parameter.trainable = bool(value)

    @property
    def rule(self) -> Rule:
        """Returns the arguments of pruning; the first that have a schedule, where kernels have several."""
        return next((rule for rule in self.rules if rule.pruning_schedule is not None), self.rules[0])

    @property
    def rule_of_each(self) -> list[Rule]:
        """Returns the arguments of pruning of each kernel, in the order of `masks`."""
        return self.rules * len(self.masks) if len(self.rules) == 1 else self.rules

    @property
    def pruning_schedule(self) -> Any:
        """Returns the schedule, or None; the first, where kernels have several."""
        return self.rule.pruning_schedule

    @property
    def schedules_by_number(self) -> dict[int, Any]:
        """Returns the schedule of each pruned kernel by the kernel's number."""
        numbers = range(len(self.masks)) if self.kernels is None else self.kernels
        return {n: rule.pruning_schedule for n, rule in zip(numbers, self.rule_of_each, strict=True)}

    def reschedule(self, change: Callable[[Any], Any]) -> None:
        """Replaces each schedule by what `change` returns for it."""
        self.rules = [replace(rule, pruning_schedule=change(rule.pruning_schedule)) for rule in self.rules]

    @property
    def updater(self) -> Any:
        """Returns the `Pruner` of the training under way, or None."""
        return None if self._updater is None else self._updater()

    @updater.setter
    def updater(self, pruner: Any) -> None:
        self._updater = None if pruner is None else weakref.ref(pruner)

    @property
    def in_fit(self) -> bool:
        """Whether a `fit` is under way, in which the model's variables may lag behind."""
        return self.updater is not None and self.updater.fits

    @property
    def steps_taken(self) -> int:
        """Returns the number of batches that the layer was trained on so far."""
        stored = int(ops.convert_to_numpy(self.pruning_step))
        return self.counted[1] if self.counted is not None and self.counted[0] == stored else stored

    def store_step(self, step: int) -> int:
        """Writes the number of batches to `pruning_step`, which stands still at `LAST_STEP`.

        Returns:
            The number written.
        """
        stored = min(step, LAST_STEP)
        self.pruning_step.assign(stored)
        self.counted = None
        return stored

    @property
    def pruned(self) -> list[PrunedKernel]:
        """Returns the inner layer's prunable kernels with their masks, in the order of `masks`."""
        return [PrunedKernel(*pair) for pair in zip(self._kernels, self.masks, strict=True)]

    @property
    def _kernels(self) -> list[kinds.Kernel]:
        found = kinds.prunable(self.layer)
        if self._has_masks and len(found) != self._count:
            raise ValueError(
                f"Layer {self.layer.name!r} has other kernels than when it was wrapped, as after "
                "`enable_lora`: strip the model first, then enable LoRA. "
                f"Received: {len(found)} kernels, not {self._count}"
            )
        return found if self.kernels is None else [found[number] for number in self.kernels]

    @property
    def _rounded(self) -> list[kinds.Kernel]:
        return list(rounded_kernels(self.layer)) if self.in_8_bits else []

    @property
    def learns(self) -> bool:
        """Returns whether a mask is still learned."""
        return any(learned is not None and learned.is_open() for learned in self.learned)

    @property
    def learned_variables(self) -> list[keras.Variable]:
        """Returns the variables by which the masks are learned."""
        return [variable for learned in self.learned if learned is not None for variable in learned.variables]

    @property
    def prunable_variables(self) -> list[keras.Variable]:
        """Returns the inner layer's prunable variables, in the order of `masks`."""
        return [kernel.variable for kernel in self._kernels]

    @property
    def prunable_weights(self) -> list[keras.Variable]:
        """Returns what the inner layer's `get_prunable_weights` does; empty before it is built."""
        return list(self.layer.get_prunable_weights()) if self._has_masks else []

    @property
    def pruning_vars(self) -> list[tuple[keras.Variable, keras.Variable, Any]]:
        """Returns (weight, mask, threshold) for each prunable variable, as tfmot's wrapper does.

        The threshold is a tensor of no axes: the smallest magnitude among the weights that stay. The mask is
        boolean.
        """
        return [
            (kernel.variable, mask, ops.convert_to_tensor(threshold(kernel.variable, mask)))
            for kernel, mask in self.pruned
        ]

    @property
    def block_size(self) -> tuple[int, int]:
        """Returns the size of the blocks that are removed together; (1, 1) for single weights."""
        pattern = self.rule.pattern
        return pattern.block_size if isinstance(pattern, Blocks) else (1, 1)

    @property
    def block_pooling_type(self) -> str:
        """Returns how the score of a block is made: "AVG" or "MAX"."""
        pattern = self.rule.pattern
        return pattern.block_pooling_type if isinstance(pattern, Blocks) else "AVG"

    @property
    def sparsity_m_by_n(self) -> tuple[int, int] | None:
        """Returns (m, n) where m of every n weights are removed, else None."""
        pattern = self.rule.pattern
        return (pattern.m, pattern.n) if isinstance(pattern, MOfN) else None

    @property
    def variables(self) -> list[keras.Variable]:
        """Returns the inner layer's variables, then the wrapper's: the count of steps and the masks."""
        return _first(self.layer.variables, super().variables)

    @property
    def weights(self) -> list[keras.Variable]:
        """Returns the inner layer's weights, then the wrapper's: the count of steps and the masks."""
        return _first(self.layer.weights, super().weights)

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        """Returns the wrapper's weights, then the inner layer's that are not trained."""
        # Files in Keras's old `.h5` format hold weights in this order, without names.
        return [weight for weight in super().weights if not (self.trainable and weight.trainable)]

    def get_weights(self) -> list[Any]:
        """Returns the values of the inner layer's weights, as tfmot's wrapper does."""
        return self.layer.get_weights()

    def set_weights(self, weights: list[Any]) -> None:
        """Sets the values of the inner layer's weights; the masks stay."""
        self.layer.set_weights(weights)

    def pattern_of(self, kernel: kinds.Kernel) -> Pattern:
        """Returns the groups in which the weights of a kernel are removed.

        Raises:
            ValueError: If the kernel has no such groups; the message names the layer and the variable.
        """
        return self.rule.pattern_of(kernel, self.describe(kernel.variable))

    def describe(self, variable: keras.Variable) -> str:
        """Returns the name of a prunable variable for messages."""
        return description(self.layer, kinds.paths(self.layer)[id(variable)])

    def build(self, input_shape: Any = None) -> None:
        """Builds the inner layer, if it is not built, and the masks: all True."""
        if not self.layer.built:
            super().build(input_shape)
        if self._has_masks:
            return
        count = self._count = len(kinds.prunable(self.layer))
        if self.kernels and max(self.kernels) >= count:
            raise ValueError(
                f"`kernels` must be numbers below {count}, the number of kernels of layer "
                f"{self.layer.name!r}. Received: kernels={list(self.kernels)}"
            )
        if not self.prunable_variables and not kinds.is_known(self.layer):
            raise ValueError(
                "A layer of a class of your own says by `get_prunable_weights` what may be pruned. "
                f"Received: layer {self.layer.name!r} ({type(self.layer).__name__}), which has no such method"
            )
        # Names after the variables' paths: unique in the model, as Orbax wants them.
        paths = [variable.path.replace("/", "_") for variable in self.prunable_variables]
        self.pruning_step = self.add_weight(
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            name=f"{(paths or [self.layer.name])[0]}_pruning_step",
        )
        masks = _masks.get()
        masks = {} if masks is None else masks
        for kernel, path in zip(self._kernels, paths, strict=True):
            if id(kernel.variable) not in masks:
                mask = self.add_weight(
                    shape=kernel.variable.shape,
                    dtype="bool",
                    initializer="ones",
                    trainable=False,
                    name=f"{path}_mask",
                )
                method = self.rule.learning
                learned = None if method is None else make_learned(method, kernel, self.add_weight, path)
                masks[id(kernel.variable)] = mask, learned
        self.masks = [masks[id(variable)][0] for variable in self.prunable_variables]
        self.learned = [masks[id(variable)][1] for variable in self.prunable_variables]
        for kernel, _ in self.pruned:
            self.pattern_of(kernel)  # A layer that the pattern does not fit is an error here.
        self._has_masks = True
        self.built = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._has_masks:
            # Keras builds a wrapper from the shape of its first input; the inner layer may need more.
            if not is_built(self.layer):
                inputs, options = keras.tree.map_structure(_symbolic, (args, kwargs))
                self.layer(*inputs, **options)
            self.build()
        return super().__call__(*args, **kwargs)

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the inner layer on the masked weights."""
        if training and self.masked and not self.measured:
            self.check_watched()
            if self.counts_calls and asked_to_train():
                self.pruning_step.assign(self.pruning_step + 1)
        mask_of = {}
        if self.masked:
            both = zip(self.prunable_variables, self.masks, self.learned, strict=True)
            mask_of = {id(variable): (mask, learned) for variable, mask, learned in both}
        rounded = {id(kernel.variable): kernel for kernel in self._rounded}
        state = []
        # Every variable is mapped, because this scope hides the one around it (JAX trains inside one).
        for variable in self.layer.variables:
            value = variable.value
            if id(variable) in mask_of:
                mask, learned = mask_of[id(variable)]
                value = _masked(value, mask) if learned is None else _masked(learned.masked(value), mask)
            if id(variable) in rounded:
                value = to_8_bits(rounded[id(variable)], value)
            state.append((variable, value))
        with _RecordingScope(state_mapping=state, collect_losses=True) as scope:
            outputs = self.layer(*args, **kwargs)
        # Losses now belong to the wrapper: on JAX Keras counts one for every layer that knows of it.
        forget_losses(self.layer)
        for loss in scope.losses:
            self.add_loss(loss)
        for variable in scope.written:
            variable.assign(scope.get_current_value(variable))
        return outputs

    def check_watched(self) -> None:
        """Checks that a `Pruner` follows the schedule, if there is one, in the training under way.

        Raises:
            RuntimeError: If none does.
        """
        if (
            self.pruning_schedule is None
            or not self.masks
            or (self.updater is not None and self.updater.watches)
            or not asked_to_train()
        ):
            return
        raise RuntimeError(
            f"Layer {self.name!r} is trained without a pruning callback, so that its schedule "
            f"{self.pruning_schedule!r} would never act. Add "
            "`tfprune.sparsity.UpdatePruningStep()` to the callbacks of `fit`, or make a "
            "`tfprune.sparsity.Pruner` before `train_on_batch` and custom loops."
        )

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the spec of the inner layer's output."""
        kwargs.pop("training", None)
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the shape of the inner layer's output."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Returns the mask of time steps that the inner layer computes."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_build_config(self) -> dict[str, Any]:
        """Returns the shapes that rebuild the inner layer, whatever the number of its inputs."""
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Rebuilds the inner layer, then the masks."""
        if not self.layer.built and config["layer"]:
            self.layer.build_from_config(config["layer"])
        # A layer that builds its inner layers in `call` alone has to wait for a call.
        if is_built(self.layer):
            self.build()

    def save_own_variables(self, store: Any) -> None:
        """Saves the masks and the step. During a `fit`, brings both and the zeros up to date first."""
        if self.updater is not None:
            self.updater.store_step_in(self)
        else:
            self.store_step(self.steps_taken)
        # Optimizers whose update of one weight depends on others' (Muon) move weights without gradient.
        self.zero_removed_weights()
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Loads the masks and the step.

        Raises:
            ValueError: If there are none, as in the weights of a model that was not wrapped, or if the step
                is negative.
        """
        self.counted = None
        if not len(store.keys()):
            raise ValueError(
                f"There are no masks for layer {self.layer.name!r}: the weights are those of a model that "
                "was not wrapped. Load before wrapping, into the model that `prune_low_magnitude` takes: it "
                "shares its weights with the wrapped one."
            )
        super().load_own_variables(store)
        if self.steps_taken < 0:
            raise ValueError(
                f"The number of steps of layer {self.layer.name!r} must be at least 0. "
                f"Received: {self.steps_taken}"
            )

    def zeros(self) -> tuple[int, int]:
        """Counts the weights that are zero, in kernels that are not zero everywhere.

        Returns:
            Their number, and that of all weights of these kernels.
        """
        found = [mask for _, mask in self._nonzero()]
        return sum(mask.size - np.count_nonzero(mask) for mask in found), sum(mask.size for mask in found)

    def keep_zeros(self) -> None:
        """Removes the weights that `zeros` counts."""
        for mask, nonzero in self._nonzero():
            mask.assign(nonzero)

    def _nonzero(self) -> Iterator[tuple[keras.Variable, np.ndarray]]:
        for kernel, mask in self.pruned:
            nonzero = np.asarray(ops.convert_to_numpy(kernel.variable)) != 0
            if nonzero.any():
                yield mask, nonzero

    def zero_removed_weights(self) -> None:
        """Writes exact zeros to the removed weights."""
        for kernel, mask in self.pruned:
            kernel.variable.assign(_masked(kernel.variable.value, mask))

    def round_weights(self) -> None:
        """Writes the weights that the layer computes with, where they are rounded to 8 bits."""
        for kernel in self._rounded:
            kernel.variable.assign(to_8_bits(kernel, kernel.variable.value))

    def get_config(self) -> dict[str, Any]:
        return {"layer": keras.saving.serialize_keras_object(self.layer), **self.own_config()}

    def own_config(self) -> dict[str, Any]:
        """Returns the configuration without that of the inner layer."""
        arguments = {
            name: keras.saving.serialize_keras_object(v) for name, v in self.rule.arguments().items()
        }
        schedule = serialize_schedule(self.pruning_schedule)
        config = keras.layers.Layer.get_config(self)
        kernels = None if self.kernels is None else list(self.kernels)
        own = {"kernels": kernels, "seed": self.seed, "in_8_bits": self.in_8_bits}
        if len(self.rules) > 1:
            own["schedules"] = [serialize_schedule(rule.pruning_schedule) for rule in self.rules]
        return {**config, **arguments, "pruning_schedule": schedule, **own}

    def around(self, layer: keras.layers.Layer) -> "PruneLowMagnitude":
        """Returns a wrapper with the same arguments around another layer; its masks and its step are new.

        It does not learn its masks: where this one does, that has to be at its end.
        """
        schedules = None
        if len(self.rules) > 1:
            schedules = [rule.pruning_schedule for rule in self.rules]
        config = keras.layers.Layer.get_config(self)
        del config["trainable"]  # The inner layer has its own.
        own = {"kernels": self.kernels, "schedules": schedules, "seed": self.seed}
        own["in_8_bits"] = self.in_8_bits
        return type(self)(layer, **{**self.rule.arguments(), "learning": None}, **own, **config)

    def trace_channels(self, call: Any) -> Any:
        """Returns the channels of the inner layer's outputs, as `channels.trace.TracesChannels` says."""
        outputs = call.inside(self.layer)
        for kernel, mask in self.pruned:
            call.mask(kernel.variable, mask)
        return outputs

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PruneLowMagnitude":
        config = keras.saving.deserialize_keras_object(dict(config), custom_objects=custom_objects)
        config.pop("trainable", None)  # The inner layer has its own.
        return cls(config.pop("layer"), **config)


class _RecordingScope(keras.StatelessScope):
    """A `StatelessScope` that lists the variables that were written in it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.written: list[keras.Variable] = []

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        if not any(update[0] is variable for variable in self.written):
            self.written.append(update[0])
        super().add_update(update)


@contextlib.contextmanager
def measured(wrappers: Sequence[PruneLowMagnitude]) -> Iterator[None]:
    """Lets wrapped layers run in training mode without a `Pruner`, because no weight moves in the end."""
    try:
        for wrapper in wrappers:
            wrapper.measured = True
        yield
    finally:
        for wrapper in wrappers:
            wrapper.measured = False


def description(layer: keras.layers.Layer, paths: tuple[str, ...]) -> str:
    """Returns the name of a prunable variable of a layer for messages; `paths` as `kinds.paths` has them."""
    return f"layer {layer.name!r}, variable {paths[-1].removeprefix(f'{layer.name}/')!r}"


def _numbers(kernels: Any) -> tuple[int, ...]:
    try:
        numbers = tuple(map(operator.index, kernels))
    except TypeError:
        numbers = (-1,)
    if any(number < 0 for number in numbers):
        raise ValueError(
            f"`kernels` must be a list of whole numbers, at least 0, or None. Received: kernels={kernels!r}"
        )
    return numbers


def threshold(variable: keras.Variable, mask: keras.Variable) -> np.float32:
    """Returns the smallest magnitude among the weights that a mask keeps."""
    magnitudes = np.abs(np.asarray(ops.convert_to_numpy(variable), np.float32))
    return np.min(magnitudes[np.asarray(ops.convert_to_numpy(mask))], initial=np.float32(np.inf))


def _first(first: list[keras.Variable], everything: list[keras.Variable]) -> list[keras.Variable]:
    """Returns all variables, those of `first` before the others."""
    known = {id(variable) for variable in first}
    return [*first, *(variable for variable in everything if id(variable) not in known)]


def _masked(value: Any, mask: keras.Variable) -> Any:
    return ops.where(mask.value, value, ops.zeros_like(value))


def _symbolic(value: Any) -> Any:
    """Returns a placeholder for a tensor or an array, anything else as it is."""
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    return keras.KerasTensor(value.shape, keras.backend.standardize_dtype(value.dtype)) if is_array else value
