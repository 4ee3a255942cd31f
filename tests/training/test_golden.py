"""Ten steps of each procedure on a real dataset, against numbers stored here.

Everything that touches the arithmetic of a training shows up in these numbers: rows, views,
normalization, initial weights, dropout, loss, schedule, optimizer. They moved by 2e-7 between
instruction sets (ATEN_CPU_CAPABILITY default, avx2, avx512); a change is a change of behaviour.
"""

from pathlib import Path

import pytest
from tiny import perform, tasks, tiny_recipe

from kd_ray.runs import Finished

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

FEW_BITS = (
    "student.model={ name = 'convnet', groups = [[4], [8]] }",
    "student.quantizer={ method = 'dorefa', weight_bits = 2, activation_bits = 2 }",
)
SPECIALISTS = (
    "specialists={ count = 2, classes_each = 5, top_n = 2 }",
    "specialists.train={ epochs = 10, batch_size = 1000, lr = 0.01, augment = { shift = 1 } }",
)

GOLDEN = {
    "teacher 0": [
        *(2.36994982, 2.27674198, 2.28081131, 2.24124336, 2.20730782),
        *(2.19514251, 2.17317104, 2.18074965, 2.20950127, 2.17881393),
    ],
    "teacher 1": [
        *(2.36944568, 2.29437113, 2.25610256, 2.22994065, 2.24444556),
        *(2.16774511, 2.23239803, 2.19364166, 2.17020893, 2.18496466),
    ],
    "student distilled, seed 0": [
        *(39.2187309, 39.2313766, 39.2093182, 39.1529159, 39.1388435),
        *(39.1242371, 39.0698471, 39.0916443, 39.0857105, 39.1322517),
    ],
}


QUANTIZED = {
    "student distilled, seed 0": [
        *(39.3065872, 39.2903252, 39.2957382, 39.2575378, 39.2456398),
        *(39.2175522, 39.212265, 39.1949158, 39.1955376, 39.1887054),
    ],
}

SPECIALIZED = {
    "specialist 0": [
        *(1.35560083, 1.28419471, 1.36263549, 1.34252679, 1.29095817),
        *(1.28586292, 1.25671887, 1.1888442, 1.23354483, 1.28858161),
    ],
    "specialist 1": [
        *(1.40454483, 1.44351864, 1.36509132, 1.36111605, 1.34163189),
        *(1.31560397, 1.33105731, 1.29483533, 1.30321634, 1.27586293),
    ],
    "student specialized, seed 0": [
        *(39.2159004, 39.2357368, 39.2052917, 39.1513748, 39.1282234),
        *(39.1181297, 39.0499992, 39.0822144, 39.0680923, 39.1243706),
    ],
}


@pytest.mark.parametrize(
    ("overrides", "golden"),
    [((), GOLDEN), (FEW_BITS, QUANTIZED), (SPECIALISTS, SPECIALIZED)],
    ids=["float", "few bits", "specialists"],
)
def test_ten_steps_of_each_procedure_have_the_losses_they_always_had(
    tmp_path: Path, overrides: tuple[str, ...], golden: dict[str, list[float]]
):
    found = {
        event.result.title: [record["train_loss"] for record in event.result.history]
        for task, event in perform(tasks(tiny_recipe(*RECIPE, *overrides), tmp_path))
        if isinstance(event, Finished) and task.stage.training is not None
    }
    assert found.keys() == GOLDEN.keys() | golden.keys()
    for title, losses in (GOLDEN | golden).items():
        assert found[title] == pytest.approx(losses, rel=1e-6), title
