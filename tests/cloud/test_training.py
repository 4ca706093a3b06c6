import math

import numpy as np
import pytest
import torch
from torch import nn

from cloud_trainer.progress import CancelledError
from cloud_trainer.training import Descent, ModelTrainer
from gymnast_core.errors import CorruptError


class LineTrainer(ModelTrainer):
    """Learns to add numbers up; notes the mode in which each step finds the network."""

    stage, title = "line", "line fit"
    save_every, reported = 10, 4

    def __init__(self, iterations, width=3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Linear(width, 1)
        self.modes = []
        self._rng = np.random.default_rng(0)
        descent = Descent(iterations, 0.1, 0.0, warmup=2)
        super().__init__(self.network, descent, {"line": self.network}, {"points": self._rng})

    def loss(self):
        self.modes.append(self.network.training)
        x = torch.from_numpy(self._rng.normal(size=(8, self.network.in_features)).astype(np.float32))
        return (self.network.train()(x)[:, 0] - x.sum(1)).square().mean()


def stop_at(trainer, step):
    return lambda: trainer.step == step


def test_rate_rises_over_the_warmup_and_falls_as_a_cosine_to_its_floor():
    descent = Descent(100, 2.0, 0.0, warmup=4, floor=0.5)
    assert descent.rate(0) == pytest.approx(2.0 * 1 / 4)
    assert descent.rate(50) == pytest.approx(2.0 * (0.5 + 0.5 * 0.5))
    assert descent.rate(75) == pytest.approx(2.0 * (0.5 + 0.25 * (1 - math.sqrt(0.5))))
    assert descent.rate(100) == pytest.approx(2.0 * 0.5)


def test_first_update_of_a_weight_is_the_rate_of_that_step():
    trainer = LineTrainer(30)
    before = trainer.network.weight.detach().clone()
    trainer.run_step()
    moved = (trainer.network.weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05), rtol=1e-4, atol=0)


def test_network_is_in_eval_mode_between_steps():
    trainer = LineTrainer(2)
    trainer.network.eval()
    trainer.run()
    assert trainer.modes == [False, False]
    assert not trainer.network.training


def test_cancelled_run_goes_on_from_its_state_file_bit_for_bit(tmp_path):
    straight, halved, resumed = LineTrainer(30), LineTrainer(30), LineTrainer(30)
    straight.run()
    with pytest.raises(CancelledError, match="line fit cancelled at step 17 of 30"):
        halved.run(state=tmp_path / "state", cancelled=stop_at(halved, 17))
    resumed.run(state=tmp_path / "state")
    assert resumed.losses == straight.losses
    assert torch.equal(resumed.network.weight, straight.network.weight)


def test_state_file_is_written_every_so_many_steps(tmp_path):
    trainer, later = LineTrainer(25), LineTrainer(25)
    trainer.run(state=tmp_path / "state")
    later.load(tmp_path / "state")
    assert (later.step, later.losses) == (20, trainer.losses[:20])


def test_state_of_another_shape_is_refused(tmp_path):
    LineTrainer(5, width=2).save(tmp_path / "state")
    with pytest.raises(CorruptError, match="delete it to start over"):
        LineTrainer(5).run(state=tmp_path / "state")


def test_progress_comes_every_twenty_steps_and_at_the_end_with_the_mean_of_the_last_losses():
    events = []
    trainer = LineTrainer(30)
    trainer.run(progress=events.append)
    assert [(event.stage, event.step, event.total) for event in events] == [("line", 20, 30), ("line", 30, 30)]
    assert events[0].metrics["loss"] == pytest.approx(sum(trainer.losses[16:20]) / 4)
