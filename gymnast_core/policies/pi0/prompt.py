"""The prompts pi0 and pi0.5 were trained with, and their ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from gymnast_core.errors import CheckpointError, ContractError
from gymnast_core.policies.pi0.config import Pi0Config
from gymnast_core.types import BoolArray, FloatArray, IntArray

EDGES = np.linspace(-1, 1, 257)[:-1]
"""Lower edges of the 256 bins that a number of pi0.5's state falls into."""


def cleaned(instruction: str) -> str:
    """Return an instruction as openpi's tokeniser takes it."""
    return instruction.strip().replace("_", " ").replace("\n", " ")


def prompt_with_state(instruction: str, state_D: FloatArray) -> str:
    """Return pi0.5's prompt: the normalised state as integers, -1 for what is below the first bin."""
    numbers = " ".join(str(number) for number in np.digitize(state_D, EDGES) - 1)
    return f"Task: {cleaned(instruction)}, State: {numbers};\nAction: "


class PiPrompts:
    """Instructions to ids, through the checkpoint's own tokenizer.json.

    Attributes:
        source: text of that file; travels inside our checkpoints.
        config: names the variant, the first id and the longest prompt.
    """

    def __init__(self, source: str, config: Pi0Config) -> None:
        self.source, self.config = source, config
        try:
            self._tokenizer = Tokenizer.from_str(source)
        except Exception as error:  # tokenizers raises nothing narrower
            raise CheckpointError(
                f"tokenizer.json cannot be read: {error}; copy the one of google/paligemma-3b-pt-224"
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def ids_of(self, instruction: str, state_D: FloatArray) -> list[int]:
        """Return the ids of one prompt; of pi0 its end, a newline, is tokenised by itself.

        Raises:
            ContractError: more tokens than the checkpoint was trained on; openpi would cut the end off.
        """
        if self.config.variant == "pi0":
            parts = [cleaned(instruction), "\n"]
        else:
            parts = [prompt_with_state(instruction, state_D)]
        ids = [self.config.bos_id]
        for part in parts:
            ids += self._tokenizer.encode(part, add_special_tokens=False).ids
        if len(ids) > self.config.prompt_tokens:
            raise ContractError(
                f"instruction {instruction!r} makes a prompt of {len(ids)} tokens, this checkpoint reads "
                f"{self.config.prompt_tokens}; use fewer words"
            )
        return ids

    def batch(self, instructions: Sequence[str], state_BD: FloatArray) -> tuple[IntArray, BoolArray]:
        """Return ids (B, L), zeros after each prompt's end, and which of them are a prompt's (B, L).

        L is the longest prompt's: what is masked changes nothing.
        """
        rows = [self.ids_of(text, state) for text, state in zip(instructions, state_BD, strict=True)]
        ids_BL = np.zeros((len(rows), max(map(len, rows))), np.int64)
        text_BL = np.zeros(ids_BL.shape, bool)
        for index, row in enumerate(rows):
            ids_BL[index, : len(row)], text_BL[index, : len(row)] = row, True
        return ids_BL, text_BL
