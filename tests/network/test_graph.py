"""Walks over layers, and the graph of a functional model."""

import keras
import pytest
from keras import layers

from tfprune.network.graph import (
    Graph,
    all_layers,
    call_counts,
    computed_graph,
    evaluate,
    functional,
    is_graph,
    producer,
    walk,
)


def names(found):
    return [layer.name for layer in found]


def nested():
    """image -> first -> inner(a -> join(a, b)) -> head, with `first` shared by two calls."""
    first = layers.Dense(4, name="first")
    inner_input = keras.Input((4,), name="inner_input")
    a = layers.Dense(4, name="a")(inner_input)
    inner = keras.Model(inner_input, layers.Add(name="join")([a, inner_input]), name="inner")
    image = keras.Input((4,), name="image")
    x = first(first(image))
    return keras.Model(image, layers.Dense(2, name="head")(inner(x)), name="outer")


class Block(keras.Model):
    def __init__(self):
        super().__init__(name="block")
        self.first = layers.Dense(3, name="first")
        self.pair = [layers.Dense(3, name="left"), layers.TimeDistributed(layers.Dense(3), name="right")]
        self.again = self.first


def test_the_walk_is_depth_first_in_the_order_of_the_model():
    found = names(walk(nested()))
    assert found == ["outer", "image", "first", "inner", "inner_input", "a", "join", "head"]
    assert names(walk(Block()))[:4] == ["block", "first", "left", "right"]
    assert len(names(walk(Block()))) == 5  # What `right` distributes over time.
    sequential = keras.Sequential([keras.Input((4,)), nested(), layers.Dense(1, name="last")], name="all")
    assert [name for name in names(walk(sequential)) if name in ("first", "a", "head", "last")] == [
        "first",
        "a",
        "head",
        "last",
    ]


def test_the_walk_goes_only_where_it_may_enter():
    found = names(walk(nested(), lambda layer: layer.name != "inner"))
    assert found == ["outer", "image", "first", "inner", "head"]


def test_all_layers_are_those_of_the_walk():
    for model in (nested(), Block()):
        assert all_layers(model)[0] is model
        assert {id(layer) for layer in all_layers(model)} == {id(layer) for layer in walk(model)}
        assert len(all_layers(model)) == len(list(walk(model)))


class OwnCall(keras.Model):
    def call(self, inputs):
        return inputs + 1


def test_functional_models_are_told_from_others():
    model = nested()
    assert functional(model) is computed_graph(model) is model and is_graph(model)
    built = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert names(functional(built).layers)[1:] == names(built.layers)
    assert computed_graph(built) is functional(built)
    unbuilt = keras.Sequential([layers.Dense(2)])
    assert functional(unbuilt) is computed_graph(unbuilt) is None and is_graph(unbuilt)
    for other in (Block(), layers.Dense(2), None):
        assert functional(other) is None and not is_graph(other)
    image = keras.Input((4,))
    own = OwnCall(image, layers.Dense(2)(image))
    assert functional(own) is own and computed_graph(own) is None


def test_calls_and_producers():
    model = nested()
    counts = call_counts(model)
    assert counts[id(model.get_layer("first"))] == 2 and counts[id(model.get_layer("head"))] == 1
    assert producer(model.output) is model.get_layer("head")


def test_calls_are_counted_inside_models_and_layers_too():
    inner_input, image = keras.Input((4,)), keras.Input((4,))
    inner = keras.Model(inner_input, layers.Dense(4, name="inside")(inner_input))
    spread = layers.TimeDistributed(layers.Dense(4))
    model = keras.Model(image, spread(layers.Reshape((2, 2))(inner(inner(inner(image))))))
    counts = call_counts(model)
    assert counts[id(inner.get_layer("inside"))] == 3
    assert counts[id(spread.layer)] == 1


def test_values_run_through_a_model():
    """As the text of the calls; keyword arguments and constants stay what they are."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = layers.Concatenate(name="join")([b, a])
    y = layers.Dropout(0.5, name="drop")(x, training=True)
    model = keras.Model([a, b], [y * 2.0, x])
    seen = []

    def call(step):
        seen.append((step.operation.name, step.args, step.kwargs, step.inputs))
        return [f"{step.operation.name}({'+'.join(step.inputs)})"]

    outputs = evaluate(model, ["A", "B"], call)
    assert outputs[1] == "join(B+A)" and outputs[0].endswith("(drop(join(B+A)))")
    assert seen[0] == ("join", (["B", "A"],), {}, ["B", "A"])
    assert seen[1][2] == {"training": True} and seen[2][1] == ("drop(join(B+A))", 2.0)


def test_nested_models_are_opened_and_shared_layers_are_one_node():
    model = nested()
    graph = Graph(model)
    first, head = model.get_layer("first"), model.get_layer("head")
    a, join = (model.get_layer("inner").get_layer(name) for name in ("a", "join"))
    assert names(graph.inputs) == ["image"] and graph.outputs == [head]
    assert names(graph.operations) == ["first", "a", "join", "head"]
    assert names(graph.producers(first)) == ["image", "first"]
    assert graph.consumers(first) == [first, a, join]
    assert graph.producers(join) == [a, first]
    assert graph.consumers(head) == [] and graph.producers(graph.inputs[0]) == []


def test_a_nested_model_with_a_call_of_its_own_stays_closed():
    image = keras.Input((4,))
    own = OwnCall(image, layers.Dense(2)(image), name="own")
    outer = keras.Input((4,))
    assert names(Graph(keras.Model(outer, own(outer))).operations) == ["own"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_another_node_may_stand_for_a_layer(wrapped):
    image = keras.Input((3, 4))
    inner = layers.Dense(2, name="inner")
    outputs = layers.Dense(1, name="head")(layers.TimeDistributed(inner, name="outer")(image))
    graph = Graph(keras.Model(image, outputs), lambda op: getattr(op, "layer", op) if wrapped else op)
    assert names(graph.operations) == ["inner" if wrapped else "outer", "head"]
