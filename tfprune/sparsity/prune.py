"""`prune_low_magnitude`, `prune_to` and `strip_pruning`: models in, models out."""

import functools
import numbers
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from tfprune.arguments import true_or_false
from tfprune.network import kinds
from tfprune.network.graph import walk
from tfprune.network.rebuild import rebuild
from tfprune.network.wrapping import unwrapped
from tfprune.sparsity.apply import (
    Part,
    apply_masks,
    hand_on_masks,
    parts_of,
    pruned_layers,
    set_sparsity,
    settle_learned,
)
from tfprune.sparsity.choice import Choice, Chosen, Selection, check_names, first_match, is_whole, names_in
from tfprune.sparsity.gradients import GradientData, GradientMeter, first_batches
from tfprune.sparsity.masks import check_scope
from tfprune.sparsity.notices import Notices
from tfprune.sparsity.own_class import take_up_class
from tfprune.sparsity.patterns import Pattern, from_arguments
from tfprune.sparsity.rule import DEFAULT_SCHEDULE, Rule
from tfprune.sparsity.schedules import check_sparsity
from tfprune.sparsity.scores import Score
from tfprune.sparsity.targets import shortfalls, warn_of_erased
from tfprune.sparsity.wrapper import PruneLowMagnitude, one_mask_a_variable


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: Any = DEFAULT_SCHEDULE,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: Any = None,
    sparsity_m_by_n: tuple[int, int] | None = None,
    *,
    layers: Selection = None,
    spare: Selection = None,
    spare_ends: bool = False,
    scope: str = "layer",
    score: str | Score = "magnitude",
    granularity: str = "weight",
    regrowth: Any = None,
    learning: Any = None,
    pattern: Pattern | None = None,
    min_density: float = 0.0,
    keep_zeros: bool | None = None,
    prune_frozen: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Wraps a model's prunable layers, a layer, or a list of layers for magnitude pruning.

    The call is that of `tfmot.sparsity.keras.prune_low_magnitude`. The result shares its variables with
    `to_prune`: pruning the one changes the other. A model is compiled if `to_prune` was, with the same
    settings and a fresh optimizer. A model of a class of its own is wrapped in place, and returned: its
    class, methods and attributes are as they were, and so is its optimizer, but for `learning`, which trains
    more variables and has a fresh one.

    ```python
    model = prune_low_magnitude(model, PolynomialDecay(0.0, 0.9, begin_step=0, end_step=2000))
    model.compile(...)
    model.fit(..., callbacks=[UpdatePruningStep()])
    model = strip_pruning(model)
    ```

    Args:
        to_prune: A model (nested models are entered), a layer, or a list of layers. Layers that are wrapped
            already keep their masks and take the new arguments. A model or a list in which nothing can be
            pruned stays as it is, with a warning.
        pruning_schedule: A `PruningSchedule`, or None: the masks change in `prune_to` alone. For a schedule
            of each layer's own, a mapping from regular expressions to schedules or None: the first that
            matches the whole name of a layer, or the path of a layer or a kernel inside it, counts, and what
            none matches is left as it is.
            Default: `ConstantSparsity(0.5, begin_step=0, frequency=100)`.
        block_size: (height, width) of the blocks that are removed together: weights along the last axis but
            one, and along the last. In a convolution's kernel these are the channels, at each position.
        block_pooling_type: The score of a block: the mean ("AVG") or the largest ("MAX") of its weights'.
        pruning_policy: A `PruningPolicy`, which decides which layers are wrapped and refuses unfit models.
        sparsity_m_by_n: (m, n): m zeros in every n consecutive weights along the input channels. At the
            schedule's sparsity s a group has `round(s * n)` zeros, at most m; the schedule ends at m / n.
        layers: The layers to wrap: a layer class or a tuple of classes, a regular expression that the whole
            layer name must match, or a function from a layer to bool. None: every layer that has prunable
            variables. In a model or a list a layer that has none is left as it is. Classes, and names as
            paths such as `block_1/attention/query` or `lstm/lstm_cell/recurrent_kernel`, also select inside
            layers that consist of layers.
        spare: The layers, and layers inside layers, to leave as they are, in the forms of `layers`. A regular
            expression must match something.
        spare_ends: True: the model's first and last layer with prunable variables are left as they are.
        scope: The weights among which the sparsity is shared out. "layer": each tensor reaches it. "global":
            all tensors together reach it, by one ranking. "erk": all tensors together reach it, small ones
            with less (Erdos-Renyi-Kernel, arXiv:1911.11134). Layers are together if all their arguments
            are equal.
        score: The rank of a weight, the lowest goes first: "magnitude", "lamp", "gathered", "random",
            "taylor", "fisher", or a function (`scores.py`).
        granularity: "weight", or "channel": whole output channels, ranked by their L2 norm.
        regrowth: None, or a method that moves a fixed number of weights about: `SET()` or `RigL()`.
        learning: None, or a method that learns the masks: `DST()` or `CS()`. All weights stay until the
            schedule's last step, where the masks come to be, exact. Then as ever. A wrapper that is there
            already begins to learn anew, on the weights that its masks keep; masks that it still learns are
            fixed as they stand first.
        pattern: A `Pattern` (`patterns.py`), such as `Blocks((4, 4))`, `MOfN(2, 4)` or one of your own, in
            the place of `block_size`, `block_pooling_type`, `sparsity_m_by_n` and `granularity`.
        min_density: With `scope="global"`: the fraction of each tensor's groups that stays whatever their
            scores, in [0, 1), lest a layer of small weights be all but erased.
        keep_zeros: True: weights of built layers that are zero are removed from the start, as in a network
            that was pruned and stripped. False: all weights are there. Default: True where over a
            hundredth of the weights are zero, with a warning. Tensors of zeros alone, and layers that are
            wrapped already, stay as they are.
        prune_frozen: False: layers, and kernels inside layers, that are not trained (`trainable=False`) are
            left out. Default: True, with a warning where there are such, because no training makes up for
            what they lose.
        **kwargs: For the `PruneLowMagnitude` of a single layer, such as its `name`. For a model or a list
            `seed` alone; the arguments of a Keras layer are ignored, as tfmot does, with a warning.

    Warns:
        UserWarning: Of zeros and frozen layers, as above, and of selected layers that stay dense because
            their class is not known, or because they have LoRA weights.

    Returns:
        A model, a `PruneLowMagnitude`, or a list of layers.

    Raises:
        ValueError: If `to_prune` cannot be pruned, `layers` selects no prunable layer, or an argument is out
            of range.
    """
    choose = Choice(layers, spare, pruning_schedule)
    pattern = from_arguments(block_size, block_pooling_type, sparsity_m_by_n, granularity, pattern)

    def rule_of(schedule: Any) -> Rule:
        return Rule(schedule, pattern, scope, score, regrowth, min_density, learning)

    for schedule in (
        pruning_schedule.values() if isinstance(pruning_schedule, Mapping) else [pruning_schedule]
    ):
        rule_of(schedule)  # Bad arguments are an error before anything is changed.
    spare_ends = true_or_false("spare_ends", spare_ends)
    for name, choice in (("keep_zeros", keep_zeros), ("prune_frozen", prune_frozen)):
        if choice is not None:
            true_or_false(name, choice, "True, False or None")
    if pruning_policy is not None and not hasattr(pruning_policy, "allow_pruning"):
        raise ValueError(
            f"`pruning_policy` must be a `PruningPolicy` or None. Received: pruning_policy={pruning_policy!r}"
        )
    kwargs = _arguments_of_wrappers(to_prune, kwargs)
    if pruning_policy is not None and isinstance(to_prune, keras.Model):
        pruning_policy.ensure_model_supports_pruning(to_prune)
    ends: list[keras.layers.Layer] = []
    if spare_ends and isinstance(to_prune, keras.layers.Layer):
        found = _prunable_layers(to_prune)
        ends = [found[0], found[-1]] if found else []
    matched: list[str] = []
    models = to_prune if isinstance(to_prune, (list, tuple)) else [to_prune]
    trained = {
        id(variable)
        for model in models
        if isinstance(model, keras.layers.Layer)
        for variable in model.trainable_variables
    }
    notices = Notices()
    fresh: list[PruneLowMagnitude] = []
    rewrapped: list[tuple[PruneLowMagnitude, PruneLowMagnitude]] = []
    # A clone function may wrap every layer: one that has nothing to prune gets a wrapper without masks.
    alone = unwrapped(to_prune)
    if not isinstance(alone, keras.layers.Layer) or not kinds.is_known(alone):
        alone = None

    def may_be_wrapped(layer: keras.layers.Layer) -> bool:
        return not any(layer is end for end in ends) and (
            pruning_policy is None or pruning_policy.allow_pruning(layer)
        )

    @functools.cache  # A layer met twice, in a list or in two nested models, gets one wrapper and one mask.
    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        inner = unwrapped(layer)
        chosen = choose(inner) if may_be_wrapped(inner) else []
        if not chosen:
            return layer
        notices.dense.update(kinds.unknown_kernels(inner))
        notices.lora += kinds.lora_layers(inner)
        if not (is_prunable(inner) or inner is alone):
            return layer
        frozen = [each for each in chosen if _is_frozen(each.place, trained)]
        if frozen:
            notices.frozen += [inner.name] if len(frozen) == len(chosen) else [_path(each) for each in frozen]
            if prune_frozen is False:
                chosen = [each for each in chosen if each not in frozen]
                if not chosen:
                    return layer
        matched.append(inner.name)
        inside = pruned_layers(inner)
        if inside:  # Such as `TimeDistributed(prune_low_magnitude(...))`: its masks are there already.
            if learning is not None or any(wrapper.learned_variables for wrapper in inside):
                raise ValueError(
                    f"`learning` needs a wrapper around layer {inner.name!r}, in which layers are wrapped "
                    "already: wrap it instead, as in `prune_low_magnitude(TimeDistributed(...))`. "
                    f"Received: learning={learning!r}"
                )
            for wrapper in inside:
                wrapper.rules = [rule_of(_schedule_inside(wrapper, chosen))]
            return layer
        again = isinstance(layer, PruneLowMagnitude)
        own = {"seed": layer.seed, "in_8_bits": layer.in_8_bits, **kwargs} if again else kwargs
        numbers, schedules = None, [chosen[0].schedule]
        if not is_whole(inner, chosen):
            by_number = {each.number: each.schedule for each in chosen}
            if again:  # What has a mask keeps it, and its schedule.
                by_number = {**layer.schedules_by_number, **by_number}
            numbers = sorted(by_number)
            schedules = [by_number[number] for number in numbers]
        wrapper = PruneLowMagnitude(
            inner,
            **rule_of(schedules[0]).arguments(),
            kernels=numbers,
            schedules=schedules if numbers is not None else None,
            **own,
        )
        if again and layer.built:
            rewrapped.append((layer, wrapper))
        elif keep_zeros is not False and wrapper.built:
            fresh.append(wrapper)
        return wrapper

    if isinstance(spare, str) and all(isinstance(model, keras.layers.Layer) for model in models):
        found = [unwrapped(layer) for model in models for layer in layers_of(model)]
        names = [name for layer in found for name in names_in(layer)]
        check_names("spare", [spare], names, "a layer or a kernel")
    if isinstance(pruning_schedule, Mapping):
        found = [layer for model in models for layer in _prunable_layers(model)]
        names = [name for layer in found for name in names_in(layer)]
        check_names("pruning_schedule", pruning_schedule, names, "a layer or a kernel that can be pruned")
    with one_mask_a_variable():
        if isinstance(to_prune, (list, tuple)):
            result = [wrap(layer) for layer in to_prune]
        elif isinstance(to_prune, keras.Model):
            for layer in layers_of(to_prune):
                wrap(layer)  # What fails, fails before the model is changed.
            result = rebuild(to_prune, wrap, take_up_class)
            _keep_output_names(to_prune, result)
        elif isinstance(to_prune, keras.layers.Layer):
            result = wrap(to_prune)
        else:
            raise ValueError(
                "`to_prune` must be a Keras 3 model, a layer or a list of layers. "
                f"Received: to_prune={to_prune!r} of type {type(to_prune)}"
            )
    hand_on_masks(rewrapped)
    anything = layers is spare is None and not spare_ends and not notices.frozen
    if not matched and pruning_policy is not None:
        warnings.warn(
            f"Nothing is pruned: `pruning_policy` {pruning_policy!r} allows no layer that can be.",
            stacklevel=2,
        )
    elif not matched and anything and not _is_single_layer(to_prune):
        warnings.warn(
            f"Nothing is pruned: there is no kernel or embedding table in {to_prune!r}.", stacklevel=2
        )
    elif not matched:
        raise ValueError(
            "Nothing to prune: no layer selected has a kernel or an embedding table"
            + (f", but frozen ones: {', '.join(notices.frozen)}" if notices.frozen else "")
            + f". Received: layers={layers!r}, pruning_schedule={pruning_schedule!r}, to_prune={to_prune!r}"
        )
    counts = [wrapper.zeros() for wrapper in fresh]
    if keep_zeros or are_sparse(counts):
        for wrapper, zeros in zip(fresh, counts, strict=True):
            notices.count_zeros(wrapper.layer.name, zeros)
            wrapper.keep_zeros()
    notices.give(tell_zeros=keep_zeros is None, tell_frozen=prune_frozen is None)
    return result


def prune_to(
    model: keras.layers.Layer,
    sparsity: float | Mapping[str, float],
    *,
    scope: str | None = None,
    gradient_data: GradientData = None,
    gradient_batches: int | None = None,
) -> None:
    """Prunes a wrapped model at once to `sparsity`, without training.

    Updates the masks of all `PruneLowMagnitude` layers in place and zeroes the removed weights and, if
    the model is compiled, the optimizer's slots for them. Masks that already remove more are kept. Masks that
    are still learned are fixed: weights are ranked by what was learned.

    Args:
        model: A model or layer that went through `prune_low_magnitude`.
        sparsity: The fraction of the prunable weights to remove, in [0, 1); or a mapping from regular
            expressions to fractions: the first that matches a layer's whole name, or the path of a layer or a
            kernel inside it, counts, and what none matches stays as it is.
        scope: "layer", "global" or "erk". Default: the scope that each layer was wrapped with. Layers of the
            same entry and scope reach it together.
        gradient_data: Batches of the form (x, y), for scores that need gradients; the model must be
            compiled.
        gradient_batches: The number of batches to use, from the start. Default: all.

    Raises:
        ValueError: On a model without wrapped layers, a sparsity outside [0, 1), a mapping that matches
            nothing, missing gradients, or weights that are not finite (the message names the layer).
    """
    if isinstance(sparsity, Mapping):
        sparsity = {name: check_sparsity(f"sparsity[{name!r}]", value) for name, value in sparsity.items()}
        entry_of = first_match("sparsity", {name: (name, value) for name, value in sparsity.items()})
    else:
        if not isinstance(sparsity, numbers.Real):
            raise ValueError(
                "`sparsity` must be a number in [0, 1), or a mapping to such. "
                f"Received: sparsity={sparsity!r}"
            )
        sparsity = check_sparsity("sparsity", sparsity)
        entry_of = lambda *paths: ("", sparsity)  # noqa: E731
    if scope is not None:
        check_scope(scope)
    wrappers = pruned_layers(model)
    if not wrappers:
        raise ValueError(
            "The model has no pruned layers: wrap it with `prune_low_magnitude` first. "
            f"Received: model={model!r}"
        )
    if not all(w.built for w in wrappers):
        raise ValueError(f"The model must be built before it can be pruned. Received: model={model!r}")
    wrappers = [wrapper for wrapper in wrappers if wrapper.masks]
    if not wrappers:
        raise ValueError(f"The model's wrapped layers have nothing to prune. Received: model={model!r}")
    # By scope and entry: entries that happen to have equal sparsities are not ranked together.
    groups: dict[tuple[str, tuple[str, float]], list[Part]] = {}
    parts = parts_of(wrappers)
    for part in parts:
        entry = entry_of(*part.paths)
        if entry is not None:
            part.rule.check_sparsity(entry[1])
            groups.setdefault((scope or part.rule.scope, entry), []).append(part)
    if isinstance(sparsity, Mapping):
        paths = [path for part in parts for path in part.paths]
        check_names("sparsity", sparsity, paths, "a pruned layer")
    gradients = None
    if gradient_data is not None and any(
        part.rule.score_needs_gradients for group in groups.values() for part in group
    ):
        batches = first_batches(gradient_data, 0, gradient_batches)
        gradients = GradientMeter(model, wrappers).measure(batches)
    for (choice, (_, target)), group in groups.items():
        optimizer = getattr(model, "optimizer", None)
        set_sparsity(group, target, choice, optimizer, gradients, model=model, moved=True)
        if choice == "global":
            warn_of_erased(group)


def strip_pruning(model: Any) -> Any:
    """Returns a model without wrappers, its removed weights exactly zero.

    Weights that `quantize_aware` rounds are written as they are rounded.
    The result shares its variables with `model`. A model of a class of its own is changed in place, and
    returned. Masks that are not at the target of their schedule are a warning, and so are wrappers inside
    other layers, which stay. Masks that are still learned are fixed as they stand.

    Args:
        model: A model, a layer or a list of layers, wrapped or not.

    Raises:
        ValueError: On anything else.
    """

    def unwrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, PruneLowMagnitude):
            return layer
        if layer.built:
            apply_masks([layer])
            layer.round_weights()
        return layer.layer

    if isinstance(model, (list, tuple)):
        return [strip_pruning(layer) for layer in model]
    if isinstance(model, keras.layers.Layer):
        settle_learned(layer for layer in pruned_layers(model) if layer.built)
        for short in shortfalls(pruned_layers(model)):
            warnings.warn(f"The stripped model has {short.place}; {short.goal}.", stacklevel=2)
    if isinstance(model, keras.Model):
        stripped = rebuild(model, unwrap, take_up_class)
        if inside := pruned_layers(stripped):
            apply_masks(inside)
            for wrapper in inside:
                wrapper.round_weights()
            names = ", ".join(repr(wrapper.layer.name) for wrapper in inside)
            warnings.warn(
                f"Still wrapped, because they are inside other layers: {names}. Wrap the layer around them, "
                "as in `prune_low_magnitude(TimeDistributed(...))`: its kernels are those inside it.",
                stacklevel=2,
            )
        return stripped
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"`model` must be a Keras 3 model, a layer or a list of layers. Received: {model!r}")
    return unwrap(model)


def prune_scope() -> Any:
    """Returns a scope in which models with `PruneLowMagnitude` can be loaded, as tfmot's does.

    `keras.saving.load_model` finds the wrapper and the schedules without it too: they are registered.
    """
    return keras.saving.custom_object_scope({"PruneLowMagnitude": PruneLowMagnitude})


def _keep_output_names(model: keras.Model, wrapped: keras.Model) -> None:
    """Lets losses and labels keyed by output names work as before, though wrapped layers have new names."""
    names = getattr(model, "output_names", None)
    if names is not None and names != wrapped.output_names:
        wrapped.output_names = list(names)
        if model.compiled:
            wrapped.compile_from_config(model.get_compile_config())


# The arguments of a Keras layer, of Keras 2 too. tfmot hands them to the wrapper of a single layer alone.
_OF_LAYERS = (
    *(
        "activity_regularizer",
        "autocast",
        "batch_input_shape",
        "batch_shape",
        "batch_size",
        "dtype",
        "dynamic",
    ),
    *("input_dim", "input_shape", "name", "trainable", "weights"),
)


def _is_single_layer(to_prune: Any) -> bool:
    return isinstance(to_prune, keras.layers.Layer) and not isinstance(to_prune, keras.Model)


def _arguments_of_wrappers(to_prune: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments that are handed on to the wrappers; warns of those that are not.

    Raises:
        ValueError: On an argument of the wrapper that other arguments stand for.
    """
    for name in ("kernels", "schedules"):
        if name in kwargs:
            raise ValueError(
                f"`{name}` is for `PruneLowMagnitude`: give `layers`, `spare` or a mapping of schedules. "
                f"Received: {name}={kwargs[name]!r}"
            )
    if _is_single_layer(to_prune):
        return kwargs
    if "in_8_bits" in kwargs:
        raise ValueError(
            "`in_8_bits` is for a single layer: give the wrapped model to `quantize_aware`. "
            f"Received: in_8_bits={kwargs['in_8_bits']!r}"
        )
    ignored = {name: value for name, value in kwargs.items() if name in _OF_LAYERS}
    if ignored:
        given = ", ".join(f"{name}={value!r}" for name, value in ignored.items())
        warnings.warn(f"Ignored, because they are for a single layer: {given}", stacklevel=3)
    return {name: value for name, value in kwargs.items() if name not in ignored}


