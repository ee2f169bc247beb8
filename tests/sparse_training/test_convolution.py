"""The convolution of the sparse trainer against sums written out, over shapes, strides and groups."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.calls import Arena, Bound
from tfprune.runtime import machine
from tfprune.runtime.kernels import program
from tfprune.sparse_training import convolution
from tfprune.sparse_training.convolution import Convolution, Relu, Statistics
from tfprune.sparse_training.graph import Kernel, Shape, Window
from tfprune.sparse_training.layout import Layout, halo_of_gradient, halo_of_input

pytestmark = pytest.mark.one_backend

_X86 = "x86_64" in machine.host().triple
MACHINES = [machine.host()]
if _X86:
    MACHINES.append(machine.machine(machine.host().triple, "x86-64"))


# A vector that is put on the stack, in the assembly language of x86 and of Arm.
SPILLED_VECTOR = r"vmovups?\s+%[yz]mm\d+, -?\d*\(%rsp\)|st[rp]\s+q\d+,[^\n]*\[sp"


class Case:
    """A convolution with numbers, and what it should give."""

    def __init__(self, shape, window, filters, groups, density, tiles, images, seed):
        self.shape, self.window, self.groups = shape, window, groups
        random = np.random.default_rng(seed)
        dense_shape = (*window.size, shape.channels // groups, filters * groups)
        size = int(np.prod(dense_shape))
        positions = None if density == 1 else np.flatnonzero(random.random(size) < density)
        kept = size if positions is None else len(positions)
        self.kernel = Kernel("k", dense_shape, random.normal(size=kept).astype(np.float32), positions)
        out = Shape(*window.positions(shape), filters * groups)
        self.source = Layout(shape, tiles, images, halo_of_input(window, shape))
        self.target = Layout(out, tiles, images, halo_of_gradient(window, shape))
        batch = tiles * images
        self.x = random.normal(size=(batch, *shape)).astype(np.float32)
        self.dy = random.normal(size=(batch, *out)).astype(np.float32)
        self.present = batch - int(random.integers(0, images))
        self.random = random

    def weights(self):
        whole = np.zeros(self.kernel.size, np.float64)
        at = slice(None) if self.kernel.positions is None else self.kernel.positions
        whole[at] = self.kernel.values
        return whole.reshape(self.kernel.shape)

    def reference(self):
        """Returns the output, the input's gradient and that of the whole kernel, in float64."""
        height, width, channels = self.shape
        rows, columns, outputs = self.target.shape
        top, bottom, left, right = self.window.padding
        x = np.pad(self.x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
        w, dy = self.weights(), self.dy.astype(np.float64)
        y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
        ins, outs = channels // self.groups, outputs // self.groups
        for h in range(self.window.size[0]):
            for v in range(self.window.size[1]):
                r, c = h * self.window.dilation[0], v * self.window.dilation[1]
                see = (
                    slice(None),
                    slice(r, r + (rows - 1) * self.window.strides[0] + 1, self.window.strides[0]),
                    slice(c, c + (columns - 1) * self.window.strides[1] + 1, self.window.strides[1]),
                )
                for g in range(self.groups):
                    i, o = slice(g * ins, (g + 1) * ins), slice(g * outs, (g + 1) * outs)
                    y[..., o] += x[see][..., i] @ w[h, v, :, o]
                    dx[see][..., i] += dy[..., o] @ w[h, v, :, o].T
                    dw[h, v, :, o] = np.einsum("nhwi,nhwo->io", x[see][..., i], dy[..., o])
        return y, dx[:, top : top + height, left : left + width], dw


def windows():
    side = st.integers(1, 3)
    return st.builds(
        lambda size, strides, padding, dilation: Window(size, strides, padding, dilation),
        st.tuples(side, side),
        st.tuples(side, side),
        st.tuples(*[st.integers(0, 2)] * 4),
        st.tuples(st.integers(1, 2), st.integers(1, 2)),
    )


def cases():
    def make(height, width, window, ins, filters, groups, density, tiles, images, seed):
        shape = Shape(height, width, ins * groups)
        # A window no larger than the padded image.
        size = [
            max(t for t in range(1, taps + 1) if (t - 1) * rate + 1 <= side + before + after)
            for taps, rate, side, before, after in zip(
                window.size,
                window.dilation,
                shape[:2],
                window.padding[::2],
                window.padding[1::2],
                strict=True,
            )
        ]
        return Case(shape, window._replace(size=tuple(size)), filters, groups, density, tiles, images, seed)

    return st.builds(
        make,
        st.integers(1, 9),
        st.integers(1, 9),
        windows(),
        st.integers(1, 5),
        st.integers(1, 9),
        st.integers(1, 3),
        st.sampled_from([0, 0.1, 0.5, 1]),
        st.integers(1, 5),
        st.sampled_from([16, 32, 64]),
        st.integers(0, 99),
    )


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * max(1, np.abs(wanted).max(initial=0)))


