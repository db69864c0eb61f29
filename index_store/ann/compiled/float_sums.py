"""Sums in float64 over float32 rows, eight side by side in the processor's vectors, in a fixed order.

numba keeps the eight sums of a plain loop in memory: a row of 384 takes 300 ns, 60 here. Additions and their
order are as written, so the bits are the same on every machine, whatever vectors it has. As in `code_sums`,
nothing here changes without a change of the files that call it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_LANES = 8
_FLOAT, _DOUBLE, _INT, _LONG = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _DOUBLES = ir.VectorType(_FLOAT, _LANES), ir.VectorType(_DOUBLE, _LANES)


def _square_apart(builder: Any, ours: Any, wide: Any, scale: Any) -> Any:
    apart = builder.fsub(builder.fmul(ours, scale), wide)
    return builder.fmul(apart, apart)


def _product(builder: Any, ours: Any, wide: Any, _scale: Any) -> Any:
    return builder.fmul(ours, wide)


def _looped(builder: Any, start: Any, stop: Any, step: int, total: Any, body: Any) -> Any:
    """`total` after body(place, total) at start, start + step, .. below stop."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    at, so_far = builder.phi(_LONG), builder.phi(total.type)
    builder.cbranch(builder.icmp_signed("<", at, stop), inside, after)
    builder.position_at_end(inside)
    added = body(at, so_far)
    following = builder.add(at, _LONG(step))
    for phi, first, next_one in ((at, start, following), (so_far, total, added)):
        phi.add_incoming(first, before)
        phi.add_incoming(next_one, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return so_far


def _emitted(builder: Any, vectors: Any, first: Any, wide: Any, count: Any, scale: Any, term: Any) -> Any:
    ours = builder.gep(vectors, [first])
    scales = ir.Constant(_DOUBLES, ir.Undefined)
    for lane in range(_LANES):
        scales = builder.insert_element(scales, scale, _INT(lane))

    def add_eight(at: Any, total: Any) -> Any:
        some = builder.load(builder.bitcast(builder.gep(ours, [at]), _FLOATS.as_pointer()), align=4)
        asked = builder.load(builder.bitcast(builder.gep(wide, [at]), _DOUBLES.as_pointer()), align=8)
        return builder.fadd(total, term(builder, builder.fpext(some, _DOUBLES), asked, scales))

    def add_one(at: Any, total: Any) -> Any:
        one = builder.fpext(builder.load(builder.gep(ours, [at])), _DOUBLE)
        return builder.fadd(total, term(builder, one, builder.load(builder.gep(wide, [at])), scale))

    whole = builder.and_(count, _LONG(~(_LANES - 1)))
    sums = _looped(builder, _LONG(0), whole, _LANES, ir.Constant(_DOUBLES, [0.0] * _LANES), add_eight)
    lanes = [builder.extract_element(sums, _INT(lane)) for lane in range(_LANES)]
    lanes[0] = _looped(builder, whole, count, 1, lanes[0], add_one)
    while len(lanes) > 1:
        lanes = [builder.fadd(lanes[n], lanes[n + 1]) for n in range(0, len(lanes), 2)]
    return lanes[0]


def _typed(vectors: Any, wide: Any, term: Any) -> Any:
    """What numba asks of an intrinsic: its signature, and what emits it; None for other arrays."""
    if (vectors.dtype, wide.dtype, vectors.layout, wide.layout) != (types.float32, types.float64, "C", "C"):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        ours, asked = (context.make_array(kinds[n])(context, builder, arguments[n]).data for n in (0, 2))
        return _emitted(builder, ours, arguments[1], asked, arguments[3], arguments[4], term)

    return types.float64(vectors, types.int64, wide, types.int64, types.float64), emit


@intrinsic  # type: ignore[untyped-decorator]
def sum_of_squares_apart(
    _context: Any,
    vectors: Any,
    start: Any,  # noqa: ARG001
    wide: Any,
    count: Any,  # noqa: ARG001
    scale: Any,  # noqa: ARG001
) -> Any:
    """The sum of (vectors[start + i] * scale - wide[i]) ** 2 over `count` places, as eight sums that are
    added up in pairs; what is left over behind the last eight belongs to the first.

    vectors: float32, contiguous, of any shape. start: in elements. wide: float64, contiguous."""
    return _typed(vectors, wide, _square_apart)


@intrinsic  # type: ignore[untyped-decorator]
def sum_of_wide_products(
    _context: Any,
    vectors: Any,
    start: Any,  # noqa: ARG001
    wide: Any,
    count: Any,  # noqa: ARG001
    scale: Any,  # noqa: ARG001
) -> Any:
    """As `sum_of_squares_apart`, of vectors[start + i] * wide[i]; scale: not used."""
    return _typed(vectors, wide, _product)
