"""A compiler intrinsic: ask the processor for a row of cells before it is needed.

Flow: kernels that visit rows in the order of hashed keys call [prefetch] some rows ahead, so that
the memory accesses of many rows overlap instead of waiting for one another.

Measured, 16 M keys of three columns, uniform: 16 M touches/s without it, 21 M/s with it; with only
the first of the row's two cache lines fetched, half of that gain.

Source: LLVM Language Reference, `llvm.prefetch`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FOR_WRITING = 1
_KEEP_IN_ALL_LEVELS = 3
_DATA = 1


@intrinsic  # type: ignore[untyped-decorator]  # numba.extending declares no types
def prefetch(_typing: Any, cells: Any, slot: Any) -> Any:
    """Fetch the first and the last cell of row `slot` of the 2-D array `cells`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, _ = signature.args
        array = context.make_array(array_type)(context, builder, arguments[0])
        first = context.get_constant(types.intp, 0)
        width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        last = builder.sub(width, context.get_constant(types.intp, 1))
        address, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [address, number, number, number]),
            "llvm.prefetch.p0",
        )
        for cell in (first, last):
            pointer = cgutils.get_item_pointer(
                context, builder, array_type, array, [arguments[1], cell], wraparound=False
            )
            builder.call(
                function,
                [
                    builder.bitcast(pointer, address),
                    number(_FOR_WRITING),
                    number(_KEEP_IN_ALL_LEVELS),
                    number(_DATA),
                ],
            )
        return context.get_dummy_value()

    return types.void(cells, types.intp), generate
