"""The graph's activations on vectors."""

import math
from collections.abc import Callable, Sequence

from llvmlite import ir

from tfprune.runtime.graph import ACTIVATIONS, LARGEST
from tfprune.runtime.kernels.emitter import I32, KernelEmitter

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
# The bits of the float32 sqrt(1/2); log(1 + m) as m - m**2 / 2 + m**3 times a series; the parts of log(2).
_ROOT_OF_A_HALF = 0x3F3504F3
_LOG_SERIES = (
    3.3333331174e-1,
    -2.4999993993e-1,
    2.0000714765e-1,
    -1.6668057665e-1,
    1.4249322787e-1,
    -1.2420140846e-1,
    1.1676998740e-1,
    -1.1514610310e-1,
    7.0376836292e-2,
)
_LOG_2_LOW, _LOG_2_HIGH = -2.12194440e-4, 0.693359375
_SMALLEST_NORMAL = 2.0**-126
# Those of Klambauer and others, Self-normalizing neural networks, arXiv:1706.02515.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def activate(e: KernelEmitter, name: str, x: ir.Value, settings: Sequence[float] = ()) -> ir.Value:
    """Emits an activation.

    Args:
        e: The kernel.
        name: One of the graph's `ACTIVATIONS`, but for those across channels, which are kernels of their own.
        x: A vector.
        settings: The activation's; none: its defaults.

    Returns:
        The activated vector.
    """
    settings = tuple(settings or ACTIVATIONS[name])
    if name in _LONG:
        return e.b.call(_as_function(e, name, settings), [x])
    return _EMITTED[name](e, x, *settings)


