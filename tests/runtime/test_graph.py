"""Each rule of the graph, broken once."""

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest

from tests.support.networks import random_network
from tfprune.runtime.errors import GraphError
from tfprune.runtime.format.header import NODE_TYPES
from tfprune.runtime.graph import (
    Activation,
    Add,
    Combine,
    Concatenate,
    Constant,
    Conv,
    Embedding,
    Flatten,
    Gather,
    GlobalPool,
    Graph,
    Input,
    MatMul,
    Multiply,
    Normalize,
    Output,
    Pool,
    Quantize,
    Recurrent,
)
from tfprune.runtime.sparse_array import SparseArray


def ones(*shape):
    return np.ones(shape, np.float32)


IMAGE = Input("image", (), (6, 5, 2), ones(2), ones(2))
CONV = Conv("conv", (0,), ones(3, 3, 2, 4), ones(4))
NORM = Normalize("norm", (0,), "pixel", 1, True, 1e-3, ones(2), ones(2))
POOL = Pool("pool", (0,), "max", (2, 2), (2, 2))
SIGNAL = Gather("signal", (0,), (0,), (0, 2, 4), (0, 1) * 4)
LSTM = Recurrent("lstm", (1,), "lstm", ones(1, 1, 2, 8), ones(8))


def last_shape(*nodes):
    """Returns the shape of the last of the nodes, which need not give a vector."""
    graph = Graph((IMAGE, *nodes, GlobalPool("end", (len(nodes),), "max")))
    return graph.shapes()[-2]


def vector():
    return GlobalPool("vector", (0,), "average")


def mean(source=0):
    return Conv("mean", (source,), ones(1, 1, 2, 1), ones(1))


