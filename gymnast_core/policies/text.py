"""Instructions as numbers: a hashed bag of words, so that any string works without a vocabulary file."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gymnast_core.types import FloatArray


def words_of(instruction: str) -> list[str]:
    """Return the lower-case words of an instruction; a blank one has the single word ''."""
    return re.findall(r"[a-z0-9]+", instruction.lower()) or [""]


def bag_of_words(instructions: Sequence[str], buckets: int) -> FloatArray:
    """Return (B, buckets) float32: mean one-hot of CRC-32 hashed words and word pairs.

    Pairs keep what order says ("cube on plate" against "plate on cube").
    """
    bags = np.zeros((len(instructions), buckets), np.float32)
    for row, instruction in enumerate(instructions):
        words = words_of(instruction)
        terms = words + [f"{a} {b}" for a, b in pairwise(words)]
        for term in terms:
            bags[row, zlib.crc32(term.encode()) % buckets] += 1.0
        bags[row] /= np.sqrt(len(terms))
    return bags
