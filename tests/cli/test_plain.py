"""What a person reads of a program's values: no braces, no quotes, no sixteen digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.tree import Tree

from gymnast_cli.commands.episodes import in_words
from gymnast_cli.commands.why import tree
from gymnast_cli.plain import branches, plain


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "none"), ("", "none"), ({}, "none"), (True, "yes"), (0, "0"), (0.782608695652174, "0.783"),
        (1e-05, "1e-05"),
        (float("nan"), "not defined"), (1234.5678, "1234.568"), (["policy"] * 15, "policy (15 times)"),
        (["policy", "human", "policy"], "policy, human, policy"),
        ({"lift": 0.5, "push": {"n": 2, "rate": 0.25}}, "lift 0.5, push (n 2, rate 0.25)"),
        ("two\nlines", "two\\nlines"), (list(range(14)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 2 more"),
        ("x" * 400, "x" * 297 + "..."),
    ],
)  # fmt: skip
def test_a_value_in_words(value: Any, words: str) -> None:
    assert plain(value) == words


def test_values_without_end_come_to_one() -> None:
    nested: Any = 1
    for _ in range(200):
        nested = {"in": nested}
    assert plain(nested) == "in (in (in (in 1 values)))"
    branches(Tree("all"), nested)


def printed(shown: Any) -> str:
    console = Console(width=400, markup=False)
    with console.capture() as said:
        console.print(shown)
    return said.get()


def test_why_a_checkpoint_is_as_it_is_holds_no_text_of_a_program() -> None:
    audit = {"id": "audit-1", "agreement": 0.8552631578947368, "by_task": {"lift": {"agreement": 0.9, "episodes": 20}}}
    text = printed(tree({
        "id": "policy-1", "kind": "policy", "made_from": {"lineage": {"grpo": {"epochs": 2}, "stage": "grpo"}},
        "checkpoints": [{"id": "judge-1", "kind": "judge"}], "audits": [audit], "counts": {"episode": 3},
        "labels_by": {}, "changed_labels": [], "retracted": [], "damage": None,
    }))  # fmt: skip
    assert not set("{}'") & set(text), text
    lines = [line.strip("│├└─ \n") for line in text.splitlines()]
    assert [line for line in lines if line][1:8] == [
        "stage grpo", "grpo", "epochs 2", "made from", "judge judge-1", "audits", "audit-1",
    ]  # fmt: skip
    assert "agreement 0.855" in lines
    assert "agreement 0.9, episodes 20" in lines


def test_an_episode_in_words_holds_no_text_of_a_program() -> None:
    made = {"purpose": "collect", "sources": ["policy"] * 15, "created_ns": 1_796_008_902_028_221_517, "seed": 7}
    facts = {
        "episode_id": "ep-1", "outcome": "success", "truncated_reason": "", "policy_versions": ["policy-1"],
        "metadata": made, "cameras": {"wrist": list(np.zeros((3, 240, 320, 3)).shape[1:])}, "steps": 15,
    }  # fmt: skip
    text = in_words(facts)
    assert not set("{}[]'") & set(text), text
    for line in ("cut: none", "cameras: wrist 320 x 240", "sources: policy (15 times)", "purpose: collect", "seed: 7"):
        assert line in text
    assert "recorded: 2026-11-30" in text or "recorded: 2026-12-01" in text
