"""Altered `model.tfprune` files whose sizes, sections and checksums are right, so that the graph is reached.

Run by itself, it loads mutants, guarded against time and memory:

    python -m tests.support.mutants FOLDER SEED COUNT
"""

import collections
import copy
import json
import pathlib
import random
import resource
import signal
import sys
import time

import numpy as np

from tests.support import damaged_files
from tests.support.networks import random_network, several_ends
from tfprune import runtime
from tfprune.runtime.graph import ACTIVATIONS, COMBINATIONS, NORMALIZED, PATHS, Graph, Input
from tfprune.runtime.machine import host

# What a load may take: a limit on the network's memory; address space above what is mapped at the start;
# seconds of the processor for a megabyte or less (about one is used; a busy or old machine takes several, and
# what is to be found takes minutes). A call of what was loaded is bounded by its memory.
MEMORY_LIMIT = 2**27
ADDRESS_SPACE = 2**30
SECONDS_PER_MEGABYTE = 10.0
CALLED_BYTES = 2**20

NUMBERS = (0, 1, 1, 2, 3, 4, 7, 8, 16, 64, 128, 255, 1024, 4097, 65535, 65536, 2**20, 2**31 - 1, 2**31, 2**48)
LARGEST = 1_500_000  # bytes that an alteration may add
COUNTS = (1, 2, 3, 10, 100, 1000, 5000)


class Nodes(list):
    """The nodes of a file, and its outputs."""

    outputs: list = []


def taken_apart(content: bytes) -> Nodes:
    """The nodes of a file; each array has its section as `"bytes"` and no place any more."""
    header, sections = damaged_files.split(content)
    header["nodes"] = Nodes(header["nodes"])
    header["nodes"].outputs = header.get("outputs", [])
    for array in arrays_of(header["nodes"]):
        array["bytes"] = sections[array.pop("offset") :][: array.pop("length")]
    return header["nodes"]


def arrays_of(nodes: list) -> list[dict]:
    return [
        value
        for node in nodes
        if isinstance(node, dict)
        for value in node.values()
        if isinstance(value, dict) and "shape" in value
    ]


def put_together(nodes: list, rng: random.Random) -> bytes:
    """A file of such nodes; one in eight has an altered byte or piece of its header's text, or section."""
    outputs = [dict(output) for output in nodes.outputs]
    for output in outputs:
        if rng.random() < 0.1:
            output[rng.choice(("node", "shape"))] = rng.choice((0, 1, -1, 10**6, [2], [-1, -2], [], "a"))
    header = {"outputs": outputs} if outputs or rng.random() < 0.05 else {}
    nodes, sections = copy.deepcopy(list(nodes)), bytearray()
    for array in arrays_of(nodes):
        section = array.pop("bytes", b"")
        sections += bytes(-len(sections) % 64)
        array.update(offset=len(sections), length=len(section))
        sections += section
    text = bytearray(json.dumps({"nodes": nodes, **header}, separators=(",", ":")).encode())
    damage = rng.randrange(24)
    if damage == 0:
        text[rng.randrange(len(text))] = rng.randrange(256)
    elif damage == 1:
        start = rng.randrange(len(text))
        text[start:start] = text[start : start + rng.randrange(40)] * rng.choice(COUNTS)
    elif damage == 2 and sections:
        sections[rng.randrange(len(sections))] = rng.randrange(256)
    return damaged_files.join(bytes(text), bytes(sections))


def any_node(nodes: list, rng: random.Random, *types: str) -> dict | None:
    found = [node for node in nodes if not types or node["type"] in types]
    return rng.choice(found) if found else None


def alter_number(nodes: list, rng: random.Random) -> None:
    node = any_node(nodes, rng)
    keys = [key for key, value in node.items() if isinstance(value, list) and value or type(value) is int]
    if keys:
        key = rng.choice(keys)
        if isinstance(node[key], int):
            node[key] = rng.choice(NUMBERS)
        else:
            node[key][rng.randrange(len(node[key]))] = rng.choice(NUMBERS)


