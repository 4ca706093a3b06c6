"""The prompt OpenVLA was trained with, and its ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from gymnast_core.errors import CheckpointError
from gymnast_core.policies.openvla.config import OpenVLAConfig
from gymnast_core.types import IntArray


def prompt_of(instruction: str) -> str:
    """Return the text before the action, instruction in lower case."""
    return f"In: What action should the robot take to {instruction.strip().lower()}?\nOut:"


class PromptTokenizer:
    """Instructions to ids, through the checkpoint's own tokenizer.json.

    Attributes:
        source: text of that file; travels inside our checkpoints.
        config: names the special ids and the padding multiple.
    """

    def __init__(self, source: str, config: OpenVLAConfig) -> None:
        self.source = source
        self.config = config
        try:
            self._tokenizer = Tokenizer.from_str(source)
        except Exception as error:  # tokenizers raises nothing narrower
            raise CheckpointError(f"tokenizer.json cannot be read: {error}; copy the one of openvla-7b") from error

    @classmethod
    def read(cls, folder: Path, config: OpenVLAConfig) -> PromptTokenizer:
        """Read a published folder's tokenizer.

        Raises:
            CheckpointError: there is no tokenizer.json.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json; copy the one of openvla-7b into it")
        return cls(path.read_text(encoding="utf-8"), config)

    def ids_of(self, instruction: str) -> list[int]:
        """Ids of one prompt: first the BOS id, last the empty token that training put after "Out:"."""
        ids: list[int] = list(self._tokenizer.encode(prompt_of(instruction)).ids)
        if not ids or ids[0] != self.config.bos_id:
            ids.insert(0, self.config.bos_id)
        if ids[-1] != self.config.empty_id:
            ids.append(self.config.empty_id)
        return ids

    def batch(self, instructions: Sequence[str]) -> tuple[IntArray, IntArray]:
        """Return ids (B, L), padded on the right to a multiple of config.prompt_multiple, and lengths (B,)."""
        rows = [self.ids_of(instruction) for instruction in instructions]
        multiple = self.config.prompt_multiple
        longest = -(-max(map(len, rows)) // multiple) * multiple
        ids_BL = np.full((len(rows), longest), self.config.text.pad_token_id, np.int64)
        for ids_L, row in zip(ids_BL, rows, strict=True):
            ids_L[: len(row)] = row
        return ids_BL, np.array([len(row) for row in rows], np.int64)
