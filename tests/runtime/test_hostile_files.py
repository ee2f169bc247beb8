"""Whatever a file holds, reading it gives a `FileFormatError` that names it, or a sound graph.

Where only bytes are altered, the checksum finds it. Whoever alters a file on purpose also writes a new
checksum: most tests do, so that the other checks have to hold.
"""

import copy
import json
import pathlib
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import damaged_files
from tests.support.networks import random_network
from tfprune.runtime.errors import FileFormatError
from tfprune.runtime.format.file import read_file, write_file
from tfprune.runtime.graph import Conv, GlobalPool, Graph, Input

# Each example overwrites the one file.
same_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)


@pytest.fixture(scope="module", params=["float16", "int8"])
def sound(request, tmp_path_factory):
    """A file's bytes, with sparse and dense kernels."""
    path = tmp_path_factory.mktemp("sound") / "model.tfprune"
    write_file(random_network(np.random.default_rng(5), extra=1), path, request.param)
    content = path.read_bytes()
    header, _ = damaged_files.split(content)
    encodings = {node["kernel"]["encoding"] for node in header["nodes"] if node["type"] == "Conv"}
    assert encodings == {"dense", "sparse"}
    return content


@pytest.fixture(scope="module", autouse=True)
def little_memory():
    """2 GiB above what is mapped now: a test that asks for more fails."""
    mapped = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**31, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tfprune"


def refuse(path, content, match=None):
    """Asserts that the file is refused, by name."""
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=match) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}: ")


def accept_or_refuse(path, content):
    """Asserts that the file is refused by name, or is a sound graph that can be written again."""
    path.write_bytes(content)
    try:
        graph = read_file(path)
    except FileFormatError as error:
        assert str(error).startswith(f"{path}: ")
        str(error).encode()
        return False
    assert isinstance(graph, Graph)
    write_file(graph, path, "float32")
    assert len(read_file(path).shapes()) == len(graph.nodes)
    return True


@same_file
@given(data=st.data())
def test_truncated(sound, path, data):
    refuse(path, sound[: data.draw(st.integers(0, len(sound) - 1))])


@pytest.mark.parametrize("length", [0, 1, 8, 23, 24, 55, 56])
def test_truncated_at_the_edges(sound, path, length):
    refuse(path, sound[:length])


@same_file
@given(data=st.data())
def test_a_flipped_bit(sound, path, data):
    bit = data.draw(st.integers(0, 8 * len(sound) - 1))
    content = bytearray(sound)
    content[bit // 8] ^= 1 << bit % 8
    refuse(path, bytes(content))


def test_a_flipped_bit_at_the_beginning(sound, path):
    for bit in range(8 * damaged_files.START):
        content = bytearray(sound)
        content[bit // 8] ^= 1 << bit % 8
        refuse(path, bytes(content))


@pytest.mark.slow
@same_file
@given(data=st.data())
def test_a_flipped_bit_with_a_new_checksum(sound, path, data):
    bit = data.draw(st.integers(0, 8 * len(sound) - 1))
    content = bytearray(sound)
    content[bit // 8] ^= 1 << bit % 8
    accept_or_refuse(path, damaged_files.seal(bytes(content)))


@given(behind=st.binary(min_size=1, max_size=200))
@settings(same_file, max_examples=30)
def test_appended_bytes(sound, path, behind):
    refuse(path, sound + behind, "bytes and should have")
    content = bytearray(sound + behind)
    content[16:24] = struct.pack("<Q", len(content))
    refuse(path, damaged_files.seal(bytes(content)), "the last section ends at")


@given(content=st.binary(max_size=300))
@settings(same_file, max_examples=100)
def test_anything(path, content):
    refuse(path, content)
    refuse(path, b"TFPRUNE\0\1\0\0\0" + content)


NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**16, 2**28, 2**31, 2**32, 2**40, 2**48, 10**14, 10**15 - 1, 2**63, 2**64]),
)
VALUES = st.one_of(
    NUMBERS,
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.just("\ud800"),
    st.lists(NUMBERS, max_size=5),
    st.dictionaries(st.sampled_from(["sparse", "dense", "type", "\ud800"]), st.floats(), max_size=2),
)