def alter_choice(nodes: list, rng: random.Random) -> None:
    node = any_node(nodes, rng)
    choices = {"activation": tuple(ACTIVATIONS), "path": PATHS, "kind": ("max", "average")}
    choices |= {
        "operation": COMBINATIONS,
        "over": NORMALIZED,
        "centered": (True, False),
        "axis": (0, 1, 2, 3),
    }
    for key in choices.keys() & node.keys():
        node[key] = rng.choice(choices[key])


def alter_steps(nodes: list, rng: random.Random) -> None:
    """A `Quantize` of other steps; or a convolution that is told to read one, or given one to read."""
    node = any_node(nodes, rng, "Quantize")
    if node and rng.random() < 0.5:
        node["step"] = rng.choice((0.0, -1.0, 0.1, 2.0**-40, 2.0**40, 2.0**41, 1e-320, 1e300, 1, True, "1"))
        return
    at = rng.randrange(1, len(nodes))
    if nodes[at]["type"] == "Conv":
        source = nodes[at]["inputs"][0]
        new = {"type": "Quantize", "name": "steps", "inputs": [source], "step": 2.0 ** rng.randrange(-12, 4)}
        insert(nodes, at, [new])
        nodes[at + 1]["inputs"][0], nodes[at + 1]["path"] = at, rng.choice(PATHS)


def alter_settings(nodes: list, rng: random.Random) -> None:
    node = any_node(nodes, rng, "Conv", "Add", "Activation")
    if node:
        name = rng.choice([name for name, defaults in ACTIVATIONS.items() if defaults])
        settings = [rng.choice((0.0, -1.0, 0.5, 1e-30, 3e38, 1e39, -1e300)) for _ in ACTIVATIONS[name]]
        node |= {"activation": name, "settings": settings}


def alter_array(nodes: list, rng: random.Random) -> None:
    array = rng.choice(arrays_of(nodes))
    key = rng.choice(["shape", "count", "remainder_bits", "bytes"])
    if key == "shape":
        array[key][rng.randrange(len(array[key]))] = rng.choice(NUMBERS)
    elif key == "bytes":
        array[key] = array[key] * rng.choice((0, 2, 10)) + rng.randbytes(rng.randrange(8))
    else:
        array[key] = rng.choice(NUMBERS)


