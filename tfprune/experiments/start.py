"""The network that an experiment starts from: built anew, from ImageNet weights, or from another run."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfprune import sparsity
from tfprune.data.splits import ArraySpec, Dataset, map_arrays
from tfprune.errors import FileError, UserError, blame_flag
from tfprune.experiments.channels import size_of
from tfprune.experiments.first_call import outputs_for
from tfprune.experiments.networks import load_model
from tfprune.experiments.pruning import selecting_flags, wrap
from tfprune.experiments.transfer import MisfitError, copy, on_data_of, paired, weighted_layers
from tfprune.models.catalog import Wanted, source_of
from tfprune.network.ending import head_layers, replace_head
from tfprune.network.graph import all_layers, is_built
from tfprune.network.kinds import prunable
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RoundFolder, find_round
from tfprune.runs.result import NetworkSize, RoundResult
from tfprune.settings import without_effect
from tfprune.sparsity.apply import masks_by_variable
from tfprune.sparsity.prune import are_sparse


@dataclass(frozen=True)
class Start:
    """A finished round of another run, from which an experiment starts.

    Attributes:
        config: The other run's.
        folder: The round.
        result: The round's figures.
    """

    config: ExperimentConfig
    folder: RoundFolder
    result: RoundResult


def find_start(config: ExperimentConfig) -> Start | None:
    """Returns the round that `--init_from` names; None if it names none.

    Raises:
        UserError: If there is no such finished round, or its result is damaged.
    """
    if not config.init_from:
        return None
    run, folder = find_round(config.output_dir, config.init_from, "init_from")
    return Start(run.read_config(), folder, folder.read_result())


def build_network(config: ExperimentConfig, dataset: Dataset) -> keras.Model:
    """Returns the plain network, before `--weights`; with the dataset's statistics in a ResNet's first layer.

    Raises:
        UserError: On a network that cannot be built for the data, with the flags.
    """
    inputs = dataset.spec.inputs
    wanted = Wanted(
        classes=len(dataset.class_names) if dataset.class_names else None,
        input_shape=inputs.shape if isinstance(inputs, ArraySpec) else None,
        mean=dataset.mean,
        std=dataset.std,
        seed=config.seed,
        width=config.width,
        stem=config.stem,
        new_head=config.new_head,
    )
    try:
        return source_of(config.model).build(wanted)
    except FileError as error:
        raise UserError(f"{config.flag('model')}: {error}") from error
    except ValueError as error:
        sizes = ("image_size",) if dataset.is_images else ()
        flags = _model_flags(config, "model", "width", "stem", *sizes)
        raise UserError(f"{flags}: {error}") from error


def build_start(config: ExperimentConfig, dataset: Dataset, start: Start | None = None) -> keras.Model:
    """Returns the network of round 0, wrapped for pruning where the experiment needs it.

    With `--init_from`, weights and masks are the other run's, and so is the network itself where channels
    were cut from it; the head is a fresh one if that run was on another dataset. Else the weights are those
    of `--weights`, and a network that was pruned already keeps its masks.

    Args:
        config: The experiment.
        dataset: Its data.
        start: The round that `--init_from` names; None without one.

    Raises:
        UserError: If weights or masks do not fit; the message names the flag and the layer.
    """
    network = build_network(config, dataset)
    if not is_built(network):
        _build(config, network, dataset)
    if start is None:
        if config.weights != "none":
            with blame_flag("weights", config.weights):
                source_of(config.model).load_weights(network, config.weights)
        return _wrapped(config, network, _pruned_before(network), config.flag("model"))

    with blame_flag("init_from", config.init_from):
        source = load_model(start.folder)
    if start.result.is_cut:
        network = _cut_before(config, start, source, network)
        return _wrapped(config, network, _pruned_before(network), config.flag("init_from"))
    head = head_layers(network) if start.config.dataset != config.dataset else []
    try:
        pairs = paired(source, network, but=[part for layer in head for part in all_layers(layer)])
    except MisfitError as error:
        raise UserError(
            f"{config.flag('init_from')}: a checkpoint of another architecture: {error}, unlike "
            f"{_model_flags(config, 'model', 'width', 'stem')}"
        ) from error
    masks = masks_by_variable(source)
    names = {id(variable): part.name for part in weighted_layers(network) for variable in part.variables}
    masked = {id(new): names[id(new)] for old, new in pairs if id(old) in masks}
    network = _wrapped(config, network, masked, config.flag("init_from"))
    copy(pairs, masks, into=masks_by_variable(network))
    return network


def whole_size(
    config: ExperimentConfig, dataset: Dataset, start: Start | None, size: NetworkSize
) -> NetworkSize:
    """Returns the size of an experiment's network before any channel was cut.

    Args:
        config: The experiment.
        dataset: Its data.
        start: The round that `--init_from` names; None without one.
        size: That of the network that it starts from.
    """
    cut_before = start is not None and start.result.is_cut
    return size_of(build_network(config, dataset)) if cut_before else size


def _cut_before(
    config: ExperimentConfig, start: Start, source: keras.Model, network: keras.Model
) -> keras.Model:
    """Returns a network whose channels were cut, for the data of another experiment.

    Args:
        config: The experiment.
        start: The round that the network is of.
        source: The network; its layers become those of the one returned.
        network: The experiment's network as it would be whole, with the data's inputs and statistics.

    Raises:
        UserError: If it was cut from another network, or does not fit the data.
    """
    for name in ("model", "width", "stem"):
        if getattr(config, name) != getattr(start.config, name):
            flag = start.config.flag(name)
            config.refuse("init_from", f"was cut from another network: {flag}, unlike {config.flag(name)}")
    try:
        if start.config.dataset != config.dataset:
            source = replace_head(source, network.outputs[0].shape[-1])
        return on_data_of(source, network)
    except ValueError as error:
        config.refuse("init_from", f"its network does not fit {config.flag('dataset')}: {error}")


def _build(config: ExperimentConfig, network: keras.Model, dataset: Dataset) -> None:
    """Makes the weights of a network that makes them when it sees its first example.

    Raises:
        UserError: If it cannot take one.
    """
    example = map_arrays(
        lambda spec: np.zeros((1, *(size or 1 for size in spec.shape)), spec.dtype), dataset.spec.inputs
    )
    outputs_for(config, network, example)


def _pruned_before(network: keras.Model) -> dict[int, str]:
    """Returns the weights of a network that are pruned: those with masks, or where many are zero.

    Returns:
        The id of the variable -> its layer's name.
    """
    wrappers = sparsity.pruned_layers(network)
    if wrappers:
        return {
            id(kernel.variable): wrapper.layer.name for wrapper in wrappers for kernel, _ in wrapper.pruned
        }
    kernels = prunable(network)
    values = [ops.convert_to_numpy(kernel.variable) for kernel in kernels]
    counts = [(int(np.sum(each == 0)), each.size) for each in values]
    # A few filters of a dense network may be zero, too, as in EfficientNet's published weights.
    if not are_sparse(counts):
        return {}
    return {
        id(kernel.variable): kernel.layer.name
        for kernel, count in zip(kernels, counts, strict=True)
        if are_sparse([count])
    }


def _wrapped(
    config: ExperimentConfig, network: keras.Model, masked: dict[int, str], flag: str
) -> keras.Model:
    """Wraps what the experiment prunes; where it prunes no weights what is pruned already, whose masks stay.

    Args:
        config: The experiment.
        network: The network, as it comes.
        masked: The weights that are pruned already, id -> name of the layer.
        flag: Where they come from.

    Raises:
        UserError: If one of these would not be pruned.
    """
    if config.regime == "dense" or config.prune == "channels":
        if not masked:
            return network
        return sparsity.prune_low_magnitude(
            network,
            None,
            layers=lambda layer: any(id(variable) in masked for variable in layer.variables),
            keep_zeros=True,
        )
    before = {id(wrapper) for wrapper in sparsity.pruned_layers(network)}
    network = wrap(config, network, keep_zeros=True if masked else None)
    wrapped = {
        id(kernel.variable)
        for wrapper in sparsity.pruned_layers(network)
        if id(wrapper) not in before
        for kernel, _ in wrapper.pruned
    }
    lost = sorted({name for variable, name in masked.items() if variable not in wrapped})
    if lost:
        raise UserError(
            f"{selecting_flags(config)}: must select every layer that {flag} has pruned; "
            f"misses {', '.join(lost)}"
        )
    return network


def _model_flags(config: ExperimentConfig, *names: str) -> str:
    """Returns those of some flags that matter for the model, as they are written."""
    idle = without_effect(config, names)
    return " ".join(config.flag(name) for name in names if name not in idle)
