"""A page that runs a network in the browser: the network as WebAssembly, and images, in one HTML file."""

import base64
import html
import json
import os
import shutil
import string
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from tfprune.errors import UserError
from tfprune.files import write_text

if TYPE_CHECKING:
    from tfprune.runtime import Graph

_LINKERS = ("wasm-ld", *(f"wasm-ld-{version}" for version in range(30, 10, -1)))
_TARGET = "wasm32"


def write_page(
    model: keras.Model,
    path: str | os.PathLike[str],
    images: np.ndarray,
    labels: Sequence[int],
    class_names: Sequence[str],
    *,
    title: str = "A pruned network in the browser",
    subtitle: str = "",
    weights: str = "float32",
) -> int:
    """Writes a page that classifies images in the browser, and an image that its user chooses.

    Needs LLVM's linker for WebAssembly, wasm-ld, which Debian has in its package lld.

    Args:
        model: A built model without pruning wrappers, as of `export_sparse`.
        path: The HTML file; replaced if it exists. It asks for no other file.
        images: uint8 `[n, height, width, channels]`, with 1 or 3 channels.
        labels: The class of each image.
        class_names: The name of each class.
        title: The page's heading.
        subtitle: A sentence below the heading.
        weights: As of `tfprune.runtime.compile_library`.

    Returns:
        The bytes of the WebAssembly module.

    Raises:
        UserError: The runtime cannot run a layer, or there is no wasm-ld.
        ValueError: The network has several inputs or outputs, or the images or the names do not fit it.
    """
    from tfprune.compiler.compile import compile_model
    from tfprune.compiler.paths import choose_paths

    graph = compile_model(model)
    shapes = graph.shapes()
    end, *others = graph.results(shapes)
    if len(graph.inputs) > 1 or others:
        raise ValueError(
            "`model` must have one input and one output."
            f" Received: {len(graph.inputs)} inputs, {1 + len(others)} outputs"
        )
    (height, width, channels), classes = shapes[0], shapes[end.node][2]
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels) or channels not in (1, 3):
        raise ValueError(
            f"`images` must be uint8 [n, {height}, {width}, {channels}], of 1 or 3 channels."
            f" Received: {images.dtype} {list(images.shape)}"
        )
    if len(labels) != len(images) or len(class_names) != classes:
        raise ValueError(
            f"there must be a label for each of {len(images)} images, and {classes} names."
            f" Received: {len(labels)} labels, {len(class_names)} names"
        )
    module, arena = webassembly(choose_paths(graph), weights)
    kernels = [node.kernel for node in graph.nodes if hasattr(node, "kernel")]
    zeros = 1 - sum(np.count_nonzero(kernel) for kernel in kernels) / sum(kernel.size for kernel in kernels)
    data = {
        "module": base64.b64encode(module).decode(),
        "images": base64.b64encode(np.ascontiguousarray(images).tobytes()).decode(),
        "labels": [int(label) for label in labels],
        "names": list(class_names),
        "height": height,
        "width": width,
        "channels": channels,
        "classes": classes,
        "arena": arena,
        "logits": getattr(graph.nodes[end.node], "activation", "linear") != "softmax",
    }
    page = resources.files("tfprune.export").joinpath("browser.html").read_text("utf-8")
    # What stands in a script element must not end it.
    values = {"data": json.dumps(data).replace("<", "\\u003c"), "height": height, "width": width}
    values |= {"title": html.escape(title), "subtitle": html.escape(subtitle)}
    values |= {"sparsity": f"{100 * zeros:.1f} %", "size": f"{len(module) / 1000:,.0f} kB"}
    write_text(Path(path), string.Template(page).substitute(values))
    return len(module)


def webassembly(graph: "Graph", weights: str = "float32") -> tuple[bytes, int]:
    """Compiles a network as a WebAssembly module that needs no other.

    It exports `memory`, `__heap_base`, `model_run` and `model_run_uint8`.

    Args:
        graph: The network, as of `tfprune.runtime`.
        weights: As of `tfprune.runtime.compile_library`.

    Returns:
        The module, and the bytes of its arena.

    Raises:
        UserError: There is no wasm-ld, or it failed.
    """
    from tfprune.runtime import compile_library

    linker = next(filter(None, map(shutil.which, _LINKERS)), None)
    if linker is None:
        raise UserError("wasm-ld, LLVM's linker for WebAssembly, is not installed; Debian's package is lld")
    with tempfile.TemporaryDirectory() as folder:
        library = compile_library(graph, folder, _TARGET, weights=weights)
        module = Path(folder, "model.wasm")
        exports = [f"--export={name}" for name in ("model_run", "model_run_uint8", "__heap_base")]
        archive = Path(folder, _TARGET, "libmodel.a")
        linked = subprocess.run(
            [linker, "--no-entry", "--strip-all", *exports, str(archive), "-o", str(module)],
            capture_output=True,
            text=True,
        )
        if linked.returncode:
            raise UserError(f"{linker} failed: {linked.stderr.strip()}")
        return module.read_bytes(), library.built[0].arena_bytes
