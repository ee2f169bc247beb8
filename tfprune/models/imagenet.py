"""Loads torchvision's ResNet weights into the Keras models of `resnet.py`."""

import pathlib
import re
from collections.abc import Mapping

import keras
import numpy as np

from tfprune.models.resnet import BLOCKS_PER_STAGE

# torchvision's IMAGENET1K_V1 weights, as the timm project hosts them.
HUB_REPOSITORIES = {"resnet18": "timm/resnet18.tv_in1k", "resnet34": "timm/resnet34.tv_in1k"}
HUB_FILE = "model.safetensors"

# Keras's order of a BatchNorm's weights, by PyTorch's names.
_BATCH_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
_HEAD_TENSORS = ("fc.weight", "fc.bias")


def load_backbone(model: keras.Model, source: str, *, include_head: bool = False) -> None:
    """Copies torchvision's weights into a model made by `build_resnet`.

    Every tensor is checked before the first is assigned: if one is missing, unexpected or of
    another shape, the model stays as it was. BatchNorm's `num_batches_tracked` is ignored.

    The published weights were trained on pixels normalised by ImageNet's statistics: mean 123.675,
    116.28, 103.53 and standard deviation 58.395, 57.12, 57.375. With others, as when fine-tuning
    with the data's own, they are a starting point.

    Example:

    ```python
    model = build_resnet("resnet34", classes=10, image_size=224)
    load_backbone(model, "imagenet")
    ```

    Args:
        model: A model with `build_resnet`'s layers, before pruning wraps them.
        source: `"imagenet"`, which downloads the ImageNet weights once and caches them where
            `huggingface_hub` does (`HF_HOME`), or the path of a `.safetensors` or `.pth` file with
            torchvision's tensor names. A `.pth` file needs PyTorch.
        include_head: Whether to load `fc.*` into the head too, which must then have as many
            classes. Otherwise the head stays as it is, and `fc.*` may be in the file or not.

    Raises:
        ValueError: If `source` is neither, the file is damaged, or its tensors do not fit.
        OSError: If the file is not there, or the download failed.
        ImportError: If a `.pth` file is given and PyTorch is not installed.
    """
    expected = _expected_tensors(model)
    if not include_head:
        expected = {name: slot for name, slot in expected.items() if name not in _HEAD_TENSORS}

    path = _download(model) if source == "imagenet" else _local_file(source)
    tensors = _read(path)

    ignored = () if include_head else _HEAD_TENSORS
    found = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in ignored and not name.endswith(".num_batches_tracked")
    }
    values = _fit(expected, found, path)
    for name, (variable, _) in expected.items():
        variable.assign(values[name])


def _expected_tensors(
    model: keras.Model,
) -> dict[str, tuple[keras.Variable, tuple[int, ...]]]:
    """Returns, for each of torchvision's names, the Keras variable and the axes that give it."""
    layers = {layer.name: layer for layer in model.layers}
    expected = {}

    def layer_variables(name: str) -> list[keras.Variable]:
        if name not in layers:
            raise ValueError(
                "`model` must be made by `build_resnet`, and not be wrapped yet. "
                f"Received: model {model.name!r} without a layer {name!r}"
            )
        return layers[name].variables

    def add_conv(keras_name: str, torch_name: str) -> None:
        # PyTorch: out, in, height, width. Keras: height, width, in, out.
        (kernel,) = layer_variables(keras_name)
        expected[f"{torch_name}.weight"] = (kernel, (2, 3, 1, 0))

    def add_batch_norm(keras_name: str, torch_name: str) -> None:
        variables = layer_variables(keras_name)
        for tensor, variable in zip(_BATCH_NORM_TENSORS, variables, strict=True):
            expected[f"{torch_name}.{tensor}"] = (variable, (0,))

    add_conv("stem_conv", "conv1")
    add_batch_norm("stem_bn", "bn1")
    for stage, blocks in enumerate(BLOCKS_PER_STAGE[_architecture(model)], start=1):
        for block in range(1, blocks + 1):
            ours, theirs = f"stage{stage}_block{block}", f"layer{stage}.{block - 1}"
            for i in (1, 2):
                add_conv(f"{ours}_conv{i}", f"{theirs}.conv{i}")
                add_batch_norm(f"{ours}_bn{i}", f"{theirs}.bn{i}")
            if f"{ours}_shortcut_conv" in layers:
                add_conv(f"{ours}_shortcut_conv", f"{theirs}.downsample.0")
                add_batch_norm(f"{ours}_shortcut_bn", f"{theirs}.downsample.1")
    kernel, bias = layer_variables("head")
    expected["fc.weight"] = (kernel, (1, 0))
    expected["fc.bias"] = (bias, (0,))
    return expected


def _architecture(model: keras.Model) -> str:
    """Returns the name of the ResNet that has the model's blocks."""
    blocks_per_stage = [0, 0, 0, 0]
    for layer in model.layers:
        if match := re.fullmatch(r"stage([1-4])_block\d+_conv1", layer.name):
            blocks_per_stage[int(match[1]) - 1] += 1
    for name, blocks in BLOCKS_PER_STAGE.items():
        if tuple(blocks_per_stage) == blocks:
            return name
    raise ValueError(
        f"`model` must be made by `build_resnet`, and not be wrapped yet: one of "
        f"{', '.join(sorted(BLOCKS_PER_STAGE))}. Received: model {model.name!r} with "
        f"{blocks_per_stage} blocks in its four stages"
    )


def _fit(
    expected: Mapping[str, tuple[keras.Variable, tuple[int, ...]]],
    found: Mapping[str, np.ndarray],
    path: pathlib.Path,
) -> dict[str, np.ndarray]:
    """Returns the tensors in Keras's layout, or raises with the name of each that does not fit."""
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing: {_list(missing)}")
    if extra := sorted(name for name in found if name not in expected):
        problems.append(f"unexpected: {_list(extra)}")
    values, misshapen, not_finite = {}, [], []
    for name, (variable, axes) in expected.items():
        if name not in found:
            continue
        # The shape that PyTorch's layout of this variable has.
        shape = tuple(variable.shape[axes.index(axis)] for axis in range(len(axes)))
        if found[name].shape != shape:
            misshapen.append(f"{name} {found[name].shape} instead of {shape}")
        elif not np.all(np.isfinite(found[name])):
            not_finite.append(name)
        else:
            values[name] = np.transpose(found[name], axes)
    if misshapen:
        problems.append(f"of another shape: {_list(misshapen)}")
    if not_finite:
        problems.append(f"with values that are not finite: {_list(not_finite)}")
    if problems:
        raise ValueError(
            f"The weights must fit the model, tensor by tensor. Received: {path} with tensors "
            + "; ".join(problems)
        )
    return values


def _list(items: list[str]) -> str:
    shown = ", ".join(items[:5])
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"


def _local_file(source: str) -> pathlib.Path:
    path = pathlib.Path(source).expanduser()
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(
            "`source` must be 'imagenet' or the path of a .safetensors or .pth file. "
            f"Received: source={source!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"`source` must be a file that exists. Received: source={source!r}")
    return path


def _download(model: keras.Model) -> pathlib.Path:
    # Imported here: only this source needs them.
    import httpx
    import huggingface_hub

    repository = HUB_REPOSITORIES[_architecture(model)]
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, HUB_FILE))
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"The ImageNet weights could not be had: {HUB_FILE} of {repository} on the Hugging "
            f"Face hub is not in the cache and was not downloaded ({reason}). Where there is no "
            "network, pass the path of a local .safetensors or .pth file of torchvision's weights."
        ) from error


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the file's tensors as float32, by name."""
    return _read_pth(path) if path.suffix == ".pth" else _read_safetensors(path)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import safetensors.numpy

    try:
        tensors = safetensors.numpy.load_file(path)
    except OSError:
        raise
    # The library raises its own `SafetensorError` for a damaged file, and others for data types
    # that NumPy lacks.
    except Exception as error:
        raise ValueError(
            f"The weights must be a whole safetensors file. Received: {path} ({error})"
        ) from error
    return {name: np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}


def _read_pth(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"A .pth file needs PyTorch (pip install torch); a .safetensors file does not. Received: {path}"
        ) from error

    try:
        # `weights_only`: a pickle could run any code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # A damaged file fails as a zip archive or as a pickle, with many kinds of exception.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"The weights must be a whole PyTorch file of tensors alone. Received: {path} ({reason})"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in state.values()
    ):
        raise ValueError(
            "The weights must be a state dict, a mapping of names to tensors. "
            f"Received: {path} with a {type(state).__name__} of something else"
        )
    return {name: tensor.float().numpy() for name, tensor in state.items()}
