"""The network that an experiment starts from: built anew, from ImageNet weights, or from another run."""

from dataclasses import dataclass

import keras
from keras import ops

from tfprune import sparsity
from tfprune.data.splits import Dataset
from tfprune.errors import UserError, blame_flag
from tfprune.experiments.networks import load_model
from tfprune.experiments.pruning import selecting_flags, wrap
from tfprune.models.resnet import build_resnet
from tfprune.models.weights import load_backbone
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RoundFolder, find_round
from tfprune.runs.result import RoundResult


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
    """Returns the plain network with random weights, the dataset's statistics in its first layer.

    Raises:
        UserError: On a model that cannot be built, with its flags.
    """
    try:
        return build_resnet(
            config.model,
            classes=len(dataset.class_names),
            image_size=config.image_size,
            width=config.width,
            stem=config.stem,
            mean=dataset.mean,
            std=dataset.std,
            seed=config.seed,
        )
    except ValueError as error:
        flags = f"--model={config.model} --width={config.width} --stem={config.stem}"
        raise UserError(f"{flags} --image_size={config.image_size}: {error}") from error


def build_start(config: ExperimentConfig, dataset: Dataset, start: Start | None = None) -> keras.Model:
    """Returns the network of round 0, wrapped for pruning where the experiment needs it.

    With `--init_from`, weights and masks are the other run's; the head is a fresh one if that run was on
    another dataset. Else the weights are those of `--weights`.

    Args:
        config: The experiment.
        dataset: Its data.
        start: The round that `--init_from` names; None without one.

    Raises:
        UserError: If weights or masks do not fit; the message names the flag and the layer.
    """
    network = build_network(config, dataset)
    if start is None:
        if config.weights != "none":
            with blame_flag("weights", config.weights):
                load_backbone(network, config.weights)
        return network if config.regime == "dense" else wrap(config, network)

    with blame_flag("init_from", config.init_from):
        source = load_model(start.folder)
    masked = {w.layer.name for w in sparsity.pruned_layers(source)}
    if config.regime != "dense":
        network = wrap(config, network)
        lost = masked - {w.layer.name for w in sparsity.pruned_layers(network)}
        if lost:
            raise UserError(
                f"{selecting_flags(config)}: must select every layer that --init_from="
                f"{config.init_from} has pruned; misses {', '.join(sorted(lost))}"
            )
    elif masked:
        # Dense training of a pruned network: its masks stay as they are.
        network = sparsity.prune_low_magnitude(network, None, layers=lambda layer: layer.name in masked)
    new_head = start.config.dataset != config.dataset
    _copy_weights(config, source, network, skip={"head"} if new_head else set())
    return network


def _layers_by_name(model: keras.Model) -> dict[str, tuple[keras.layers.Layer, list[keras.Variable]]]:
    """Maps each layer that has weights, unwrapped, to itself and its masks."""
    found = {}
    for layer in model.layers:
        wrapped = isinstance(layer, sparsity.PruneLowMagnitude)
        inner, masks = (layer.layer, layer.masks) if wrapped else (layer, [])
        if inner.weights:
            found[inner.name] = (inner, masks)
    return found


def _copy_weights(config: ExperimentConfig, source: keras.Model, target: keras.Model, skip: set[str]) -> None:
    """Copies weights and masks by layer name, all checked before the first is written."""
    sources, targets = _layers_by_name(source), _layers_by_name(target)
    flag = f"--init_from={config.init_from}: a checkpoint of another architecture"
    unknown = sorted((sources.keys() ^ targets.keys()) - skip)
    if unknown:
        where = "has no" if unknown[0] in targets else "has a"
        raise UserError(
            f"{flag}: it {where} layer {unknown[0]!r}, unlike --model={config.model} --stem={config.stem}"
        )
    pairs = []
    for name in (name for name in targets if name not in skip):
        (old, old_masks), (new, new_masks) = sources[name], targets[name]
        for theirs, ours in zip(old.weights, new.weights, strict=True):
            if theirs.shape != ours.shape:
                raise UserError(
                    f"{flag}: its {name}/{ours.name} has shape {tuple(theirs.shape)}, "
                    f"--width={config.width} --stem={config.stem} needs {tuple(ours.shape)}"
                )
            pairs.append((theirs, ours))
        if old_masks:
            pairs += zip(old_masks, new_masks, strict=True)
    for theirs, ours in pairs:
        ours.assign(ops.convert_to_numpy(theirs))


def masks_sparsity(model: keras.Model) -> float:
    """Returns the fraction of weights that the masks remove; 0 for a model without masks."""
    kept = total = 0
    for layer in sparsity.pruned_layers(model):
        for mask in layer.masks:
            values = ops.convert_to_numpy(mask)
            kept, total = kept + int(values.sum()), total + values.size
    return 1.0 - kept / total if total else 0.0
