"""The graph's activations on vectors."""

import math
from collections.abc import Callable, Sequence

from llvmlite import ir

from tfprune.runtime.kernels.emitter import I32, KernelEmitter

LEAKY_SLOPE = 0.2
# Where the function is flat to float32 anyway; beyond it exp would overflow.
_LARGEST_EXPONENT = 88.0
# The natural logarithm of 2 in two parts: whole numbers of at most 8 bits times the first are exact.
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.4286068203094172e-06
# Added to a small number, it leaves the nearest whole number in the lowest bits.
_ROUNDER = 1.5 * 2**23
_EXPONENT_BIAS, _MANTISSA_BITS = 127, 23
# Of exp's series; within half of ln 2 what is left out is 5e-9 of the result.
_EXP_DEGREE = 7
# erf(x) = 1 - (a1 t + ... + a5 t^5) exp(-x^2) for x >= 0, t = 1 / (1 + p x), to 1.5e-7 and the rounding:
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
_ERF_P = 0.3275911
_ERF_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


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

    In each place that uses it, its code would take long to compile, and win little.
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
    """Emits exp of a vector whose numbers are brought within [-88, 88] first.

    No C library is asked, so that code compiled for any machine computes alike: x = n ln 2 + r with n whole,
    and exp(x) = 2^n exp(r). Below 1e-38 the result is zero.
    """
    b, bits = e.b, ir.VectorType(I32, e.lanes)
    x = e.maximum(e.constant(-_LARGEST_EXPONENT), e.minimum(e.constant(_LARGEST_EXPONENT), x))
    rounded = e.call("llvm.fmuladd", x, e.constant(1 / math.log(2)), e.constant(_ROUNDER))
    n = b.fsub(rounded, e.constant(_ROUNDER))
    r = e.call("llvm.fmuladd", n, e.constant(-_LN2_HIGH), x)
    r = e.call("llvm.fmuladd", n, e.constant(-_LN2_LOW), r)
    series = polynomial(e, r, [1 / math.factorial(power) for power in range(_EXP_DEGREE + 1)])
    of_all = lambda number: ir.Constant(bits, [number] * e.lanes)  # noqa: E731
    power = b.add(b.bitcast(rounded, bits), of_all(_EXPONENT_BIAS))
    return b.fmul(series, b.bitcast(b.shl(power, of_all(_MANTISSA_BITS)), e.vector))


def error_function(e: KernelEmitter, x: ir.Value) -> ir.Value:
    """Emits erf of a vector, to 5e-7."""
    b = e.b
    size = e.maximum(x, b.fsub(e.constant(0), x))
    t = b.fdiv(e.constant(1), e.call("llvm.fmuladd", size, e.constant(_ERF_P), e.constant(1)))
    series = b.fmul(t, polynomial(e, t, _ERF_A))
    beyond = exponential(e, b.fsub(e.constant(0), b.fmul(x, x)))
    positive = b.fsub(e.constant(1), b.fmul(series, beyond))
    return b.select(b.fcmp_ordered("<", x, e.constant(0)), b.fsub(e.constant(0), positive), positive)


def polynomial(e: KernelEmitter, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """Emits a polynomial of a vector.

    Args:
        e: The kernel.
        x: The vector.
        coefficients: Of 1, x, x^2 and so on.
    """
    *lower, total = map(e.constant, coefficients)
    for coefficient in reversed(lower):
        total = e.call("llvm.fmuladd", total, x, coefficient)
    return total


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
    erf = error_function(e, e.b.fmul(x, e.constant(0.5**0.5)))
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
