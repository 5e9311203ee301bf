"""Compilation of the kernels that run once for every voxel, and an exponential and a logarithm that vectorise.

Loops over numpy arrays are compiled by numba at their first call (seconds), and kept: beside the source file, or in the
user's cache folder where that is not writable. Where neither is, each process compiles for itself. Two processes that
compile at the same moment both write a whole file and rename it: one of them wins. numba compiles anew when the file of
a function has changed, but not when that of a function that it calls has: see `forget_stale`.

numba calls the C library's exp and log, one number at a time. The two here are plain arithmetic on the bits of a
double, so that the compiler computes four or eight at once.

The numbers do not depend on who compiled: nothing is rearranged, and a product and a sum are one operation (`fma`)
where the code says so. Left to the compiler (fastmath, "contract") it depends on what is inlined where, and a process
that has just compiled runs other copies of the inner functions than one that has loaded them.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from numba import njit, types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


def forget_stale(package: Path) -> None:
    """Remove what numba keeps beside the kernels of a package and is older than one of them, or than this file."""
    sources = [package / "physics" / "compiled.py", *package.glob("*/*_kernel.py")]
    newest = max(file.stat().st_mtime_ns for file in sources)
    for index in package.glob("*/__pycache__/*_kernel.*.nbi"):
        with suppress(OSError):  # another process was faster, or it may not be written
            if index.stat().st_mtime_ns < newest:
                index.unlink()


forget_stale(Path(__file__).parents[1])


def compiled(function: Function) -> Function:
    """The function as machine code, kept on disk, without Python's lock."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # numba: "cannot cache function …: no locator available"
        return njit(nogil=True, error_model="numpy")(function)


def inlined(function: Function) -> Function:
    """A small function that becomes part of the compiled one that calls it."""
    return njit(inline="always", error_model="numpy")(function)


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c with one rounding."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), code


@intrinsic
def _bits(typingctx: Any, value: Any) -> Any:
    """The bits of a double as an integer."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), code


@intrinsic
def _double(typingctx: Any, value: Any) -> Any:
    """The double with these bits."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), code


ROUND = 6755399441055744.0  # 1.5·2^52: adding it leaves the nearest integer in the lowest bits
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
INVERSE_LN2 = 1 / math.log(2)
LOWEST, HIGHEST = -708.0, 709.0
ONE_BITS = 1023 << 52
ROOT_HALF_BITS = 0x3FE6A09E667F3BCD
_E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9, _E10, _E11, _E12 = (1 / math.factorial(n) for n in range(2, 13))
_L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8, _L9, _L10 = (2 / (2 * n + 1) for n in range(1, 11))


@inlined
def exp(x: float) -> float:
    """eˣ to 2 units of the last place; below −708 e^−708, above 709 e^709."""
    x = min(max(x, LOWEST), HIGHEST)
    shifted = fma(x, INVERSE_LN2, ROUND)
    whole = shifted - ROUND
    r = fma(-whole, LN2_LOW, fma(-whole, LN2_HIGH, x))
    p = fma(_E12, r, _E11)
    p = fma(p, r, _E10)
    p = fma(p, r, _E9)
    p = fma(p, r, _E8)
    p = fma(p, r, _E7)
    p = fma(p, r, _E6)
    p = fma(p, r, _E5)
    p = fma(p, r, _E4)
    p = fma(p, r, _E3)
    p = fma(p, r, _E2)
    p = fma(p, r, 1.0)
    p = fma(p, r, 1.0)
    return p * _double((_bits(shifted) << 52) + ONE_BITS)


@inlined
def log(x: float) -> float:
    """ln x of a normal positive number, to 1e-15 of max(1, |ln x|): x = 2^k·m, ln m = 2·artanh((m−1)/(m+1))."""
    bits = _bits(x)
    k = (bits - ROOT_HALF_BITS) >> 52
    m = _double(bits - (k << 52))
    # An integer becomes a double without a conversion, which would not vectorise.
    exponent = _double(_bits(ROUND) + k) - ROUND
    f = (m - 1.0) / (m + 1.0)
    s = f * f
    p = fma(_L10, s, _L9)
    p = fma(p, s, _L8)
    p = fma(p, s, _L7)
    p = fma(p, s, _L6)
    p = fma(p, s, _L5)
    p = fma(p, s, _L4)
    p = fma(p, s, _L3)
    p = fma(p, s, _L2)
    p = fma(p, s, _L1)
    return fma(exponent, LN2_HIGH, fma(f, 2.0, fma(f * s, p, exponent * LN2_LOW)))


DEGREE = 16
"""Of `polynomial`."""


@inlined
def polynomial(x: float, powers: tuple[float, ...]) -> float:
    """Σ powers[n]·xⁿ, of degree `DEGREE`: written out, since a loop in a loop would not vectorise."""
    p = fma(powers[16], x, powers[15])
    p = fma(p, x, powers[14])
    p = fma(p, x, powers[13])
    p = fma(p, x, powers[12])
    p = fma(p, x, powers[11])
    p = fma(p, x, powers[10])
    p = fma(p, x, powers[9])
    p = fma(p, x, powers[8])
    p = fma(p, x, powers[7])
    p = fma(p, x, powers[6])
    p = fma(p, x, powers[5])
    p = fma(p, x, powers[4])
    p = fma(p, x, powers[3])
    p = fma(p, x, powers[2])
    p = fma(p, x, powers[1])
    return fma(p, x, powers[0])
