"""Several practices of one job and the mean of their weights."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_trainer.jobs.averaged import USUAL
from cloud_trainer.jobs.improve import improve
from cloud_trainer.progress import CancelledError
from gymnast_core.errors import ConfigError
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.records.manifest import read_manifest
from tests.cloud.jobs import TINY, job_of

USUALLY = {name: value for name, value in TINY.items() if name != "practices"}


def weights(folder):
    return dict(load_trainable(folder).network.named_parameters())


def test_what_is_offered_is_the_mean_of_practices_that_differ(material, tmp_path):
    events = []
    job = job_of(material, tmp_path, config=USUALLY)
    result = improve(dataclasses.replace(job, progress=events.append))
    last = result.candidates[-1]
    single = [tmp_path / f"candidates-{n + 1}" / "iteration-02" for n in range(USUAL)]
    parts = [weights(folder) for folder in single]
    assert any(not torch.equal(parts[0][name], parts[1][name]) for name in parts[0])
    for name, mean in weights(Path(last.folder)).items():
        torch.testing.assert_close(mean, torch.stack([part[name] for part in parts]).mean(0))
    made = read_manifest(Path(last.folder))
    assert made.lineage["averaged"] == [read_manifest(folder).id for folder in single]
    assert made.parents == (read_manifest(job.checkpoints["policy"]).id,)
    rewards = [read_manifest(folder).lineage["imagined_reward"] for folder in single]
    assert last.imagined_reward == pytest.approx(np.mean(rewards))
    updates = [(event.step, event.total) for event in events if event.stage == "grpo"]
    assert updates == [(step + 1, 2 * USUAL) for step in range(2 * USUAL)]


def test_an_interrupted_job_offers_the_same_in_the_end(material, tmp_path):
    straight, done = improve(job_of(material, tmp_path / "straight", config=USUALLY)), []

    def report(event):
        done.extend([event] * (event.stage == "grpo"))

    stopped = job_of(material, tmp_path / "stopped", config=USUALLY, cancelled=lambda: len(done) == 3)
    with pytest.raises(CancelledError):
        improve(dataclasses.replace(stopped, progress=report))
    resumed = improve(job_of(material, tmp_path / "stopped", config=USUALLY))
    assert [one.id for one in resumed.candidates] == [one.id for one in straight.candidates]


def test_one_practice_where_one_is_asked_for_or_an_adapter_is_trained(material, tmp_path):
    improve(job_of(material, tmp_path / "one"))
    improve(job_of(material, tmp_path / "lora", mode="lora", config=USUALLY))
    for name in ("one", "lora"):
        assert "averaged" not in read_manifest(tmp_path / name / "candidates" / "iteration-02").lineage
    with pytest.raises(ConfigError, match=r"practices is 2.*adapter"):
        improve(job_of(material, tmp_path / "both", mode="lora", config={**TINY, "practices": 2}))
    assert not list((tmp_path / "both").iterdir()), "refused before anything was spent"


def test_an_adapter_that_goes_on_is_not_averaged(material, tmp_path):
    checkpoints, files = material
    first = improve(job_of(material, tmp_path / "first", mode="lora"))
    folder = Path(first.candidates[-1].folder)
    parent = {**checkpoints, "policy": folder}
    asked = {"policy": first.candidates[-1].id, "mode": "full"}
    with pytest.raises(ConfigError, match=r"practices is 2.*adapter"):
        improve(job_of((parent, files), tmp_path / "two", config={**TINY, "practices": 2}, **asked))
    improve(job_of((parent, files), tmp_path / "usual", config=USUALLY, **asked))
    assert "averaged" not in read_manifest(tmp_path / "usual" / "candidates" / "iteration-02").lineage
