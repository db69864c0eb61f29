"""How inner loops over rows become machine code, which runs without the interpreter's lock: numba.

The code is kept on disk, and compiled again only when the file of its own function has changed: whatever a
loop calls must stand in the same file, but for `fetch` and `make_room`, which never change
(docs/decisions/0035).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Compiled = TypeVar("Compiled", bound=Callable[..., Any])

LINE_BYTES = 64


def compiled(function: Compiled) -> Compiled:
    """Compile at the first call with each kind of arguments; kept next to this file, or in NUMBA_CACHE_DIR.
    float32 sums may be added up in any order."""
    return _compiled(function, {"reassoc", "nsz", "contract"})


def exactly_compiled(function: Compiled) -> Compiled:
    """The same, but floating point as written: the same bits wherever it runs."""
    return _compiled(function, set())


def briefly_compiled(function: Compiled) -> Compiled:
    """As `exactly_compiled`, but keeps the GIL: for loops of a few µs. Releasing it can cost milliseconds, as
    the thread must queue to get it back."""
    return _compiled(function, set(), releases_gil=False)


def _compiled(function: Compiled, liberties: set[str], *, releases_gil: bool = True) -> Compiled:
    options = {"nogil": releases_gil, "fastmath": liberties, "error_model": "numpy"}
    try:
        made: Compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: each process compiles it
        made = numba.njit(**options)(function)
    return made


@intrinsic  # type: ignore[untyped-decorator]
def fetch(_context: Any, array: Any, position: Any) -> Any:  # noqa: ARG001
    """Ask for the cache line of element `position` of a contiguous array of any shape, without waiting for
    it. Any position: nothing is read."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        at = builder.bitcast(builder.gep(made.data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        to_read, into_first_cache, data = word(0), word(3), word(1)
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(prefetch, [at, to_read, into_first_cache, data])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def make_room(_context: Any, array: Any, start: Any, stop: Any) -> Any:  # noqa: ARG001
    """Move the elements `start` to `stop` of a contiguous array one place up, as one block: a loop over them
    takes the longer the more there are. 0 <= start <= stop < len(array)."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        first, end = arguments[1:]
        source = builder.gep(made.data, [first])
        target = builder.gep(source, [first.type(1)])
        size = context.get_abi_sizeof(made.data.type.pointee)
        cgutils.raw_memmove(builder, target, source, builder.sub(end, first), size)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), emit
