"""Loads torchvision's ResNet weights into the Keras models of `resnet.py`."""

import os
import pathlib
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import numpy as np

from tfprune.extras import extra
from tfprune.memory import available_bytes, size_text
from tfprune.models.resnet import BLOCKS_PER_STAGE
from tfprune.reading import reading

# torchvision's IMAGENET1K_V1 weights, as the timm project hosts them.
HUB_REPOSITORIES = {"resnet18": "timm/resnet18.tv_in1k", "resnet34": "timm/resnet34.tv_in1k"}
HUB_FILE = "model.safetensors"

# Keras's order of a BatchNorm's weights, by PyTorch's names.
_BATCH_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
_STATISTICS = (".running_mean", ".running_var")
_HEAD_TENSORS = ("fc.weight", "fc.bias")


class _Tensor(NamedTuple):
    """A tensor in a file, not yet read as an array.

    Attributes:
        shape: Its shape.
        kind: What it is, if no plain array of floats: `complex64`, `sparse`; empty if it is one.
        read: Returns its values as float32.
    """

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], np.ndarray]


def load_backbone(model: keras.Model, source: str, *, include_head: bool = False) -> None:
    """Copies torchvision's weights into a model made by `build_resnet`.

    Every tensor is checked before the first is assigned: if one is missing, unexpected or of
    another shape, or has values that no training leaves, the model stays as it was. BatchNorm's
    `num_batches_tracked` is ignored. A file of parameters alone, such as
    `torch.save(dict(model.named_parameters()), path)` writes, has none of BatchNorm's statistics: those of
    the model stay, with a warning.

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
        FileError: If the file is damaged, or its tensors do not fit; it is a `ValueError`.
        ValueError: If `source` is neither, or the model is another.
        OSError: If the file is not there, or the download failed.
        ImportError: If a `.pth` file is given and PyTorch is not installed.
    """
    expected = _expected_tensors(model)
    if not include_head:
        expected = {name: slot for name, slot in expected.items() if name not in _HEAD_TENSORS}

    path = _download(model) if source == "imagenet" else _local_file(source)
    read = _pth_tensors() if path.suffix == ".pth" else _safetensors
    with reading(
        path, "file of weights", "pass a file with the tensors of torchvision's network of this size"
    ):
        tensors = read(path)
        parameters_alone = not any(name.endswith(_STATISTICS) for name in tensors)
        if parameters_alone:
            expected = {name: slot for name, slot in expected.items() if not name.endswith(_STATISTICS)}
        ignored = () if include_head else _HEAD_TENSORS
        found = {
            name: tensor
            for name, tensor in tensors.items()
            if name not in ignored and not name.endswith(".num_batches_tracked")
        }
        values = _fit(expected, found)
    if parameters_alone:
        told = "has parameters alone: BatchNorm's statistics stay the model's own until it is trained"
        warnings.warn(f"{path} {told}", stacklevel=2)
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
    expected: Mapping[str, tuple[keras.Variable, tuple[int, ...]]], found: Mapping[str, _Tensor]
) -> dict[str, np.ndarray]:
    """Returns the tensors in Keras's layout, or raises with the name of each that does not fit.

    A tensor is read only if its shape is right: any other might ask for any amount of memory.
    """
    values = {}
    problems: dict[str, list[str]] = {
        "missing": [name for name in expected if name not in found],
        "unexpected": sorted(name for name in found if name not in expected),
        "of another shape": [],
        "of another kind": [],
        "with values that are not finite": [],
        "with variances below 0": [],
    }
    for name, (variable, axes) in expected.items():
        if name not in found:
            continue
        tensor = found[name]
        # The shape that PyTorch's layout of this variable has.
        shape = tuple(variable.shape[axes.index(axis)] for axis in range(len(axes)))
        if tensor.shape != shape:
            problems["of another shape"].append(f"{name} {tensor.shape} instead of {shape}")
        elif tensor.kind:
            problems["of another kind"].append(f"{name}, which is {tensor.kind}")
        else:
            array = tensor.read()
            if not np.all(np.isfinite(array)):
                problems["with values that are not finite"].append(name)
            elif name.endswith(".running_var") and np.any(array < 0):
                problems["with variances below 0"].append(name)
            values[name] = np.transpose(array, axes)
    if any(problems.values()):
        told = "; ".join(f"{problem}: {_list(names)}" for problem, names in problems.items() if names)
        raise ValueError(f"its tensors do not fit the model, {told}")
    return values


def _list(items: list[str]) -> str:
    shown = ", ".join(items[:5])
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"


def _local_file(source: str) -> pathlib.Path:
    path = pathlib.Path(os.path.expanduser(source))
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(
            "`source` must be 'imagenet' or the path of a .safetensors or .pth file. "
            f"Received: source={source!r}"
        )
    if not path.exists():
        raise FileNotFoundError(f"`source` must be a file that exists. Received: source={source!r}")
    return path


def _download(model: keras.Model) -> pathlib.Path:
    # Imported here: only this source needs them.
    with extra("experiments"):
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


def _safetensors(path: pathlib.Path) -> dict[str, _Tensor]:
    """Returns the tensors of a .safetensors file by name; the library maps it, and checks its sizes."""
    with extra("experiments"):
        import safetensors

    file = safetensors.safe_open(path, framework="numpy")

    def tensor(name: str) -> _Tensor:
        part = file.get_slice(name)
        kind = part.get_dtype()
        return _Tensor(
            tuple(part.get_shape()),
            "" if kind in ("F64", "F32", "F16") else kind,
            lambda: _float32(file.get_tensor(name)),
        )

    return {name: tensor(name) for name in file.keys()}  # noqa: SIM118 (a file is no mapping)


def _pth_tensors() -> Callable[[pathlib.Path], dict[str, _Tensor]]:
    """Returns the function that returns the tensors of a .pth file by name.

    Raises:
        ImportError: If PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "A .pth file needs PyTorch (pip install torch); a .safetensors file does not"
        ) from error

    def kind(tensor: torch.Tensor) -> str:
        if tensor.is_meta:
            return "without values"
        if tensor.is_quantized:
            return "quantized"
        if tensor.layout is not torch.strided:
            return "sparse"
        return "" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")

    def read(path: pathlib.Path) -> dict[str, _Tensor]:
        _check_pth_sizes(path)
        # `weights_only`: a pickle could run any code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, Mapping):
            raise ValueError(
                f"it must be a state dict, a mapping of names to tensors. Received: {type(state)}"
            )
        for name, tensor in state.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise ValueError(
                    "it must be a state dict, a mapping of names to tensors. "
                    f"Received: {name!r} with a {type(tensor).__name__}"
                )
        return {
            # Parameters ask for gradients, which NumPy does not know, and no more does it know bfloat16.
            name: _Tensor(
                tuple(tensor.shape), kind(tensor), lambda tensor=tensor: tensor.detach().float().numpy()
            )
            for name, tensor in state.items()
        }

    return read


def _check_pth_sizes(path: pathlib.Path) -> None:
    """Checks that what PyTorch reads is in the file as it is, and that there is memory for it."""
    size, left = path.stat().st_size, available_bytes()
    if size > left:
        raise MemoryError(f"it asks for {size_text(size)} of memory, and there are {size_text(left)}")
    if zipfile.is_zipfile(path):  # Else it is of PyTorch before 1.6.
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                    raise ValueError(f"its {member.filename} is compressed, and PyTorch compresses none")


def _float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # Becomes infinite, which is noticed.
        return array.astype(np.float32)
