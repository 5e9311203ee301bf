"""Named streams of random numbers: results depend on names, never on call order."""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` under the study's `seed`."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator of its own for the stream called `names`."""
    return np.random.default_rng(stream_seed(seed, *names))


def complex_normal(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    """Circular complex normal numbers n of unit variance, E|n|² = 1."""
    numbers: NDArray[np.complex128] = random.standard_normal((*shape, 2)).view(np.complex128)[..., 0] * math.sqrt(0.5)
    return numbers