SHAPES = {
    "convolution": ([CONV], (4, 3, 4)),
    "strides": ([dataclasses.replace(CONV, strides=(2, 1))], (2, 3, 4)),
    "padding": ([dataclasses.replace(CONV, padding=(1, 0, 2, 1))], (5, 6, 4)),
    "dilation": ([dataclasses.replace(CONV, dilation=(2, 2))], (2, 1, 4)),
    "groups": ([dataclasses.replace(CONV, kernel=ones(3, 3, 1, 4), groups=2)], (4, 3, 4)),
    "residual": ([CONV, dataclasses.replace(CONV, inputs=(0, 1))], (4, 3, 4)),
    "pool": ([POOL], (3, 2, 2)),
    "padded pool": ([dataclasses.replace(POOL, padding=(0, 0, 0, 1))], (3, 3, 2)),
    "global pool": ([vector()], (1, 1, 2)),
    "add": ([Add("add", (0, 0, 0))], (6, 5, 2)),
    "multiply": ([Multiply("multiply", (0, 0))], (6, 5, 2)),
    "a factor a channel": ([vector(), Multiply("multiply", (0, 1))], (6, 5, 2)),
    "concatenate": ([Concatenate("concatenate", (0, 0, 0))], (6, 5, 6)),
    "activation": ([Activation("activation", (0,), "relu")], (6, 5, 2)),
    "softmax": ([vector(), Activation("activation", (1,), "softmax")], (1, 1, 2)),
    "softmax of an image": ([Activation("activation", (0,), "softmax")], (6, 5, 2)),
    "a number a pixel": ([mean(), Combine("combine", (0, 1), "maximum")], (6, 5, 2)),
    "a number for all": ([vector(), mean(1), Combine("combine", (0, 2), "add")], (6, 5, 2)),
    "constant": ([Constant("constant", (), ones(3, 2, 1))], (3, 2, 1)),
    "rows below rows": ([Concatenate("concatenate", (0, 0), 0)], (12, 5, 2)),
    "gather": ([Gather("gather", (0,), (50, 0), (0, 2, 4), (1,))], (2, 3, 1)),
    "matrices": (
        [Gather("gather", (0,), tuple(range(0, 60, 10)), (0, 2, 4), (0, 1)), MatMul("matmul", (0, 1))],
        (6, 5, 3),
    ),
    "normalization": ([NORM], (6, 5, 2)),
    "embedding": ([SIGNAL, Embedding("table", (1,), ones(1, 1, 9, 5))], (3, 8, 5)),
    "states": ([SIGNAL, LSTM], (1, 3, 2)),
    "masked states": (
        [
            SIGNAL,
            Gather("mask", (0,), (0,), (0,), (0, 1, 0)),
            dataclasses.replace(LSTM, inputs=(1, 2), masked=True),
        ],
        (1, 3, 2),
    ),
    "memories and states": ([SIGNAL, dataclasses.replace(LSTM, memory=True)], (1, 3, 4)),
    "flatten": ([Flatten("flatten", (0,))], (1, 1, 60)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case):
    nodes, shape = SHAPES[case]
    assert last_shape(*nodes) == shape


def test_random_networks_are_valid_and_cover_all():
    for seed in range(20):
        graph = random_network(np.random.default_rng(seed), version=3)
        assert graph.shapes()[-1][:2] == (1, 1)
        assert {type(node) for node in graph.nodes} == set(NODE_TYPES.values())


def conv(**changes):
    return [dataclasses.replace(CONV, **changes)]


def pool(**changes):
    return [dataclasses.replace(POOL, **changes)]


def norm(**changes):
    return [dataclasses.replace(NORM, **changes)]


def steps(step, **changes):
    return [Quantize("steps", (0,), step), dataclasses.replace(CONV, inputs=(1,), path="int8", **changes)]


def recur(**changes):
    return [SIGNAL, dataclasses.replace(LSTM, **changes)]


def nan(*shape):
    return np.full(shape, np.nan, np.float32)


WRONG = {
    "residual's shape": (conv(inputs=(0, 0)), "residual must have"),
    "three inputs": (conv(inputs=(0, 0, 0)), "one input and perhaps"),
    "no inputs": (conv(inputs=()), "one input and perhaps"),
    "zero strides": (conv(strides=(0, 1)), "`strides` must be 2 integers of at least 1"),
    "one stride": (conv(strides=(1,)), "`strides`"),
    "strides of another kind": (conv(strides=(1.0, 1)), "`strides`"),
    "true strides": (conv(strides=(True, 1)), "`strides`"),
    "huge strides": (conv(strides=(2**16, 1)), "`strides`"),
    "zero dilation": (conv(dilation=(1, 0)), "`dilation`"),
    "negative padding": (conv(padding=(0, 0, -1, 0)), "`padding` must be 4 integers of at least 0"),
    "zero groups": (conv(groups=0), "`groups`"),
    "groups": (conv(groups=2), "do not fit a kernel of 2 input channels in 2 groups"),
    "filters in groups": (conv(kernel=ones(3, 3, 1, 3), bias=ones(3), groups=2), "3 filters do not fit"),
    "activation": (conv(activation="swish"), "one of linear, relu.*'swish'"),
    "settings": (conv(activation="elu", settings=(1.0, 2.0)), "`settings` of elu must be 1 float32 numbers"),
    "settings of none": (conv(settings=(1.0,)), "`settings` of linear must be 0"),
    "settings that are no numbers": (
        conv(activation="clip", settings=(0.0, "1")),
        "`settings` of clip must be 2",
    ),
    "infinite settings": (conv(activation="elu", settings=(float("inf"),)), "`settings`"),
    "settings of an add": ([Add("add", (0, 0), "relu", (1.0,))], "`settings` of relu"),
    "path": (conv(path="fast"), "one of sparse, dense.*'fast'"),
    "a single stride": (conv(strides=1), "`strides` must be 2 integers"),
    "costs of another path": (conv(costs={"fast": 1.0}), "one of sparse, dense.*'fast'"),
    "costs without a value": (conv(costs={"dense": float("nan")}), "`costs` must be microseconds"),
    "a kernel that is no array": (conv(kernel=[[[[1.0] * 4] * 2]]), "`kernel` must be an array"),
    "a bias that is no array": (conv(bias=[0.0] * 4), "`bias` must be an array"),
    "kernel's axes": (conv(kernel=ones(3, 2, 4)), "4 axes"),
    "empty kernel": (conv(kernel=ones(3, 0, 2, 4)), "4 axes, none empty"),
    "kernel's values": (conv(kernel=nan(3, 3, 2, 4)), "`kernel` must be finite"),
    "kernel's type": (conv(kernel=np.ones((3, 3, 2, 4))), "`kernel` must be float32"),
    "bias's shape": (conv(bias=ones(3)), "`bias` must be"),
    "enormous window": (
        conv(kernel=SparseArray((2**9, 2**9, 2, 4), np.zeros(0, np.int64), np.zeros(0, np.float32))),
        "a window may have 16384 elements. Received: 512 x 512",
    ),
    "large window": (conv(kernel=ones(7, 3, 2, 4)), "does not fit"),
    "pool's kind": (pool(kind="median"), "one of max, average"),
    "pool's size": (pool(size=(0, 2)), "`size`"),
    "pool's strides": (pool(strides=(2,)), "`strides`"),
    "pool's padding": (pool(padding=(0, 0, 0, -1)), "`padding`"),
    "padding of a window's size": (pool(padding=(0, 2, 0, 0)), "`padding` must be below `size`"),
    "padding of a window's width": (pool(padding=(0, 0, 2, 0)), "`padding` must be below `size`"),
    "padding that counts perhaps": (pool(padding_counts="no"), "must be true or false"),
    "large pool": (pool(size=(2, 6)), "does not fit"),
    "pool's inputs": (pool(inputs=(0, 0)), "takes 1 inputs"),
    "global pool's kind": ([GlobalPool("pool", (0,), "sum")], "one of max, average"),
    "global pool's inputs": ([GlobalPool("pool", (), "max")], "takes 1 inputs"),
    "one summand": ([Add("add", (0,))], "two or more"),
    "unequal summands": ([CONV, Add("add", (0, 1))], "one shape"),
    "add's activation": ([Add("add", (0, 0), "no")], "'no'"),
    "one factor": ([Multiply("multiply", (0,))], "takes 2 inputs"),
    "unequal factors": ([CONV, Multiply("multiply", (0, 1))], "one factor a channel"),
    "the factors first": ([vector(), Multiply("multiply", (1, 0))], "one factor a channel"),
    "one part": ([Concatenate("concatenate", (0,))], "two or more"),
    "unequal parts": ([POOL, Concatenate("concatenate", (0, 1))], "one height and width"),
    "activation's name": ([Activation("activation", (0,), "no")], "'no'"),
    "activation's inputs": ([Activation("activation", (0, 0), "relu")], "takes 1 inputs"),
    "flatten's inputs": ([Flatten("flatten", (0, 0))], "takes 1 inputs"),
    "a later node": ([Flatten("flatten", (1,))], r"nodes before it \(1\). Received: 1"),
    "a negative node": ([Flatten("flatten", (-1,))], "nodes before it"),
    "a late image": ([CONV, dataclasses.replace(IMAGE, name="late")], "the first nodes, and only the first"),
    "an image of other numbers": ([dataclasses.replace(IMAGE, name="b", given=(6, 9))], "`given` must be"),
    "an image of many axes": (
        [dataclasses.replace(IMAGE, name="b", given=(1,) * 6 + (60, 1, 1))],
        "at most 8",
    ),
    "an operation": (
        [vector(), Combine("combine", (0, 1), "divide")],
        "one of add, multiply, maximum, minimum",
    ),
    "one operand": ([Combine("combine", (0,), "add")], "takes 2 inputs"),
    "operands that do not fit": ([CONV, Combine("combine", (0, 1), "add")], "for each pixel or for all"),
    "the smaller operand first": ([vector(), Combine("combine", (1, 0), "add")], "for each pixel or for all"),
    "a flat constant": ([Constant("constant", (), ones(3))], "`value` must have 3 axes"),
    "a constant of an input": ([Constant("constant", (0,), ones(1, 1, 3))], "takes 0 inputs"),
    "a constant without sense": ([Constant("constant", (), nan(1, 1, 3))], "`value` must be finite"),
    "an axis": ([Concatenate("concatenate", (0, 0), 3)], "`axis` must be 0, 1 or 2"),
    "parts of two heights": ([POOL, Concatenate("concatenate", (0, 1), 1)], "one height and channels"),
    "nothing gathered": ([Gather("gather", (0,), (), (0,), (0,))], "`rows` must be integers, at least one"),
    "gathered before": ([Gather("gather", (0,), (0,), (-2,), (0,))], "`columns` must be 0 to"),
    "gathered behind": ([Gather("gather", (0,), (50,), (8,), (2,))], r"must lie within \(6, 5, 2\)"),
    "gathered from the next row": ([Gather("gather", (0,), (8,), (2,), (0,))], r"within .*\(0, 5, 0\)"),
    "places of another kind": ([Gather("gather", (0,), (0,), (0.0,), (0,))], "`columns` must be integers"),
    "one matrix": ([MatMul("matmul", (0,))], "takes 2 inputs"),
    "matrices that do not fit": ([CONV, MatMul("matmul", (0, 1))], "one height and as many channels"),
    "normalized together": (norm(over="row"), "one of pixel, image"),
    "groups of channels": (norm(groups=3), "2 channels are not 3 groups"),
    "no groups": (norm(groups=0), "`groups`"),
    "epsilon": (norm(epsilon=0.0), "`epsilon` must be"),
    "centered": (norm(centered=1), "`centered` must be true or false"),
    "normalization's scale": (norm(scale=ones(3)), "`scale` must be"),
    "normalization's shift": (norm(shift=nan(2)), "`shift` must be finite"),
    "a table": ([vector(), Embedding("table", (1,), ones(2, 1, 3, 4))], r"\[1, 1, rows, channels\]"),
    "a table's values": ([vector(), Embedding("table", (1,), nan(1, 1, 3, 4))], "must be finite"),
    "numbers in rows": ([Embedding("table", (0,), ones(1, 1, 3, 4))], "must have one row"),
    "a cell": (recur(cell="rnn"), "one of simple, lstm, gru, gru_reset_before.*'rnn'"),
    "a cell's inputs": (recur(inputs=(1, 1)), "perhaps 2 first states. Received: 2 inputs"),
    "a mask of none": (recur(masked=True), "2 first states, and a mask. Received: 1 inputs"),
    "a mask's steps": (recur(inputs=(1, 1), masked=True), "mask must be a vector of 3. Received"),
    "perhaps a mask": (recur(masked=1), "`masked` must be true or false"),
    "a cell's kernel": (recur(kernel=ones(1, 1, 3, 8)), "`kernel` must be float32"),
    "a flat kernel of a cell": (recur(kernel=ones(2, 8)), "4 axes"),
    "a cell's bias": (recur(bias=nan(8)), "`bias` must be finite"),
    "a cell's gates": (recur(cell="gru"), "`kernel` must be float32"),
    "a cell's signal": (recur(inputs=(0,)), r"signal must be \[1, time, 8\]"),
    "a cell's first states": (recur(inputs=(1, 1, 1)), "vectors of 2"),
    "a cell's activation": (recur(activation="softmax"), "value by value. Received: softmax"),
    "a cell's gates' activation": (recur(gate_activation="no"), "'no'"),
    "a cell's gates' settings": (recur(gate_settings=(1.0,)), "`settings` of sigmoid"),
    "memory of none": (
        [SIGNAL, dataclasses.replace(LSTM, cell="simple", kernel=ones(1, 1, 8, 8), memory=True)],
        "`memory` must be false, or true of an LSTM",
    ),
    "perhaps memory": (recur(memory=1), "`memory`"),
    "a cell's path": (recur(path="fast"), "one of sparse, dense"),
    "a cell's costs": (recur(costs={"dense": -1.0}), "`costs`"),
    "no step": ([Quantize("steps", (0,), 0.0)], r"float32 from 2\*\*-40 to 2\*\*40. Received: 0.0"),
    "a step of another kind": ([Quantize("steps", (0,), 1)], "`step`"),
    "a step beyond float32": ([Quantize("steps", (0,), 0.1)], "`step`"),
    "too large a step": ([Quantize("steps", (0,), 2.0**41)], "`step`"),
    "steps of two": ([Quantize("steps", (0, 0), 1.0)], "takes 1 inputs"),
    "whole numbers of float32": (conv(path="int8"), "on the path 'int8' its input must be a Quantize"),
    "whole numbers of a vector": (
        steps(0.5, kernel=ones(6, 5, 2, 4)),
        "on the path 'int8' its values must have several pixels",
    ),
    "a cell of whole numbers": (recur(path="int8"), "one of sparse, dense"),
    "too large a value": (
        conv(kernel=ones(1, 1, 2, 1), bias=ones(1), padding=(2**15,) * 4),
        "more than 2147483647 numbers",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_broken_rule_is_an_error_that_names_the_node(case):
    nodes, message = WRONG[case]
    with pytest.raises(GraphError, match=message) as error:
        last_shape(*nodes)
    assert str(error.value).startswith(f"{type(nodes[-1]).__name__} {nodes[-1].name!r}: ")


def test_a_sum_of_whole_numbers_fits_32_bits():
    image = dataclasses.replace(IMAGE, shape=(9, 9, 5), scale=ones(5), shift=ones(5))
    padding, bias = (60,) * 4, ones(1)
    for rows, refused in ((115, False), (116, True)):
        kernel = SparseArray((rows, 115, 5, 1), np.zeros(0, np.int64), ones(0))
        conv = Conv("conv", (1,), kernel, bias, padding=padding, path="int8")
        graph = Graph((image, Quantize("steps", (0,), 0.5), conv, GlobalPool("end", (2,), "max")))
        with pytest.raises(GraphError, match="66311 products. Received: 66700") if refused else nullcontext():
            graph.shapes()


WRONG_IMAGES = {
    "inputs": ({"inputs": (0,)}, "before it"),
    "two sizes": ({"shape": (6, 5)}, "`shape` must be 3 integers"),
    "no rows": ({"shape": (0, 5, 2)}, "`shape`"),
    "scale": ({"scale": ones(3)}, "`scale`"),
    "shift": ({"shift": nan(2)}, "`shift`"),
}


@pytest.mark.parametrize("case", WRONG_IMAGES)
def test_wrong_images(case):
    changes, message = WRONG_IMAGES[case]
    with pytest.raises(GraphError, match=message):
        Graph((dataclasses.replace(IMAGE, **changes), vector())).shapes()


def test_a_graph_begins_with_an_image_and_ends_in_a_vector():
    with pytest.raises(GraphError, match="1 to 16384 nodes"):
        Graph(()).shapes()
    with pytest.raises(GraphError, match="must be an Input"):
        Graph((dataclasses.replace(vector(), inputs=()),)).shapes()
    with pytest.raises(GraphError, match=r"the last node must give a vector.*\(4, 3, 4\)"):
        Graph((IMAGE, CONV)).shapes()


OUTPUTS = {
    "no such node": (Output("a", 9, (2,)), "must be a node that gives a vector"),
    "a negative node": (Output("a", -1, (2,)), "must be a node that gives a vector"),
    "an image": (Output("a", 0, (60,)), "must be a node that gives a vector"),
    "another size": (
        Output("a", 1, (3,)),
        "Output 'a': `shape` must be at most 8 sizes above 0 of 2 numbers",
    ),
    "a size below 1": (Output("a", 1, (-1, -2)), "`shape`"),
    "a size of another kind": (Output("a", 1, (2.0,)), "`shape`"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_wrong_outputs(case):
    output, message = OUTPUTS[case]
    with pytest.raises(GraphError, match=message):
        Graph((IMAGE, vector()), (output,)).shapes()


def test_several_inputs_and_outputs_are_told_apart():
    one, two = Output("one", 1, (2,)), Output("two", 2, (1, 60))
    graph = Graph((IMAGE, vector(), Flatten("flat", (0,))), (one, two))
    assert graph.shapes()[1:] == [(1, 1, 2), (1, 1, 60)]
    for outputs in ((one, dataclasses.replace(two, name="one")), (one, dataclasses.replace(one, name="two"))):
        with pytest.raises(GraphError, match="different n"):
            dataclasses.replace(graph, outputs=outputs).shapes()
    other = dataclasses.replace(IMAGE, name="other", given=(3, 20))
    joined = Concatenate("joined", (0, 1))
    graph = Graph((IMAGE, other, joined, dataclasses.replace(vector(), inputs=(2,))))
    assert graph.shapes()[-1] == (1, 1, 4) and graph.inputs == (IMAGE, other)
    with pytest.raises(GraphError, match="inputs must have different names"):
        Graph((IMAGE, IMAGE, joined, vector())).shapes()