def _as_function(e: KernelEmitter, name: str, settings: tuple[float, ...]) -> ir.Function:
    """Returns the module's function of an activation, emitted once.

    In each place that uses it, its code would take long to compile, and win little.
    """
    module = e.function.module
    full_name = "_".join(["activation", name, str(e.lanes), *map(str, settings)])
    function = module.globals.get(full_name)
    if function is None:
        signature = ir.FunctionType(e.vector, [e.vector])
        function = ir.Function(module, signature, full_name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        with e.writing(builder):
            builder.ret(_EMITTED[name](e, function.args[0], *settings))
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


def logarithm(e: KernelEmitter, x: ir.Value) -> ir.Value:
    """Emits the natural logarithm of a vector of positive normal numbers; the error is about one rounding.

    Source: `logf` of the Cephes library, Moshier.
    """
    b, integers = e.b, ir.VectorType(I32, e.lanes)

    def whole(number: int) -> ir.Constant:
        return ir.Constant(integers, [number] * e.lanes)

    # x is m * 2**exponent, with m from sqrt(1/2) to sqrt(2).
    bits = b.sub(b.bitcast(x, integers), whole(_ROOT_OF_A_HALF))
    exponent = b.sitofp(b.ashr(bits, whole(23)), e.vector)
    bits = b.add(b.and_(bits, whole(2**23 - 1)), whole(_ROOT_OF_A_HALF))
    m = b.fsub(b.bitcast(bits, e.vector), e.constant(1))
    square = b.fmul(m, m)
    result = b.fmul(b.fmul(polynomial(e, m, _LOG_SERIES), m), square)
    result = e.call("llvm.fmuladd", exponent, e.constant(_LOG_2_LOW), result)
    result = b.fsub(result, b.fmul(square, e.constant(0.5)))
    return e.call("llvm.fmuladd", exponent, e.constant(_LOG_2_HIGH), b.fadd(m, result))


def _linear(_: KernelEmitter, x: ir.Value) -> ir.Value:
    return x


def _relu(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.maximum(e.constant(0), x)  # in this order, a NaN stays one


def _relu6(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.minimum(e.constant(6), _relu(e, x))


def _leaky_relu(e: KernelEmitter, x: ir.Value, slope: float) -> ir.Value:
    below = e.b.fmul(x, e.constant(slope))
    if 0 <= slope <= 1:
        return e.maximum(below, x)
    return e.b.select(e.b.fcmp_ordered(">", x, e.constant(0)), x, below)


def _general_relu(e: KernelEmitter, x: ir.Value, slope: float, largest: float, threshold: float) -> ir.Value:
    above = e.b.select(e.b.fcmp_unordered(">", x, e.constant(threshold)), x, e.constant(0))
    above = e.minimum(e.constant(largest), above)
    below = e.maximum(e.constant(0), e.b.fsub(e.constant(threshold), x))
    return e.b.fsub(above, e.b.fmul(e.constant(slope), below)) if slope else above


def _clip(e: KernelEmitter, x: ir.Value, least: float, largest: float) -> ir.Value:
    return e.maximum(e.constant(least), e.minimum(e.constant(largest), x))


def _elu(e: KernelEmitter, x: ir.Value, alpha: float) -> ir.Value:
    below = e.b.fsub(exponential(e, _negative_part(e, x)), e.constant(1))
    if alpha != 1:
        below = e.b.fmul(below, e.constant(alpha))
    return e.b.select(e.b.fcmp_ordered(">", x, e.constant(0)), x, below)


def _celu(e: KernelEmitter, x: ir.Value, alpha: float) -> ir.Value:
    below = exponential(e, e.b.fdiv(_negative_part(e, x), e.constant(alpha)))
    below = e.b.fmul(e.b.fsub(below, e.constant(1)), e.constant(alpha))
    return e.b.fadd(_relu(e, x), below)


def _selu(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fmul(_elu(e, x, _SELU_ALPHA), e.constant(_SELU_SCALE))


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


def _gelu_tanh(e: KernelEmitter, x: ir.Value) -> ir.Value:
    # x (1 + tanh(u)) / 2 is x sigmoid(2u).
    cubed = e.b.fmul(e.b.fmul(x, x), e.b.fmul(x, e.constant(0.044715)))
    return e.b.fmul(x, _sigmoid(e, e.b.fmul(e.b.fadd(x, cubed), e.constant(2 * (2 / math.pi) ** 0.5))))


def _log(e: KernelEmitter, x: ir.Value) -> ir.Value:
    b, zero = e.b, e.constant(0)
    least = e.constant(_SMALLEST_NORMAL)
    found = logarithm(e, e.minimum(e.constant(LARGEST), e.maximum(least, x)))
    found = b.select(b.fcmp_unordered(">", x, e.constant(LARGEST)), x, found)  # infinity and NaN
    # The numbers below the normal ones are taken for zero.
    found = b.select(b.fcmp_ordered("<", x, least), e.constant(-math.inf), found)
    return b.select(b.fcmp_ordered("<", x, zero), e.constant(math.nan), found)


def _softplus(e: KernelEmitter, x: ir.Value) -> ir.Value:
    power = exponential(e, e.b.fsub(e.constant(0), e.call("llvm.fabs", x)))
    return e.b.fadd(_relu(e, x), logarithm(e, e.b.fadd(e.constant(1), power)))


def _log_sigmoid(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fneg(_softplus(e, e.b.fneg(x)))


def _mish(e: KernelEmitter, x: ir.Value) -> ir.Value:
    # With w = exp(x), tanh(log(1 + w)) is w (w + 2) / (w (w + 2) + 2); of more than 20 it is 1.
    w = exponential(e, e.minimum(e.constant(20), x))
    product = e.b.fmul(w, e.b.fadd(w, e.constant(2)))
    return e.b.fmul(x, e.b.fdiv(product, e.b.fadd(product, e.constant(2))))


def _softsign(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fdiv(x, e.b.fadd(e.constant(1), e.call("llvm.fabs", x)))


def _soft_shrink(e: KernelEmitter, x: ir.Value, threshold: float) -> ir.Value:
    shrunk = e.b.fsub(x, e.constant(threshold))
    grown = e.b.fadd(x, e.constant(threshold))
    grown = e.b.select(e.b.fcmp_unordered("<", x, e.constant(-threshold)), grown, e.constant(0))
    return e.b.select(e.b.fcmp_ordered(">", x, e.constant(threshold)), shrunk, grown)


def _hard_shrink(e: KernelEmitter, x: ir.Value, threshold: float) -> ir.Value:
    far = e.b.fcmp_unordered(">", e.call("llvm.fabs", x), e.constant(threshold))
    return e.b.select(far, x, e.constant(0))


def _tanh_shrink(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fsub(x, _tanh(e, x))


def _threshold(e: KernelEmitter, x: ir.Value, threshold: float, below: float) -> ir.Value:
    return e.b.select(e.b.fcmp_unordered(">", x, e.constant(threshold)), x, e.constant(below))


def _sparse_plus(e: KernelEmitter, x: ir.Value) -> ir.Value:
    shifted = e.maximum(e.constant(0), e.b.fadd(x, e.constant(1)))
    bend = e.b.fmul(e.b.fmul(shifted, shifted), e.constant(0.25))
    return e.b.select(e.b.fcmp_ordered(">", x, e.constant(1)), x, bend)


def _sparse_sigmoid(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return _clip(e, e.b.fmul(e.b.fadd(x, e.constant(1)), e.constant(0.5)), 0, 1)


def _squareplus(e: KernelEmitter, x: ir.Value, added: float) -> ir.Value:
    root = e.call("llvm.sqrt", e.b.fadd(e.b.fmul(x, x), e.constant(added)))
    return e.b.fmul(e.b.fadd(x, root), e.constant(0.5))


def _abs(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.call("llvm.fabs", x)


def _square(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fmul(x, x)


def _sqrt(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.call("llvm.sqrt", x)


def _rsqrt(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fdiv(e.constant(1), e.call("llvm.sqrt", x))


def _reciprocal(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.fdiv(e.constant(1), x)


def _nonzero(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.b.select(e.b.fcmp_unordered("!=", x, e.constant(0)), e.constant(1), e.constant(0))


def _negative_part(e: KernelEmitter, x: ir.Value) -> ir.Value:
    return e.minimum(e.constant(0), x)


_EMITTED: dict[str, Callable[..., ir.Value]] = {
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
    "general_relu": _general_relu,
    "clip": _clip,
    "abs": _abs,
    "celu": _celu,
    "exponential": exponential,
    "gelu_tanh": _gelu_tanh,
    "hard_shrink": _hard_shrink,
    "log": _log,
    "log_sigmoid": _log_sigmoid,
    "mish": _mish,
    "reciprocal": _reciprocal,
    "rsqrt": _rsqrt,
    "selu": _selu,
    "soft_shrink": _soft_shrink,
    "softplus": _softplus,
    "softsign": _softsign,
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": _sparse_sigmoid,
    "sqrt": _sqrt,
    "square": _square,
    "squareplus": _squareplus,
    "tanh_shrink": _tanh_shrink,
    "threshold": _threshold,
    "nonzero": _nonzero,
}
_LONG = (
    "elu",
    "sigmoid",
    "tanh",
    "silu",
    "gelu",
    "celu",
    "exponential",
    "gelu_tanh",
    "log",
    "log_sigmoid",
    "mish",
    "selu",
    "softplus",
    "tanh_shrink",
)