def places(item, path=()):
    """Returns the paths of all values in a JSON value."""
    yield path
    pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for key, value in pairs:
        yield from places(value, (*path, key))


@st.composite
def altered(draw, header, choose=lambda path: True):
    """A header with one to three values replaced, removed or added."""
    header = copy.deepcopy(header)
    for _ in range(draw(st.integers(1, 3))):
        *before, last = draw(st.sampled_from([path for path in places(header) if path and choose(path)]))
        owner = header
        for key in before:
            owner = owner[key]
        match draw(st.sampled_from(["replace"] * 4 + ["remove", "add", "near", "swap"])):
            case "replace":
                owner[last] = draw(VALUES)
            case "remove":
                del owner[last]
            case "add" if isinstance(owner, dict):
                owner[draw(st.text(max_size=5))] = draw(VALUES)
            case "add":
                owner.insert(last, draw(VALUES))
            case "near" if type(owner[last]) is int:
                owner[last] += draw(st.sampled_from([-64, -1, 1, 64]))
            case "swap":
                other = draw(st.sampled_from(list(owner) if isinstance(owner, dict) else range(len(owner))))
                owner[last], owner[other] = owner[other], owner[last]
        if not isinstance(header.get("nodes"), list) or not header["nodes"]:
            break
    return header


@pytest.mark.slow
@settings(same_file, max_examples=500)
@given(data=st.data())
def test_an_altered_header(sound, path, data):
    header, sections = damaged_files.split(sound)
    accept_or_refuse(path, damaged_files.join(data.draw(altered(header)), sections))


@pytest.mark.slow
@settings(same_file, max_examples=300)
@given(data=st.data())
def test_an_altered_array(sound, path, data):
    header, sections = damaged_files.split(sound)
    numbers = {"shape", "dtype", "encoding", "count", "remainder_bits", "offset", "length", "packed"}
    new = data.draw(altered(header, lambda where: bool(numbers & set(where[3:]))))
    accept_or_refuse(path, damaged_files.join(new, sections))


@pytest.mark.slow
@same_file
@given(data=st.data())
def test_altered_sections(sound, path, data):
    header, sections = damaged_files.split(sound)
    start = data.draw(st.integers(0, len(sections) - 1))
    new = data.draw(st.binary(min_size=1, max_size=min(40, len(sections) - start)))
    accept_or_refuse(path, damaged_files.join(header, sections[:start] + new + sections[start + len(new) :]))


@pytest.mark.slow
@same_file
@given(data=st.data())
def test_an_altered_code_of_positions(sound, path, data):
    header, sections = damaged_files.split(sound)
    kernels = [node["kernel"] for node in header["nodes"] if "kernel" in node]
    kernel = data.draw(st.sampled_from([kernel for kernel in kernels if kernel["encoding"] == "sparse"]))
    end = kernel["offset"] + kernel["length"]
    start = kernel["offset"] + kernel.get(
        "packed", kernel["count"] * {"float32": 4, "float16": 2, "int8": 1}[kernel["dtype"]]
    )
    start += 4 * kernel["shape"][-1] if kernel["dtype"] == "int8" else 0
    code = data.draw(st.binary(min_size=end - start, max_size=end - start))
    kernel["remainder_bits"] = data.draw(st.sampled_from([kernel["remainder_bits"], 0, 1, 31, 32]))
    accept_or_refuse(path, damaged_files.join(header, sections[:start] + code + sections[end:]))


def test_harmless_changes_are_accepted(sound, path):
    header, sections = damaged_files.split(sound)
    conv = next(node for node in header["nodes"] if node["type"] == "Conv")
    conv.update(name="another", costs={"sparse": 1e-3}, path="dense")
    assert accept_or_refuse(path, damaged_files.join(header, sections))


