"""Random numbers by counter: what a block of labels gets depends on its place alone.

Philox turns a key and a counter into random bits. Here the key is a hash of the seed, the
subject, the input and the parameter, and the block's number is the third of the counter's
four words, so that no two blocks share a number. Batches, chunks and processes do not enter.

Source: Salmon et al. (2011), *Parallel random numbers: as easy as 1, 2, 3*.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

BLOCK = 2**14
"""Labels of one parameter that share a counter; small enough for a processor's cache."""


class Stream:
    """Random numbers of one purpose.

    Args:
        seed: Of everything drawn in a run.
        purpose: What they are for, such as the subject's key and the number of an input.
    """

    def __init__(self, seed: int, *purpose: str | int):
        text = repr((seed, *purpose)).encode()
        self._key = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), np.uint64)

    def generator(self, block: int = 0) -> np.random.Generator:
        """Return the generator of one block of labels."""
        counter = np.array([0, 0, block, 0], np.uint64)
        return np.random.Generator(np.random.Philox(key=self._key, counter=counter))


def blocks(samples: int) -> Iterator[tuple[int, int]]:
    """Yield the number of every block of `samples` labels, and how many labels it has."""
    for number, start in enumerate(range(0, samples, BLOCK)):
        yield number, min(BLOCK, samples - start)
