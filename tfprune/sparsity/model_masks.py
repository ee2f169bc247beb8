"""`masks_of` and `set_masks`: the masks of a model as data that can be held, saved, compared and set."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network import kinds
from tfprune.network.graph import inner_layers, is_graph
from tfprune.network.wrapping import unwrapped
from tfprune.sparsity.apply import apply_masks, pruned_layers
from tfprune.sparsity.wrapper import PrunedKernel
from tfprune.text import numbered


def masks_of(model: keras.layers.Layer) -> dict[str, np.ndarray]:
    """Returns copies of a wrapped model's masks, by name.

    ```python
    np.savez("masks.npz", **masks_of(model))
    set_masks(model, np.load("masks.npz"))
    ```

    A name is a path of layers through the model and the kernel's name, such as `encoder/conv1/kernel`. In
    functional and Sequential models a layer has its own name. In a subclassed model or in another layer it
    has its class and position, such as `dense_0`: names that Keras makes up differ from one instance to the
    next. Wrappers are left out, so that a name is the same in a reloaded model and in one that was stripped
    and wrapped again. A shared layer counts where it comes first.

    Args:
        model: A built model or layer that went through `prune_low_magnitude`.

    Returns:
        Name -> booleans of the kernel's shape, True where the weight stays; in the order of the model.

    Raises:
        ValueError: On a model without wrapped layers, or one that is not built.
    """
    found = pruned_kernels(model)
    return {name: np.array(ops.convert_to_numpy(pruned.mask), bool) for name, pruned in found.items()}


def set_masks(model: keras.layers.Layer, masks: Mapping[str, Any]) -> None:
    """Sets the masks of a wrapped model, and zeroes the weights that they remove.

    The optimizer's slots for removed weights become zero too. A mask may be denser than the present one: a
    weight that comes back is zero, because removed weights are, and trains on from there. A mask need not
    follow the layer's pattern. Everything is checked before the first mask is set.

    Args:
        model: A built model or layer that went through `prune_low_magnitude`; not in the midst of a `fit`.
        masks: Name -> array, as from `masks_of` or `np.load`: one for each mask of the model, of the kernel's
            shape, booleans or zeros and ones. At least one weight of each kernel stays.

    Raises:
        ValueError: On anything else; the message has the mask's name. Nothing is changed then.
    """
    found = pruned_kernels(model)
    if not isinstance(masks, Mapping):
        raise ValueError(f"`masks` must be a mapping from names to arrays. Received: masks={masks!r}")
    missing, unknown = found.keys() - masks.keys(), masks.keys() - found.keys()
    if missing or unknown:
        raise ValueError(
            f"`masks` must have one mask for each of {', '.join(found)}. "
            f"Received: none for {sorted(missing)}, and unknown {sorted(unknown)}"
        )
    new = {name: _checked(name, masks[name], tuple(pruned.mask.shape)) for name, pruned in found.items()}
    for name, pruned in found.items():
        pruned.mask.assign(new[name])
    apply_masks(pruned_layers(model), getattr(model, "optimizer", None))


def kernel_names(model: keras.layers.Layer) -> dict[str, kinds.Kernel]:
    """Returns all kernels of a model without wrappers, by the names that `masks_of` gives their masks."""
    paths = _paths(model)
    return _named((f"{paths[id(kernel.layer)]}/{kernel.name}", kernel) for kernel in kinds.all_kernels(model))


def _named(found: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns values by their names; those of sibling layers, or variables, of the same name are numbered."""
    named: dict[str, Any] = {}
    for path, value in found:
        named[numbered(path, named)] = value
    return named


def _checked(name: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(mask)
    if values.shape != shape:
        raise ValueError(f"`masks[{name!r}]` must have shape {shape}. Received: shape {values.shape}")
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise ValueError(f"`masks[{name!r}]` must be booleans, or zeros and ones. Received: {values!r}")
    if not values.any():
        raise ValueError(f"`masks[{name!r}]` must keep one weight at least. Received: zeros only")
    return values.astype(bool)


def pruned_kernels(model: keras.layers.Layer) -> dict[str, PrunedKernel]:
    """Returns the kernels of a wrapped model, each with its mask, by the names of `masks_of`.

    Raises:
        ValueError: On a model without wrapped layers, or one that is not built.
    """
    wrappers = pruned_layers(model)
    if not wrappers:
        raise ValueError(
            "The model has no pruned layers: wrap it with `prune_low_magnitude` first. "
            f"Received: model={model!r}"
        )
    if not all(wrapper.built for wrapper in wrappers):
        raise ValueError(f"The model must be built before it has masks. Received: model={model!r}")
    paths = _paths(model)
    # Wrappers of layers that share a variable share its mask.
    masks: dict[int, PrunedKernel] = {}
    for pruned in (pruned for wrapper in wrappers for pruned in wrapper.pruned):
        masks.setdefault(id(pruned.mask), pruned)
    return _named((f"{paths[id(each.kernel.layer)]}/{each.kernel.name}", each) for each in masks.values())


def _paths(model: keras.layers.Layer) -> dict[int, str]:
    """Returns the path of each layer in a model: id of the layer, wrappers left out -> path."""
    paths: dict[int, str] = {}

    def visit(layer: keras.layers.Layer, path: str) -> None:
        if id(layer) in paths:
            return
        paths[id(layer)] = path
        graph = is_graph(layer)
        children = [*layer.layers, *inner_layers(layer)] if graph else inner_layers(layer)
        for position, child in enumerate(map(unwrapped, children)):
            name = child.name if graph else f"{type(child).__name__.lower()}_{position}"
            visit(child, f"{path}/{name}" if path else name)

    root = unwrapped(model)
    visit(root, "" if isinstance(root, keras.Model) else root.name)
    return paths