# A random start has a zero by chance in millions of weights, in float16 in thousands.
_SPARSE = 1e-2


def are_sparse(counts: list[tuple[int, int]]) -> bool:
    """Returns whether weights are zero in such a number that somebody made them so.

    Args:
        counts: (weights that are zero, all weights) of each layer.
    """
    return sum(zeros for zeros, _ in counts) > _SPARSE * sum(total for _, total in counts)


def _is_frozen(place: kinds.Placed, trained: set[int]) -> bool:
    """Returns whether no training changes a kernel, or a layer that has none yet."""
    if place.kernel is None:
        return not all(layer.trainable for layer in place.layers)
    return id(place.kernel.variable) not in trained


def _path(chosen: Chosen) -> str:
    """Returns the path of the layer that a chosen kernel belongs to."""
    return "/".join(layer.name for layer in chosen.place.layers)


def _schedule_inside(wrapper: PruneLowMagnitude, chosen: list[Chosen]) -> Any:
    """Returns the schedule that is chosen for the kernels of a wrapper inside a layer."""
    own = {id(variable) for variable in wrapper.prunable_variables} if wrapper.built else set()
    of_wrapper = [each for each in chosen if each.place.kernel and id(each.place.kernel.variable) in own]
    return (of_wrapper or chosen)[0].schedule


def is_prunable(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer has prunable variables, or will have when it is built."""
    if layer.built:
        return bool(kinds.prunable_variables(layer))
    return kinds.may_be_prunable(layer)


def _prunable_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a model's layers with prunable variables, in order, wrapped ones by what they wrap.

    Raises:
        ValueError: If `model` is no layer.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"A Keras 3 model or layer is needed. Received: {model!r} of type {type(model)}")
    found = []
    for layer in layers_of(model):
        if isinstance(layer, PruneLowMagnitude):
            found.append(layer.layer)
        elif is_prunable(layer):
            found.append(layer)
    return found


def layers_of(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers of a model that are no models, those of nested models too, or the layer itself."""
    layers = walk(model, lambda layer: isinstance(layer, keras.Model))
    return [layer for layer in layers if not isinstance(layer, keras.Model)]