def conv_of(header):
    return next(node for node in header["nodes"] if node["type"] == "Conv")


def sparse_kernel_of(header):
    kernels = [node["kernel"] for node in header["nodes"] if "kernel" in node]
    return next(kernel for kernel in kernels if kernel["encoding"] == "sparse")


def node_of(header, kind):
    return next(node for node in header["nodes"] if node["type"] == kind)


def output(node, *shape):
    return {"name": "output", "node": node, "shape": list(shape)}


def head_of(header):
    return header["nodes"][-1]


@pytest.mark.parametrize("at, value, message", [
    (0, b"\x80", "values from -127 to 127"),
    (0, b"\0", "stored values must not be zero"),
    (3, np.float32(0).tobytes(), "scales must be above 0"),
    (3, np.float32(-1).tobytes(), "scales must be above 0"),
    (3, np.float32(np.nan).tobytes(), "a value is not finite"),
    (7, np.float32(np.inf).tobytes(), "a value is not finite"),
    (7, np.float32(1e38).tobytes(), "a value times its scale is not finite"),
])  # fmt: skip
def test_values_and_scales_of_8_bits(path, at, value, message):
    """A sparse kernel of three values and two scales, byte for byte."""
    kernel = np.zeros((3, 3, 2, 2), np.float32)
    kernel[0, 1, 0], kernel[2, 2, 1, 1] = (1.0, 2.0), -4.0
    ones = np.ones(2, np.float32)
    image, conv = Input("image", (), (3, 3, 2), ones, ones), Conv("conv", (0,), kernel, ones)
    nodes = (image, conv, GlobalPool("pool", (1,), "max"))
    write_file(Graph(nodes), path, "int8")
    header, sections = damaged_files.split(path.read_bytes())
    start = conv_of(header)["kernel"]["offset"]
    assert sections[start : start + 3] == bytes([127, 63, 130])  # 2 and -4 are 63 and -126 steps
    refuse(
        path,
        damaged_files.join(header, sections[: start + at] + value + sections[start + at + len(value) :]),
        message,
    )


def raw_deflate(content):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


# The stream in the place of 300 packed values, what it says of itself, and what is wrong with it.
PACKED = {
    "other bytes": (b"\xff" * 40, {}, "not a deflate stream"),
    "a stream that does not end": (raw_deflate(bytes(range(256)))[:-9], {}, "must end where its place"),
    "bytes behind it": (raw_deflate(b"\x7f" * 300) + bytes(50), {}, "must end where its place"),
    "fewer values": (raw_deflate(bytes(range(1, 61))), {}, "60 values are packed and should be 300"),
    "more values": (raw_deflate(bytes(300) * 9 + bytes(range(64))), {}, "has more than 300 bytes"),
    "a value beyond its range": (raw_deflate(bytes(range(100, 150)) * 6), {}, "values from -127 to 127"),
    "a few bytes for many": (raw_deflate(b"\x7f" * 300), {}, "at most 8 a byte"),
    "a negative size": (raw_deflate(bytes(range(60))), {"packed": -60}, "at most 8 a byte"),
    "another type": (raw_deflate(bytes(range(60))), {"dtype": "float16"}, "`packed` must be for int8"),
    "a size of another kind": (raw_deflate(bytes(range(60))), {"packed": 1.0}, "packed must be of type int"),
}


