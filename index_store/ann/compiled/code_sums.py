"""Sums over int8 codes in the processor's own instructions for pairs of 16-bit numbers (AVX2, AVX-512).

What numba makes of the same loops takes two to three times as long, and how long changes with its release:
a row of 384 codes 28 to 31 ns, 10 to 15 here. The sums are of integers and the same ones. Nothing here
changes without a change of the files that call it (see `jit`), or their code in the cache stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numba
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

Term: TypeAlias = Literal["product", "square", "centred"]

_CENTRE = 128
_BYTE, _SHORT, _WORD, _LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _lanes() -> int:
    """How many codes one instruction takes; 0 where this processor, or whoever configured numba, has none."""
    config = numba.config
    if config.CPU_NAME or config.CPU_FEATURES is not None or not config.ENABLE_AVX:
        return 0
    known = binding.get_host_cpu_features()
    if known.get("avx512bw"):
        return 32
    return 16 if known.get("avx2") else 0


LANES = _lanes()
"""Sums are taken over a multiple of so many codes, more than none; 0: there is nothing to be called here."""

_ADD_PAIRS = {16: "llvm.x86.avx2.pmadd.wd", 32: "llvm.x86.avx512.pmaddw.d.512"}


def _emitted(context: Any, builder: Any, kinds: Any, arguments: Any, term: Term) -> Any:
    """The loop over `count` codes, `LANES` at a time."""
    codes, query = (context.make_array(kinds[n])(context, builder, arguments[n]).data for n in (0, 2))
    first, count = builder.gep(codes, [arguments[1]]), arguments[3]
    sums = ir.VectorType(_WORD, LANES // 2)
    shorts = ir.VectorType(_SHORT, LANES)
    before, loop = builder.block, builder.append_basic_block("sum")
    after = builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    at, total = builder.phi(_LONG), builder.phi(sums)
    ours = _loaded(builder, builder.gep(first, [at]), _BYTE)
    ours, asked = builder.zext(ours, shorts), _loaded(builder, builder.gep(query, [at]), _SHORT)
    pair = _PAIRS[term](builder, ours, asked, ir.Constant(shorts, [_CENTRE] * LANES))
    add_pairs = builder.module.declare_intrinsic(
        _ADD_PAIRS[LANES], [], ir.FunctionType(sums, [shorts, shorts])
    )
    following = builder.add(at, _LONG(LANES))
    summed = builder.add(total, builder.call(add_pairs, pair))
    for phi, value, block in (
        (at, _LONG(0), before),
        (total, ir.Constant(sums, [0] * (LANES // 2)), before),
        (at, following, loop),
        (total, summed, loop),
    ):
        phi.add_incoming(value, block)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    name = f"llvm.vector.reduce.add.v{LANES // 2}i32"
    reduce = builder.module.declare_intrinsic(name, [], ir.FunctionType(_WORD, [sums]))
    return builder.call(reduce, [summed])


def _loaded(builder: Any, pointer: Any, kind: Any) -> Any:
    wide = builder.bitcast(pointer, ir.VectorType(kind, LANES).as_pointer())
    return builder.load(wide, align=kind.width // 8)


def _of_product(_builder: Any, ours: Any, asked: Any, _centre: Any) -> tuple[Any, Any]:
    return ours, asked


def _of_square(builder: Any, ours: Any, asked: Any, _centre: Any) -> tuple[Any, Any]:
    apart = builder.sub(ours, asked)
    return apart, apart


def _of_centred(builder: Any, ours: Any, asked: Any, centre: Any) -> tuple[Any, Any]:
    return builder.sub(ours, centre), builder.sub(asked, centre)


_PAIRS: dict[Term, Callable[[Any, Any, Any, Any], tuple[Any, Any]]] = {
    "product": _of_product,
    "square": _of_square,
    "centred": _of_centred,
}


def _typed(codes: Any, query: Any, term: Term) -> Any:
    """What numba asks of an intrinsic: its signature, and what emits it."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _emitted(context, builder, signature.args, arguments, term)

    return types.int32(codes, types.int64, query, types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def sum_of_products(_context: Any, codes: Any, start: Any, query: Any, count: Any) -> Any:  # noqa: ARG001
    """The sum of codes[start + i] * query[i] over `count` places, a multiple of LANES and at least LANES.

    codes: uint8, contiguous, of any shape. start: in elements. query: int16. All sums fit in 32 bits."""
    return _typed(codes, query, "product")


@intrinsic  # type: ignore[untyped-decorator]
def sum_of_squares(_context: Any, codes: Any, start: Any, query: Any, count: Any) -> Any:  # noqa: ARG001
    """As `sum_of_products`, of (codes[start + i] - query[i]) ** 2; query: 0 to 255."""
    return _typed(codes, query, "square")


@intrinsic  # type: ignore[untyped-decorator]
def sum_of_centred_products(_context: Any, codes: Any, start: Any, query: Any, count: Any) -> Any:  # noqa: ARG001
    """As `sum_of_products`, of (codes[start + i] - 128) * (query[i] - 128); query: 0 to 255."""
    return _typed(codes, query, "centred")
