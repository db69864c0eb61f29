"""How inner loops over rows become machine code: numba, kept on disk, without the interpreter's lock.

A graph walk through FAISS waits for each vector, and a dozen numpy calls then sift what it found. Compiled
loops fetch ahead and come back once (docs/decisions/0035).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Compiled = TypeVar("Compiled", bound=Callable[..., Any])
Untyped: TypeAlias = Any
"""What only numba's own compiler reads."""

LINE_BYTES = 64
"""Of a cache line."""


def compiled(function: Compiled) -> Compiled:
    """Compile at the first call with each kind of arguments; the machine code is kept beside this file, or in
    NUMBA_CACHE_DIR. Sums may be added up in any order, but the same order for the same length; products are
    rounded before they are added, so that equal things differ by 0."""
    options = {"nogil": True, "fastmath": {"reassoc", "nsz"}, "error_model": "numpy"}
    try:
        made: Compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: compiled anew by each process
        made = numba.njit(**options)(function)
    return made


@intrinsic  # type: ignore[untyped-decorator]
def fetch(_context: Untyped, array: Untyped, place: Untyped) -> Untyped:  # noqa: ARG001
    """Ask for the cache line of array[place] without waiting for it. Any place: nothing is read."""

    def emit(context: Untyped, builder: Untyped, signature: Untyped, arguments: Untyped) -> Untyped:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        at = builder.bitcast(builder.gep(made.data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        call = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        to_read, into_first_cache, data = word(0), word(3), word(1)
        builder.call(call, [at, to_read, into_first_cache, data])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit
