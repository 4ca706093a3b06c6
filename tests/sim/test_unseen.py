"""The words that benchmarks.unseen asks in are ones that nothing trains on."""

from benchmarks.unseen import HELD_OUT
from cloud_trainer.practice.instructions import paraphrases
from gymnast_ros.sim.tasks import TASKS


def test_held_out_words_are_none_a_template_makes():
    assert set(HELD_OUT) == set(TASKS)
    for name, texts in HELD_OUT.items():
        trained = {TASKS[name].instruction, *paraphrases(TASKS[name].instruction)}
        assert len(set(texts)) == 5
        assert not trained & set(texts)
