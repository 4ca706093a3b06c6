"""Serving settings: refused where the machine cannot keep them, harmless where it can."""

import numpy as np
import pytest
import torch

from gymnast_core.errors import ConfigError
from gymnast_core.policies.openvla.published import read_published
from gymnast_core.policies.openvla.serving import Serving
from tests.policies.openvla_folder import observation, write_folder

TEXT = ["open drawer", "put the red cube on the plate"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "tiny"
    write_folder(path)
    return path


def test_bf16_on_a_cpu_keeps_version_float32_probabilities_and_few_shapes(folder):
    plain = read_published(folder, pipeline="rl").act(observation(2), TEXT)
    served = read_published(folder, pipeline="rl").served(Serving("cpu", "bfloat16", compiled=False))
    assert next(served.network.parameters()).dtype is torch.bfloat16
    chunk = served.act(observation(2), TEXT)
    assert chunk.policy_version == plain.policy_version
    assert chunk.log_probs_BKA.dtype == np.float32
    assert served.tokenizer.batch(TEXT)[0].shape[1] == 32


def test_settings_this_machine_cannot_keep():
    with pytest.raises(ConfigError, match="compiled needs a CUDA device"):
        Serving("cpu")
    with pytest.raises(ConfigError, match="dtype"):
        Serving("cpu", "int4", compiled=False)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA GPU"):
            Serving("cuda:0")


@pytest.mark.gpu
def test_cuda_graphs_agree_with_eager(folder):
    eager = read_published(folder, pipeline="rl").served(Serving("cuda", "float32", compiled=False))
    fast = read_published(folder, pipeline="rl").served(Serving("cuda", "float32", compiled=True))
    frames = observation(2).images["front"]
    with torch.no_grad():
        torch.testing.assert_close(fast.logits(frames, TEXT), eager.logits(frames, TEXT), atol=1e-2, rtol=1e-3)