@pytest.mark.parametrize("case", PACKED)
def test_packed_values(path, case):
    kernel = np.full((1, 1, 300, 1), 0.5, np.float32)
    image = Input("image", (), (1, 1, 300), np.ones(300, np.float32), np.zeros(300, np.float32))
    nodes = (image, Conv("conv", (0,), kernel, np.ones(1, np.float32)), GlobalPool("pool", (1,), "max"))
    write_file(Graph(nodes), path, "int8")
    header, sections = damaged_files.split(path.read_bytes())
    array, bias = conv_of(header)["kernel"], conv_of(header)["bias"]
    start, values = array["offset"], array["packed"]
    assert array["encoding"] == "dense" and 300 / 8 <= values < 60
    assert zlib.decompress(sections[start : start + values], -zlib.MAX_WBITS) == bytes([127]) * 300
    stream, said, message = PACKED[case]
    section = stream + sections[start + values : start + array["length"]]
    array.update({"packed": len(stream), "length": len(section), **said})
    padding = bytes(-len(section) % 64)
    moved = sections[bias["offset"] :]
    bias["offset"] = start + len(section + padding)
    refuse(path, damaged_files.join(header, sections[:start] + section + padding + moved), message)


def test_a_compressed_header(sound, path):
    header, sections = damaged_files.split(sound)
    text = json.dumps(header).encode()
    assert accept_or_refuse(path, damaged_files.join(text, sections))
    assert accept_or_refuse(path, damaged_files.join(raw_deflate(text), sections))
    refuse(path, damaged_files.join(raw_deflate(text), sections, version=1), "not UTF-8|not JSON")
    refuse(path, damaged_files.join(raw_deflate(text)[:-1], sections), "must end where its place")
    refuse(path, damaged_files.join(raw_deflate(text) + b"{", sections), "must end where its place")
    refuse(path, damaged_files.join(raw_deflate(b" " * (2**22 + 1)), sections), "has more than 4194304 bytes")
    refuse(path, damaged_files.join(b"\xff" * 9, sections), "not a deflate stream")