def halo_is_zero(layout, buffer):
    buffer = buffer.copy()
    layout.view(buffer)[:] = 0
    return not buffer.any()


def run(case, target, dense, threads=1):
    """Returns all that a convolution computes: output, both gradients, both partial sums."""
    conv = Convolution(case.kernel, case.window, case.groups, case.source, case.target, target, dense=dense)
    arena, lanes = Arena(), target.lanes
    x, dy = arena.add(case.source.pack(case.x)), arena.add(case.target.pack(case.dy))
    y, dx = arena.add(case.target.pack(case.dy)), arena.add(case.source.pack(case.x))
    old, z = case.random.normal(size=(2, *case.x.shape)).astype(np.float32)
    before, z_place = arena.add(case.source.pack(old)), arena.add(case.source.pack(z))
    mask = (np.arange(case.source.tiles * case.source.images) < case.present).astype(np.float32)
    mask_place = arena.add(mask)
    outputs, inputs = case.target.shape.channels, case.shape.channels
    forward_sums = np.full((conv.forward_slots, 2, outputs, lanes), 9, np.float32)
    gradient_sums = np.full((conv.gradient_slots, 2, inputs, lanes), 9, np.float32)
    forward_place, gradient_place = arena.add(forward_sums), arena.add(gradient_sums)
    partials = arena.add(np.full(conv.partials, 7, np.float32))
    bias, center = case.random.normal(size=(2, outputs)).astype(np.float32)
    mean, scale, shift = case.random.normal(size=(3, inputs)).astype(np.float32)
    gradients = np.full(len(case.kernel.values), 5, np.float32)
    added = arena.add(case.source.pack(old))
    clipped = arena.add(case.target.pack(case.dy))
    calls = [
        *conv.refresh(np.ascontiguousarray(case.kernel.values)),
        *conv.forward(x, y, bias=bias, statistics=Statistics(forward_place, center, mask=mask_place)),
        *conv.input_gradient(dy, dx),
        *conv.input_gradient(
            dy,
            before,
            accumulate=True,
            relu=Relu(scale=scale, shift=shift),
            statistics=Statistics(gradient_place, mean, z=z_place),
        ),
        *conv.input_gradient(dy, added, accumulate=True, relu=Relu(x, limit=0.5), past_caches=True),
        *conv.forward(x, clipped, activation="relu6", past_caches=True),
        *conv.weights_gradient(x, dy, gradients, partials),
    ]
    whole = arena.array()
    Bound(calls, target, threads).run(whole)

    def taken(place, layout):
        buffer = whole[place : place + layout.numbers]
        assert halo_is_zero(layout, buffer)
        return layout.unpack(buffer)

    found = {
        "y": taken(y, case.target),
        "dx": taken(dx, case.source),
        "all": taken(before, case.source),
        "relu": taken(added, case.source),
        "clipped": taken(clipped, case.target),
        "dw": gradients,
        "forward sums": whole[forward_place:][: forward_sums.size].reshape(forward_sums.shape),
        "gradient sums": whole[gradient_place:][: gradient_sums.size].reshape(gradient_sums.shape),
    }
    wanted_y, wanted_dx, wanted_dw = case.reference()
    clipped_y = np.clip(wanted_y, 0, 6)
    wanted_y = wanted_y + bias
    every = np.where(z * scale + shift > 0, wanted_dx + old, 0)
    here = (wanted_y - center)[: case.present]
    wanted = {
        "y": wanted_y,
        "dx": wanted_dx,
        "all": every,
        "relu": np.where((case.x > 0) & (case.x < 0.5), wanted_dx + old, 0),
        "clipped": clipped_y,
        "dw": wanted_dw.ravel()
        if case.kernel.positions is None
        else wanted_dw.ravel()[case.kernel.positions],
        "forward sums": np.stack([here.sum((0, 1, 2)), (here**2).sum((0, 1, 2))]),
        "gradient sums": np.stack([every.sum((0, 1, 2)), (every * (z - mean)).sum((0, 1, 2))]),
    }
    return found, wanted


