"""The action tokeniser against the public one, to 1e-12, oddities included."""

import json
import re

import numpy as np
import pytest

from gymnast_core.errors import CheckpointError
from gymnast_core.policies.openvla.tokens import (
    BIN_CENTRES,
    BIN_EDGES,
    Statistics,
    action_statistics,
    decode_ids,
)

EPSILON = {"oft": 1e-8, "original_openvla": 0.0}


@pytest.fixture(scope="module")
def golden(golden_dir):
    return json.loads((golden_dir / "openvla_tiny" / "action_tokenizer.json").read_text())


@pytest.fixture(scope="module")
def statistics(golden_dir):
    return json.loads((golden_dir / "openvla_tiny" / "dataset_statistics.json").read_text())


@pytest.fixture(scope="module")
def key(golden_dir):
    """The dataset that the folder's actions are scaled by."""
    return json.loads((golden_dir / "openvla_tiny" / "config.json").read_text())["unnorm_key"]


def test_bins(golden):
    ends = golden["bins_first_last"], golden["bin_centers_first_last"]
    for ours, theirs in zip((BIN_EDGES, BIN_CENTRES), ends, strict=True):
        np.testing.assert_allclose([*ours[:2], *ours[-2:]], theirs, atol=1e-15)


def test_decode(golden, statistics):
    for case in golden["decode"]:
        centres = decode_ids(np.array(case["token_ids"]), vocabulary_end=golden["vocab_size"])
        np.testing.assert_allclose(centres, case["normalized"], atol=1e-12)
        for dataset, variants in case["unnormalized"].items():
            for variant, want in variants.items():
                ours = action_statistics(statistics, dataset).unnormalise(centres, epsilon=EPSILON[variant])
                np.testing.assert_allclose(ours, want, atol=1e-12)


def test_missing_mask_scales_everything_and_unknown_keys_are_named(statistics, key):
    plain = Statistics.from_json({"q01": [0.0, 0.0], "q99": [2.0, 4.0]})
    np.testing.assert_allclose(plain.unnormalise(np.array([0.0, 1.0]), epsilon=0.0), [1.0, 4.0])
    with pytest.raises(CheckpointError, match=f"'no such dataset'.*{re.escape(key)}"):
        action_statistics(statistics, "no such dataset")


def test_normalise_inverts_unnormalise(statistics, key):
    stats = action_statistics(statistics, key)
    values = np.linspace(-0.9, 0.9, 7)
    np.testing.assert_allclose(stats.normalise(stats.unnormalise(values, epsilon=1e-8)), values, atol=1e-9)