CHANGES = {
    "no such type": (
        lambda h: h["nodes"][1].update(type="Lambda"),
        "node 1 must have one of the types Input",
    ),
    "no type": (lambda h: h["nodes"][1].pop("type"), "node 1 must have one of the types"),
    "a type of another kind": (lambda h: h["nodes"][1].update(type=["Conv"]), "one of the types"),
    "a node of another kind": (lambda h: h["nodes"].append(7), "must have one of the types"),
    "an unknown key": (lambda h: conv_of(h).update(code="x"), "exactly the keys name, inputs, kernel"),
    "a missing key": (lambda h: conv_of(h).pop("strides"), "exactly the keys"),
    "an unknown key of the header": (lambda h: h.update(more=1), '"nodes"'),
    "nodes of another kind": (lambda h: h.update(nodes={}), '"nodes"'),
    "no nodes": (lambda h: h.update(nodes=[]), "last section ends"),
    "a boolean as integer": (lambda h: conv_of(h).update(groups=True), "groups must be of type int. .*bool"),
    "a float as integer": (lambda h: conv_of(h).update(groups=1.0), "groups must be of type int. .*float"),
    "an integer as float": (lambda h: conv_of(h).update(costs={"sparse": 1}), "type float. Received: int"),
    "settings of another kind": (lambda h: conv_of(h).update(settings=[1]), "settings must be of type float"),
    "settings that are none": (lambda h: conv_of(h).update(settings=0.1), "settings must be a list"),
    "settings of no activation": (
        lambda h: conv_of(h).update(settings=[0.5] * 9),
        "`settings` of .* must be",
    ),
    "a setting beyond float32": (
        lambda h: conv_of(h).update(activation="leaky_relu", settings=[1e39]),
        "must be 1 float32 numbers",
    ),
    "an axis of another kind": (
        lambda h: node_of(h, "Concatenate").update(axis=1.0),
        "axis must be of type int",
    ),
    "an axis that is none": (lambda h: node_of(h, "Concatenate").update(axis=5), "`axis` must be 0, 1 or 2"),
    "given of another kind": (
        lambda h: h["nodes"][0].update(given="x"),
        "given must be a list of any number",
    ),
    "another number given": (lambda h: h["nodes"][0].update(given=[7, 13, 19]), "`given` must be at most 8"),
    "rows of another kind": (lambda h: node_of(h, "Gather").update(rows=[0.5]), "rows must be of type int"),
    "no rows": (lambda h: node_of(h, "Gather").update(rows=[]), "`rows` must be integers, at least one"),
    "rows far away": (lambda h: node_of(h, "Gather").update(rows=[2**31]), "`rows` must be 0 to 2147483647"),
    "rows outside": (lambda h: node_of(h, "Gather").update(rows=[10**6]), "its places must lie within"),
    "another operation": (lambda h: node_of(h, "Combine").update(operation="x"), "one of add, multiply"),
    "an epsilon of 0": (lambda h: node_of(h, "Normalize").update(epsilon=0.0), "`epsilon` must be"),
    "centered of another kind": (lambda h: node_of(h, "Normalize").update(centered=1), "of type bool"),
    "groups of no channel": (lambda h: node_of(h, "Normalize").update(groups=10**9), "`groups` must be"),
    "a constant of two axes": (
        lambda h: node_of(h, "Constant")["value"]["shape"].pop(),
        "do not fit a dense|`value` must have 3 axes",
    ),
    "outputs of another kind": (lambda h: h.update(outputs={}), '"outputs"'),
    "an output of another kind": (lambda h: h.update(outputs=[7]), "output 0 must be an object of exactly"),
    "an output that is no node": (lambda h: h.update(outputs=[output(10**6)]), "must be a node that gives"),
    "a negative output": (lambda h: h.update(outputs=[output(-1)]), "must be a node that gives a vector"),
    "an output of another size": (
        lambda h: h.update(outputs=[output(len(h["nodes"]) - 1, 7)]),
        "`shape` must be",
    ),
    "costs of another kind": (lambda h: conv_of(h).update(costs=[]), "costs must be an object"),
    "infinite costs": (lambda h: conv_of(h).update(costs={"sparse": float("inf")}), "number Infinity"),
    "null": (lambda h: conv_of(h).update(name=None), "name must be of type str"),
    "half a surrogate pair": (lambda h: conv_of(h).update(name="\udc00"), "name must be Unicode"),
    "too many strides": (lambda h: conv_of(h).update(strides=[1, 1, 1]), "strides must be a list of 2"),
    "strides as text": (lambda h: conv_of(h).update(strides="11"), "strides must be a list of 2"),
    "a long integer": (lambda h: conv_of(h).update(groups=10**15), "number that is too long"),
    "a wrong node": (lambda h: h["nodes"][1].update(inputs=[1]), "must be nodes before it"),
    "a wrong attribute": (lambda h: conv_of(h).update(groups=77), "do not fit a kernel"),
    "no array": (lambda h: conv_of(h).update(bias=[1.0]), "bias must be an object of exactly the keys shape"),
    "no axes": (lambda h: conv_of(h)["bias"].update(shape=[]), "`shape` must be"),
    "too many axes": (lambda h: conv_of(h)["bias"].update(shape=[1] * 5), "`shape` must be"),
    "an empty axis": (lambda h: conv_of(h)["bias"].update(shape=[0]), "`shape` must be"),
    "a negative axis": (lambda h: conv_of(h)["bias"].update(shape=[-1, -4]), "`shape` must be"),
    "an unknown dtype": (lambda h: conv_of(h)["bias"].update(dtype="object"), "one of float32, float16"),
    "an unknown encoding": (lambda h: conv_of(h)["bias"].update(encoding="pickle"), "one of dense, sparse"),
    "a float16 bias": (lambda h: conv_of(h)["bias"].update(dtype="float16"), "that is no kernel"),
    "an int8 bias": (lambda h: conv_of(h)["bias"].update(dtype="int8"), "that is no kernel"),
    "8 bits without scales": (
        lambda h: sparse_kernel_of(h).update(dtype="int8", length=3),
        "do not fit a sparse",
    ),
    "a sparse bias": (lambda h: conv_of(h)["bias"].update(encoding="sparse"), "that is no kernel"),
    "a wrong count": (lambda h: conv_of(h)["bias"].update(count=77), "do not fit a dense float32"),
    "a wrong length": (lambda h: conv_of(h)["bias"].update(length=1), "do not fit a dense float32"),
    "remainders of a dense array": (
        lambda h: conv_of(h)["bias"].update(remainder_bits=1),
        "do not fit a dense",
    ),
    "a negative count": (lambda h: sparse_kernel_of(h).update(count=-1), "do not fit a sparse"),
    "too large a count": (lambda h: sparse_kernel_of(h).update(count=10**12), "do not fit a sparse"),
    "a larger shape": (lambda h: conv_of(h)["bias"].update(shape=[99]), "do not fit a dense float32"),
    "a short sparse section": (lambda h: sparse_kernel_of(h).update(length=1), "do not fit a sparse"),
    "another place": (lambda h: conv_of(h)["bias"].update(offset=0), "must be at"),
    "no place": (lambda h: head_of(h)["bias"].update(offset=2**40), "must be at"),
    "a negative place": (lambda h: conv_of(h)["bias"].update(offset=-64), "must be at"),
    "terabytes, dense": (
        lambda h: head_of(h)["bias"].update(shape=[2**20, 2**20], count=2**40, length=2**42),
        "the last section ends at",
    ),
    "terabytes, sparse": (
        lambda h: sparse_kernel_of(h).update(shape=[2**12, 2**12, 2**12, sparse_kernel_of(h)["shape"][3]]),
        "sparse arrays may have 268435456 values",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changes_that_are_refused_with_a_reason(sound, path, case):
    change, message = CHANGES[case]
    header, sections = damaged_files.split(sound)
    change(header)
    refuse(path, damaged_files.join(header, sections), message)


def test_values_that_are_refused(sound, path):
    header, sections = damaged_files.split(sound)
    bias, kernel = conv_of(header)["bias"], sparse_kernel_of(header)
    cases = [
        (np.nan, bias, "<f4", "not finite"),
        (np.inf, bias, "<f4", "not finite"),
        (0.0, kernel, {"float16": "<f2", "int8": "i1"}[kernel["dtype"]], "must not be zero"),
    ]
    if kernel["dtype"] == "float16":
        cases.append((np.nan, kernel, "<f2", "Conv '.*': `kernel`: a value is not finite"))
    for value, array, dtype, message in cases:
        new = bytearray(sections)
        value_bytes = np.array(value, dtype).tobytes()
        new[array["offset"] : array["offset"] + len(value_bytes)] = value_bytes
        refuse(path, damaged_files.join(header, bytes(new)), message)


def test_sections_follow_at_once(sound, path):
    header, sections = damaged_files.split(sound)
    shift = header["nodes"][0]["shift"]["offset"]
    for node in header["nodes"]:
        for item in node.values():
            if isinstance(item, dict) and item.get("offset", 0) >= shift:
                item["offset"] += 64
    content = damaged_files.join(header, sections[:shift] + bytes(64) + sections[shift:])
    refuse(path, content, "a section must be at 64. Received: offset=128")


def test_an_infinite_cost(sound, path):
    header, sections = damaged_files.split(sound)
    conv_of(header)["costs"] = {"sparse": 0.125}
    text = json.dumps(header).replace("0.125", "1e999")
    refuse(path, damaged_files.join(text, sections), "costs must be finite")


def test_padding_must_be_zero(sound, path):
    header, sections = damaged_files.split(sound)
    end = header["nodes"][0]["scale"]["length"]
    refuse(
        path,
        damaged_files.join(header, sections[:end] + b"\1" + sections[end + 1 :]),
        "bytes between sections must be zero",
    )
    content = bytearray(
        damaged_files.join(json.dumps(header) + " " * (63 - len(json.dumps(header)) % 64), sections)
    )
    (header_bytes,) = struct.unpack("<I", content[12:16])
    content[damaged_files.START + header_bytes] = 1
    refuse(path, damaged_files.seal(bytes(content)), "bytes behind the header must be zero")


HEADERS = {
    "not UTF-8": (b'{"nodes": "\xff"}', "not UTF-8"),
    "a byte order mark": ("\ufeff{}".encode(), "not JSON"),
    "UTF-16": ('{"nodes": []}'.encode("utf-16-le"), "not JSON|not UTF-8"),
    "empty": (b"", "not JSON"),
    "not closed": (b'{"nodes": [', "not JSON"),
    "no object": (b"[]", '"nodes"'),
    "a number": (b"1", '"nodes"'),
    "two texts": (b'{"nodes": []} {}', "not JSON"),
    "a key twice": (b'{"nodes": [], "nodes": []}', "key twice"),
    "deep lists": (b"[" * 2**20, "nested too deeply"),
    "deep objects": (b'{"nodes":' * 2**18, "nested too deeply"),
    "a huge number": (b'{"nodes": [' + b"9" * 2**20 + b"]}", "too long"),
    "a huge negative number": (b'{"nodes": [-' + b"9" * 5000 + b"]}", "too long"),
    "NaN": (b'{"nodes": NaN}', "number NaN"),
    "minus infinity": (b'{"nodes": -Infinity}', "number -Infinity"),
    "many lists": (b'{"nodes": [' + b"[]," * 2**20 + b"[]]}", "a graph may have 16384 nodes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_are_refused(path, case):
    header, message = HEADERS[case]
    refuse(path, damaged_files.join(header, b"", version=1), message)


def test_the_prefix(sound, path):
    header, sections = damaged_files.split(sound)
    refuse(path, b"PK\3\4" + sound[4:], "not a model.tfprune: it begins with other bytes")
    refuse(path, damaged_files.join(header, sections, version=5), "version 5.*a newer tfprune can read it")
    refuse(
        path,
        damaged_files.join(header, sections, version=0),
        "version 0, and this runtime reads versions 1 to 4$",
    )
    refuse(path, damaged_files.join(header, sections, size=2**60), "should have 1152921504606846976")
    for header_bytes in (9 * len(sound), 2**22 + 1, 2**32 - 1):
        refuse(path, damaged_files.join(header, sections, header_bytes=header_bytes), "too long")
    refuse(
        path, damaged_files.join(json.dumps(header) + " " * 2**22, sections), "header of .* bytes is too long"
    )
    refuse(path, sound[:24] + bytes(32) + sound[56:], "its checksum is wrong")


def test_a_few_bytes_that_stand_for_much_memory(path):
    """The largest sparse kernel that the format allows, empty, is no reason to hang or to fail."""
    header = {
        "nodes": [
            {
                "type": "Input",
                "name": "image",
                "inputs": [],
                "shape": [1, 1, 2**14],
                "scale": (vector := {"shape": [2**14], "dtype": "float32", "encoding": "dense"}),
                "shift": dict(vector),
            },
        ]
    }
    sections = b""
    for key in ("scale", "shift"):
        header["nodes"][0][key] = {
            **vector,
            "count": 2**14,
            "remainder_bits": 0,
            "offset": len(sections),
            "length": 2**16,
        }
        sections += np.ones(2**14, "<f4").tobytes()
    conv = {"type": "Conv", "name": "conv", "inputs": [0], "strides": [1, 1], "padding": [0] * 4}
    conv |= {"dilation": [1, 1], "groups": 1, "activation": "linear", "path": "sparse", "costs": {}}
    conv["kernel"] = {"shape": [1, 1, 2**14, 2**14], "dtype": "float16", "encoding": "sparse", "count": 0}
    conv["kernel"] |= {"remainder_bits": 0, "offset": len(sections), "length": 0}
    conv["bias"] = {**header["nodes"][0]["scale"], "offset": len(sections)}
    sections += np.ones(2**14, "<f4").tobytes()
    header["nodes"].append(conv)
    path.write_bytes(damaged_files.join(header, sections))
    assert len(read_file(path).nodes) == 2