def empty_kernel(nodes: list, rng: random.Random) -> None:
    """A kernel without weights, of any window, with the bias and the padding that it needs."""
    node = any_node(nodes, rng, "Conv")
    if node:
        rows, columns = rng.choice(NUMBERS[1:12]), rng.choice(NUMBERS[1:12])
        inner, filters = node["kernel"]["shape"][2], rng.choice((node["kernel"]["shape"][3], 1, 64, 4096))
        shape, dtype = [rows, columns, inner, filters], node["kernel"]["dtype"]
        node["kernel"] |= {
            "shape": shape,
            "encoding": "sparse",
            "count": 0,
            "remainder_bits": 0,
            "bytes": b"",
        }
        node["kernel"]["dtype"] = dtype
        node["bias"] |= {"shape": [filters], "count": filters, "bytes": bytes(4 * filters)}
        node["padding"] = [rows // 2, rows - 1 - rows // 2, columns // 2, columns - 1 - columns // 2]
        node["inputs"] = node["inputs"][:1]


def widen(nodes: list, rng: random.Random) -> None:
    """Padding, strides, dilation or a window beyond all measure, of one size in all directions or in one."""
    node = any_node(nodes, rng, "Conv", "Pool")
    if node:
        key = rng.choice(["padding", "strides", "dilation" if node["type"] == "Conv" else "size"])
        number, only = rng.choice(NUMBERS[1:16]), rng.randrange(2 * len(node[key]))
        node[key] = [
            number if only >= len(node[key]) or only == place else old for place, old in enumerate(node[key])
        ]


def regather(nodes: list, rng: random.Random) -> None:
    """A `Gather` of longer or shorter lists, or of other places; or one more."""
    if rng.random() < 0.3:
        at = rng.randrange(len(nodes))
        lists = {key: [0] * rng.choice((1, 2, 100, 5000)) for key in ("rows", "columns", "channels")}
        insert(nodes, at + 1, [{"type": "Gather", "name": "more", "inputs": [at], **lists}])
        return
    node = any_node(nodes, rng, "Gather")
    if node:
        key = rng.choice(["rows", "columns", "channels"])
        most = max(1, LARGEST // 4 // len(node[key]))
        node[key] = rng.choice(
            (
                node[key] * min(rng.choice(COUNTS), most),
                [place + rng.choice((-1, 0, 1, 2)) for place in node[key]],
                [rng.choice(NUMBERS) for _ in node[key]],
                node[key][: rng.randrange(len(node[key]) + 1)],
            )
        )


def other_ends(nodes: list, rng: random.Random) -> None:
    """More images, of other shapes for the caller."""
    image = nodes[0]
    if rng.random() < 0.5:
        image["given"] = [rng.choice(NUMBERS[:12]) for _ in range(rng.randrange(10))]
    elif rng.random() < 0.5:
        image["given"] = [int(np.prod(image["shape"]))]
    else:
        copies = [
            {**copy.deepcopy(image), "name": f"image {index}"} for index in range(rng.choice((1, 2, 300)))
        ]
        insert(nodes, 1, copies)


def enlarge_image(nodes: list, rng: random.Random) -> None:
    nodes[0]["shape"][:2] = rng.choice(NUMBERS[1:16]), rng.choice(NUMBERS[1:16])


def rewire(nodes: list, rng: random.Random) -> None:
    index = rng.randrange(len(nodes))
    nodes[index]["inputs"] = [rng.randrange(max(1, index)) for _ in nodes[index]["inputs"]]


def repeat_inputs(nodes: list, rng: random.Random) -> None:
    node = any_node(nodes, rng, "Add", "Concatenate")
    if node:
        node["inputs"] *= min(rng.choice((*COUNTS, 50_000)), 1 + LARGEST // 10 // len(node["inputs"]))


def copies_of(node: dict, rng: random.Random) -> list[dict]:
    size = 200 + 4 * len(node["inputs"]) + sum(len(array["bytes"]) for array in arrays_of([node]))
    times = max(1, min(rng.choice(COUNTS), LARGEST // size))
    return [copy.deepcopy(node) for _ in range(times)]


def insert(nodes: list, at: int, new: list[dict]) -> None:
    """Puts nodes before another, and lets later nodes name what they named."""
    for node in nodes:
        node["inputs"] = [source + len(new) * (source >= at) for source in node["inputs"]]
    for output in nodes.outputs:
        output["node"] += len(new) * (output["node"] >= at)
    nodes[at:at] = new


def chain(nodes: list, rng: random.Random) -> None:
    """Copies of a node, each of the one before; its first reader then reads the last of them."""
    at = rng.randrange(len(nodes))
    copies = copies_of(nodes[at], rng)
    times = len(copies)
    insert(nodes, at + 1, copies)
    for place, node in enumerate(copies):
        node["inputs"] = [at + place for _ in node["inputs"]]
    for node in nodes[at + 1 + times :]:
        node["inputs"] = [at + times if source == at else source for source in node["inputs"]]


def fan(nodes: list, rng: random.Random) -> None:
    """Copies of a node side by side, perhaps each a little different, and an `Add` of them all."""
    at = rng.randrange(len(nodes))
    copies = copies_of(nodes[at], rng)
    if rng.random() < 0.5:
        for node in copies:
            alter_choice([node], rng)
            widen([node], rng)
    total = {
        "type": "Add",
        "name": "all",
        "inputs": list(range(at, at + len(copies) + 1)),
        "activation": "relu",
    }
    insert(nodes, at + 1, [*copies, total])


def double(nodes: list, rng: random.Random) -> None:
    at = rng.randrange(len(nodes))
    new = [
        {"type": "Concatenate", "name": "twice", "inputs": [at + place] * 2}
        for place in range(rng.randrange(1, 34))
    ]
    insert(nodes, at + 1, new)


def cut(nodes: list, rng: random.Random) -> None:
    """A piece is left out, or only the beginning is left, with a vector at its end."""
    first = rng.randrange(1, len(nodes))
    if rng.random() < 0.5:
        del nodes[first : first + rng.randrange(1, 4)]
    else:
        del nodes[first:]
        nodes.append({"type": "GlobalPool", "name": "end", "inputs": [first - 1], "kind": "max"})


ALTERATIONS = (
    alter_number,
    alter_choice,
    alter_settings,
    alter_steps,
    alter_array,
    empty_kernel,
    widen,
    enlarge_image,
    regather,
    other_ends,
    rewire,
    repeat_inputs,
    chain,
    fan,
    double,
    cut,
)


def mutant(files: list[bytes], rng: random.Random) -> bytes:
    """One of the files, altered once to four times; sometimes with the nodes of another behind its own."""
    nodes = taken_apart(rng.choice(files))
    if rng.random() < 0.1:
        more = taken_apart(rng.choice(files))
        for node in more:
            node["inputs"] = [source + len(nodes) for source in node["inputs"]]
        nodes += more[1:]
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        rng.choice(ALTERATIONS)(nodes, rng)
        if not arrays_of(nodes) or len(nodes) > 20_000:
            break
    if rng.random() < 0.5:
        nodes.append({"type": "GlobalPool", "name": "end", "inputs": [len(nodes) - 1], "kind": "average"})
    return put_together(nodes, rng)


def sound_files(folder: pathlib.Path) -> list[bytes]:
    path = folder / "sound.tfprune"
    for seed in range(6):
        network = random_network(np.random.default_rng(seed), extra=seed, version=2 + seed % 2)
        runtime.write_file(network, path)
        yield path.read_bytes()
    runtime.write_file(several_ends(np.random.default_rng(6)), path)
    yield path.read_bytes()


def main(folder: str, seed: str, count: str) -> None:
    """Loads mutants, and calls the small ones; prints what became of them.

    A load that breaks its promise ends the process, the mutant being the last in the folder: by an exception
    of another kind, by the alarm, or by the system.
    """
    folder, rng = pathlib.Path(folder), random.Random(int(seed))
    files, path = list(sound_files(folder)), folder / "mutant.tfprune"
    one = np.ones(1, np.float32)
    runtime.Model(Graph((Input("image", (), (1, 1, 1), one, one),)), 1, target=host())  # LLVM starts once.
    outcomes, slowest = collections.Counter(), (0.0, "")
    for _ in range(int(count)):
        content = mutant(files, rng)
        path.write_bytes(content)
        mapped = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, resource.RLIM_INFINITY))
        allowed = SECONDS_PER_MEGABYTE * max(1.0, len(content) / 1e6)
        signal.setitimer(signal.ITIMER_PROF, allowed)  # of the processor, however busy it is
        before = time.process_time()
        try:
            model = runtime.load(path, 1, memory_limit=MEMORY_LIMIT)
            outcome = "loaded"
        except runtime.FileFormatError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error)) < 1000
            model, outcome = None, "refused"
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        seconds = time.process_time() - before
        slowest = max(slowest, (seconds / max(1.0, len(content) / 1e6), f"{outcome}, {len(content)} bytes"))
        if model is not None and model.memory_bytes < CALLED_BYTES:
            model({name: np.ones((1, *shape), np.float32) for name, shape in model.inputs.items()})
            outcome = "called"
        outcomes[outcome] += 1
    print(json.dumps({**outcomes, "slowest": slowest}))


if __name__ == "__main__":
    main(*sys.argv[1:])
