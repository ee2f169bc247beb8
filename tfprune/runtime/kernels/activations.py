"""The graph's activations on vectors."""

from collections.abc import Callable

from llvmlite import ir

from tfprune.runtime.kernels.emitter import I32, KernelEmitter

LEAKY_SLOPE = 0.2
# What the activations call, lane by lane.
C_FUNCTIONS = ("expf", "erff")
# Where the function is flat to float32 anyway; beyond it exp would overflow.
_LARGEST_EXPONENT = 88.0


def activate(e: KernelEmitter, name: str, x: ir.Value) -> ir.Value:
    """Emits an activation.

    Args:
        e: The kernel.
        name: One of the graph's `ACTIVATIONS`, but for softmax, which is a kernel of its own.
        x: A vector.

    Returns:
        The activated vector.
    """
    if name in _CALLING:
        return e.b.call(_as_function(e, name), [x])
    return _EMITTED[name](e, x)


def _as_function(e: KernelEmitter, name: str) -> ir.Function:
    """Returns the module's function of an activation, emitted once.

    In each place that uses it, the calls for each lane would take long to compile, and win nothing.
    """
    module = e.function.module
    function = module.globals.get(f"activation_{name}")
    if function is None:
        signature = ir.FunctionType(e.vector, [e.vector])
        function = ir.Function(module, signature, f"activation_{name}")
        function.linkage = "internal"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        with e.writing(builder):
            builder.ret(_EMITTED[name](e, function.args[0]))
    return function


def exponential(e: KernelEmitter, x: ir.Value) -> ir.Value:
    """Emits exp of a vector whose numbers are brought within [-88, 88] first."""
    bounded = e.maximum(e.constant(-_LARGEST_EXPONENT), e.minimum(e.constant(_LARGEST_EXPONENT), x))
    return lane_by_lane(e, "expf", bounded)


def lane_by_lane(e: KernelEmitter, function: str, x: ir.Value) -> ir.Value:
    """Emits a call of a C function for each lane."""
    result = ir.Constant(e.vector, ir.Undefined)
    for lane in range(e.lanes):
        index = ir.Constant(I32, lane)
        result = e.b.insert_element(result, e.call(function, e.b.extract_element(x, index)), index)
    return result


def _linear(_: KernelEmitter, x: ir.Value) -> ir.Value:
    return x


def _relu(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.maximum(e.constant(0), x)  # in this order, a NaN stays one


def _relu6(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.minimum(e.constant(6), _relu(e, x))


def _leaky_relu(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.maximum(e.b.fmul(x, e.constant(LEAKY_SLOPE)), x)


def _elu(e: KernelEmitter, x: ir.Value) -> ir.Value:
    below = e.b.fsub(exponential(e, _negative_part(e, x)), e.constant(1))
    return e.b.select(e.b.fcmp_ordered(">", x, e.constant(0)), x, below)


def _sigmoid(e: KernelEmitter, x: ir.Value) -> ir.Value:
    negative = e.b.fsub(e.constant(0), x)
    return e.b.fdiv(e.constant(1), e.b.fadd(e.constant(1), exponential(e, negative)))


def _hard_sigmoid(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fmul(_relu6(e, e.b.fadd(x, e.constant(3))), e.constant(1 / 6))


def _tanh(e: KernelEmitter, x: ir.Value) -> ir.Value:
    # 2 sigmoid(2x) - 1; its error is absolute, a rounding of numbers about 1.
    return e.b.fsub(e.b.fmul(_sigmoid(e, e.b.fadd(x, x)), e.constant(2)), e.constant(1))


def _silu(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fmul(x, _sigmoid(e, x))


def _hard_silu(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fmul(x, _hard_sigmoid(e, x))


def _gelu(e: KernelEmitter, x: ir.Value) -> ir.Value:
    erf = lane_by_lane(e, "erff", e.b.fmul(x, e.constant(0.5**0.5)))
    return e.b.fmul(e.b.fmul(x, e.constant(0.5)), e.b.fadd(erf, e.constant(1)))


def _negative_part(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.minimum(e.constant(0), x)


_EMITTED: dict[str, Callable[[KernelEmitter, ir.Value], ir.Value]] = {
    "linear": _linear,
    "relu": _relu,
    "relu6": _relu6,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "sigmoid": _sigmoid,
    "hard_sigmoid": _hard_sigmoid,
    "tanh": _tanh,
    "silu": _silu,
    "hard_silu": _hard_silu,
    "gelu": _gelu,
}
_CALLING = ("elu", "sigmoid", "tanh", "silu", "gelu")