def compare(found, wanted):
    for name in ("forward sums", "gradient sums"):
        found[name] = found[name].astype(np.float64).sum((0, 3))
    for name, numbers in wanted.items():
        close(found[name], numbers)


@pytest.mark.parametrize("target", MACHINES, ids=lambda target: f"{target.lanes} lanes")
@pytest.mark.parametrize("dense", [False, True])
@given(case=cases())
@settings(max_examples=4, deadline=None)
def test_the_sums_are_those_written_out(case, dense, target):
    compare(*run(case, target, dense))


@pytest.mark.parametrize(("dense", "density"), [(False, 0.15), (True, 1)])
def test_blocks_of_channels_wait_in_the_target(dense, density, monkeypatch):
    monkeypatch.setattr(convolution, "_AHEAD_BYTES", 0)
    window = Window((3, 3), padding=(1, 1, 1, 1))
    case = Case(Shape(6, 6, 48), window, 48, 1, density, 2, 16, seed=1)
    conv = Convolution(case.kernel, window, 1, case.source, case.target, machine.host(), dense=dense)
    assert conv.blocks > 1
    compare(*run(case, machine.host(), dense))


@pytest.mark.parametrize("dense", [False, True])
def test_the_results_do_not_depend_on_the_threads(dense):
    window = Window((3, 3), strides=(2, 2), padding=(0, 1, 1, 1))
    case = Case(Shape(7, 8, 6), window, 9, 1, 0.4, 3, 16, seed=2)
    state = case.random.bit_generator.state
    found = []
    for threads in (1, 2, 3):
        case.random.bit_generator.state = state
        found.append(run(case, machine.host(), dense, threads)[0])
    for other in found[1:]:
        for name, numbers in found[0].items():
            np.testing.assert_array_equal(numbers, other[name])


@pytest.mark.parametrize(
    ("triple", "cpu", "features", "wide"),
    [
        ("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx2,+fma,+avx512f,+avx512vl", "%zmm"),
        ("aarch64-unknown-linux-gnu", "generic", "", "fmla"),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_other_machines_keep_the_sums_in_their_registers(dense, triple, cpu, features, wide):
    target = machine.machine(triple, cpu, features)
    case = Case(Shape(4, 8, 8), Window((3, 3), padding=(1, 1, 1, 1)), 24, 1, 0.3, 1, 16, seed=3)
    conv = Convolution(case.kernel, case.window, 1, case.source, case.target, target, dense=dense)
    forward, *others = [*conv.forward(0, 0), *conv.weights_gradient(0, 0, 0, 0)]
    text = machine.machine_assembly(program.assembly([forward.kernel], target.lanes), target)
    assert wide in text
    assert not re.search(SPILLED_VECTOR, text)
    assert machine.object_code(program.assembly([call.kernel for call in others], target.lanes), target)
