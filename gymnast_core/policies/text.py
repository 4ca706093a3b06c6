"""Instructions as numbers: a hashed bag of words, so that any string works without a vocabulary file."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gymnast_core.types import FloatArray

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Kana and Han: scripts that put no space between words; each letter is a word."""


def words_of(instruction: str) -> list[str]:
    """Return the lower-case words of an instruction, in any script; a blank one has the single word ''.

    What is ASCII is split as every checkpoint so far has learned it: runs of a-z and 0-9. In other scripts letters
    and digits with their marks make words, and a symbol (an emoji) is one by itself.
    """
    if instruction.isascii():
        return re.findall(r"[a-z0-9]+", instruction.lower()) or [""]
    text = unicodedata.normalize("NFKC", instruction).casefold()
    return "".join(_spaced(char) for char in text).split() or [""]


def _spaced(char: str) -> str:
    """The character, with spaces where a word begins or ends."""
    kind = unicodedata.category(char)
    if _UNSPACED.match(char) and kind[0] == "L":
        return f" {char}"
    if kind[0] in "LMN":
        return char
    if kind == "Cf":  # joiners inside words
        return ""
    return f" {char} " if kind == "So" and not char.isascii() else " "


def bag_of_words(instructions: Sequence[str], buckets: int) -> FloatArray:
    """Return (B, buckets) float32: mean one-hot of CRC-32 hashed words and word pairs.

    Pairs keep what order means ("cube on plate" against "plate on cube").
    """
    bags = np.zeros((len(instructions), buckets), np.float32)
    for row, instruction in enumerate(instructions):
        words = words_of(instruction)
        terms = words + [f"{a} {b}" for a, b in pairwise(words)]
        for term in terms:
            bags[row, zlib.crc32(term.encode()) % buckets] += 1.0
        bags[row] /= np.sqrt(len(terms))
    return bags
