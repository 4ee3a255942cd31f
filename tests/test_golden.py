"""Ten steps of each procedure on a real dataset, against numbers stored here.

Everything that touches the arithmetic of a training shows up in these numbers: rows, views,
normalization, initial weights, dropout, loss, schedule, optimizer. They moved by 2e-7 between
instruction sets (ATEN_CPU_CAPABILITY default, avx2, avx512); a change is a change of behaviour.
"""

from pathlib import Path

import pytest
from tiny import perform, tasks, tiny_recipe

from kd_ray.stages import Finished

RECIPE = (
    "data.fraction=0.05",  # 69 rows, which are one batch: an epoch is a step
    "teacher.members=2",
    "teacher.train.epochs=10",
    "teacher.train.batch_size=1000",
    "teacher.train.augment.shift=1",
    "transfer_set.views=2",
    "transfer_set.augment.shift=1",
    "student.baselines=[]",
    "train.epochs=10",
    "train.batch_size=1000",
    "train.optimizer='sgd'",
    "train.schedule='one-cycle'",
    "train.lr=0.05",
)

GOLDEN = {
    "teacher 0": [
        *(3.18382001, 2.93313861, 2.64009523, 2.53319597, 2.38467836),
        *(2.32755589, 2.59290361, 2.44744801, 2.17578864, 2.31442189),
    ],
    "teacher 1": [
        *(3.37326360, 2.99543571, 2.98614120, 2.74341416, 2.53031135),
        *(2.40248275, 2.53733778, 2.54190946, 2.34869671, 2.39187503),
    ],
    "student distilled, seed 0": [
        *(40.1665001, 40.7143250, 39.5382614, 39.3564301, 39.1185341),
        *(39.1931686, 39.1019592, 39.1694489, 39.1071396, 39.1726265),
    ],
}


def test_ten_steps_of_each_procedure_have_the_losses_they_always_had(tmp_path: Path):
    found = {
        event.result["title"]: [record["train_loss"] for record in event.result["history"]]
        for task, event in perform(tasks(tiny_recipe(*RECIPE), tmp_path))
        if isinstance(event, Finished) and task.stage != "label"
    }
    assert found.keys() == GOLDEN.keys()
    for title, losses in GOLDEN.items():
        assert found[title] == pytest.approx(losses, rel=1e-6), title
