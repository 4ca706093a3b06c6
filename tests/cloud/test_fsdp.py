"""The sharded learner does what one process does, whatever is chosen: the same loop, state file and candidates."""

import numpy as np
import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file

from cloud_trainer.practice.ray.fsdp import read_message, write_message
from gymnast_core.records.manifest import read_manifest
from tests.cloud.learning_fakes import tiny_policy
from tests.cloud.local_sampler import run_grpo
from tests.cloud.rank_parts import CHOICES, Planted, base_of, job_of, rank_main

pytestmark = pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")  # nothing here writes in place


def in_one_process(job, config=None):
    return run_grpo(
        job.parent, Planted(job), config or job.config, job.out, candidate_every=job.candidate_every,
        state=job.state, lineage=job.lineage, anchor=None if job.anchor is None else job.anchor(),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[1, 2])
def ranks(request, tmp_path_factory):
    """What so many ranks left, a folder for each choice."""
    folder = tmp_path_factory.mktemp(f"ranks-{request.param}")
    for name in CHOICES:
        base_of(name).save(folder / name / "base")
    if request.param == 1:
        rank_main(0, 1, folder)
    else:
        torch.multiprocessing.spawn(rank_main, args=(request.param, folder), nprocs=request.param)
    return folder


@pytest.mark.parametrize("name", CHOICES)
def test_ranks_learn_what_one_process_learns_through_a_stop(ranks, tmp_path, name):
    base_of(name).save(tmp_path / "base")
    alone, spread = job_of(tmp_path, name), job_of(ranks / name, name)
    training = in_one_process(alone)
    moved = 0.0
    for candidate in training.candidates:
        found = spread.out / candidate.folder.name
        theirs, ours = read_manifest(found), read_manifest(candidate.folder)
        assert (theirs.parents, theirs.lineage) == (ours.parents, ours.lineage)
        weights, base = load_file(found / "weights.safetensors"), base_of(name).network.state_dict()
        for key, tensor in load_file(candidate.folder / "weights.safetensors").items():
            torch.testing.assert_close(weights[key], tensor, atol=2e-5, rtol=1e-4)
            moved = max(moved, float((tensor - base.get(key, tensor)).abs().max()))  # a tokeniser is no weight
    assert moved > 1e-4
    history = in_one_process(spread).history  # its state file is one that this process goes on from: all is done
    for theirs, ours in zip(history, training.history, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-6)


def test_a_run_of_several_ranks_goes_on_in_one_process(ranks, tmp_path):
    spread = job_of(ranks / "surplus", "surplus")
    longer = spread.config.changed(iterations=4)
    tiny_policy().save(tmp_path / "base")
    straight = in_one_process(job_of(tmp_path, "surplus"), longer)
    went_on = in_one_process(spread, longer)
    assert [row["groups"] for row in went_on.history] == [row["groups"] for row in straight.history] == [2.0] * 4
    assert went_on.history[-1] == pytest.approx(straight.history[-1], rel=1e-3, abs=1e-6)


def test_a_message_has_every_bit_of_its_arrays():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False])}
    header, found = read_message(write_message({"rng": {"state": 2**100}}, arrays))
    assert header == {"rng": {"state": 2**100}}
    assert all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in arrays.items()
    )
