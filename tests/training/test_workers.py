import json
import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from tiny import (
    ALONE,
    perform,
    tasks,
    tiny_feed,
    tiny_model,
    tiny_recipe,
    without_time,
)
from torch import Tensor

from kd_ray.batch import Batch
from kd_ray.config import Named, Objective, Train
from kd_ray.errors import CheckpointError, StorageError, TrainingError
from kd_ray.result import read_result
from kd_ray.runs import Finished
from kd_ray.training.batch_loss import BatchLoss
from kd_ray.training.evaluation import evaluate
from kd_ray.training.feed import TensorFeed
from kd_ray.training.loop import fit
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Training
from kd_ray.training.workers import Worker, average_buffers, from_first, summed, together
from kd_ray.transfer_set import read_manifest

CPU = torch.device("cpu")
OPTIONS = Train(epochs=3, batch_size=7, lr=0.01, schedule=Named(name="one-cycle"))
RECIPE = (
    *("student.baselines=[]", "train.optimizer='sgd'", "transfer_set.shard_rows=50"),
    "specialists={ count = 2, classes_each = 4, train = { epochs = 2, lr = 0.01 } }",
)


@given(rows=st.integers(0, 10_000), world=st.integers(1, 64))
def test_part_of_shares_rows_out_without_gap_or_overlap(rows: int, world: int):
    parts = [Worker(rank, world, CPU, 1).part_of(rows) for rank in range(world)]
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_alone_every_function_is_the_identity():
    values = torch.tensor([1.0, 2.0])
    assert summed(values) is values
    assert from_first(7, CPU) == 7
    model = torch.nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average_buffers(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_alone_together_raises_what_the_block_raised():
    error = StorageError("disk: full")
    with pytest.raises(StorageError) as caught, together(CPU):
        raise error
    assert caught.value is error


@dataclass(frozen=True)
class RecordingFeed(TensorFeed):
    """A feed that notes the rows of each batch, and how many are this worker's."""

    orders: list[list[int]] = field(default_factory=list)
    mine: list[int] = field(default_factory=list)

    def batch(self, order: Tensor, mine: slice, epoch: int) -> Batch:
        self.orders.append(order.tolist())
        self.mine.append(len(order[mine]))
        return super().batch(order, mine, epoch)


def with_unasked() -> torch.nn.Module:
    """A model of which a layer has no part in the answer."""

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.unasked = tiny_model(), torch.nn.Linear(3, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.net(images)
            return logits

    torch.manual_seed(0)
    return Odd()


def trained(
    worker: Worker, name: str = "hinton", made: Callable[[], torch.nn.Module] = tiny_model
) -> dict[str, Any]:
    """What one worker sees of a training with validation on 25 rows, two of them unlabelled."""
    feed = tiny_feed(25)
    feed.labels[[3, 17]] = -1
    objective = BatchLoss(Objective(name=name, temperature=2.0, hard_weight=0.5), 0.0)
    recording = RecordingFeed(**vars(feed))
    model = made()
    training = Training(model, make_optimizer(model, OPTIONS))
    arguments: dict[str, Any] = {"seed": 3, "worker": worker, "validation": tiny_feed(11)}
    for _ in fit(training, recording, objective, OPTIONS, **arguments):
        pass
    return {
        "orders": recording.orders,
        "mine": recording.mine,
        "history": without_time(training.history),
        "weights": [value.tolist() for value in model.state_dict().values()],
        "few rows": evaluate(model, tiny_feed(1), worker),
        "eleven rows": evaluate(model, tiny_feed(11), worker),
    }


def stages(worker: Worker, folder: Path) -> list[str]:
    """All stages of a recipe; the folder is the same on all workers."""
    todo = tasks(tiny_recipe(*RECIPE), folder)
    return [event.result.title for _, event in perform(todo, worker) if _is_finished(event)]


def _is_finished(event: object) -> bool:
    return isinstance(event, Finished) and not event.existed


def raised_by(block: Callable[[], None]) -> list[str]:
    try:
        with together(CPU):
            block()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def broken_run(worker: Worker, folder: Path) -> list[str]:
    """The run folder of worker 0 is no folder, that of worker 1 is none of its business."""
    try:
        perform(tasks(tiny_recipe(*RECIPE), folder), worker)
    except StorageError as error:
        return [type(error).__name__, str(error)]
    return []


def work(rank: int, folder: str) -> None:
    """One of two real processes; what it found goes to a file."""
    torch.set_num_threads(1)
    place = Path(folder)
    found: dict[str, Any] = {}
    try:
        dist.init_process_group("gloo", f"file://{place}/meeting", rank=rank, world_size=2)
        worker = Worker(rank, 2, CPU, threads=1)
        norm = torch.nn.BatchNorm1d(2)
        assert norm.running_mean is not None
        norm.running_mean += torch.tensor([1.0, 2.0]) * (rank + 1)
        norm.register_buffer("constant", torch.tensor(float(rank)), persistent=False)
        average_buffers(norm)

        def only_the_second() -> None:
            if rank == 1:
                raise CheckpointError("second: broken")

        def both() -> None:
            raise TrainingError(f"worker {rank}: broken")

        (place / "file").touch()
        found = {
            "summed": summed(torch.tensor([1.0 + rank, 10.0], dtype=torch.float64)).tolist(),
            "buffer": norm.running_mean.tolist(),
            "constant": float(norm.get_buffer("constant")),
            "from first": from_first(40 + rank, CPU),
            "one error": raised_by(only_the_second),
            "two errors": raised_by(both),
            "no error": raised_by(lambda: None),
            "trained": trained(worker),
            "correlated": trained(worker, "dist"),
            "unasked": trained(worker, made=with_unasked),
            "stages": stages(worker, place / "run"),
            "broken run": broken_run(worker, place / "file"),
        }
        dist.destroy_process_group()
    except Exception:
        found = {"crash": traceback.format_exc()}
    (place / f"found-{rank}.json").write_text(json.dumps(found))
    # Gloo's threads sometimes abort an interpreter that takes itself down in good order.
    os._exit(0)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A folder, and what each of two real workers found in it."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    first, second = (json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1))
    assert "crash" not in first, first["crash"]
    assert "crash" not in second, second["crash"]
    return folder, first, second


Two = tuple[Path, dict[str, Any], dict[str, Any]]


def test_summed_adds_up_over_two_workers(two: Two):
    assert two[1]["summed"] == two[2]["summed"] == [3.0, 20.0]


def test_average_buffers_makes_running_means_the_same_on_both_workers(two: Two):
    assert two[1]["buffer"] == two[2]["buffer"] == [1.5, 3.0]


def test_average_buffers_leaves_constants_alone_that_no_checkpoint_has(two: Two):
    assert [found["constant"] for found in two[1:]] == [0.0, 1.0]


def test_layers_that_nothing_asks_are_not_waited_for(two: Two):
    assert two[1]["unasked"]["weights"] == two[2]["unasked"]["weights"]
    assert two[1]["unasked"]["weights"][:-2] == two[1]["trained"]["weights"]


def test_from_first_is_the_first_workers_value_on_both(two: Two):
    assert two[1]["from first"] == two[2]["from first"] == 40


def test_together_raises_the_error_of_one_worker_on_both(two: Two):
    assert two[1]["one error"] == two[2]["one error"] == ["CheckpointError", "second: broken"]


def test_together_lets_each_worker_keep_its_own_error(two: Two):
    assert two[1]["two errors"] == ["TrainingError", "worker 0: broken"]
    assert two[2]["two errors"] == ["TrainingError", "worker 1: broken"]
    assert two[1]["no error"] == two[2]["no error"] == []


def test_fit_draws_the_same_order_of_rows_for_one_worker_and_for_two(two: Two):
    alone = trained(ALONE)
    for found in two[1:]:
        assert found["trained"]["orders"] == alone["orders"]
    both = zip(two[1]["trained"]["mine"], two[2]["trained"]["mine"], strict=True)
    assert [sum(parts) for parts in both] == alone["mine"]


@pytest.mark.parametrize(("what", "name"), [("trained", "hinton"), ("correlated", "dist")])
def test_fit_on_two_workers_learns_what_one_worker_learns(two: Two, what: str, name: str):
    alone, first, second = trained(ALONE, name), two[1][what], two[2][what]
    assert first["weights"] == second["weights"]
    assert first["history"] == second["history"]
    for ours, theirs in zip(first["weights"], alone["weights"], strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(first["history"], alone["history"], strict=True):
        assert ours["learning_rate"] == theirs["learning_rate"]
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_evaluate_on_two_workers_counts_every_row_once_even_where_one_has_none(two: Two):
    alone = trained(ALONE)
    for key in ("few rows", "eleven rows"):
        assert two[1]["trained"][key] == two[2]["trained"][key]
        assert two[1]["trained"][key] == pytest.approx(alone[key], rel=1e-4)


def test_perform_all_on_two_workers_makes_every_artefact_once(two: Two, tmp_path: Path):
    folder, first, second = two
    assert first["stages"] == second["stages"]
    todo = tasks(tiny_recipe(*RECIPE), tmp_path)
    perform(todo)
    for task, theirs in zip(todo, tasks(tiny_recipe(*RECIPE), folder / "run"), strict=True):
        ours, shared = read_result(task.folder), read_result(theirs.folder)
        assert ours is not None
        assert shared is not None
        assert task.title in first["stages"]
        assert ours.identity == shared.identity
        if task.stage.name not in ("teach", "distill"):
            assert ours.metrics["rows"] == shared.metrics["rows"]
            continue
        # Dropout draws differ between one worker and two, so the figures are alike, not equal.
        for one, both in zip(ours.history, shared.history, strict=True):
            assert one["learning_rate"] == both["learning_rate"]
            assert one["train_loss"] == pytest.approx(both["train_loss"], rel=0.2)
    assert read_manifest(folder / "run" / "transfer_set").files


def test_two_workers_combine_specialists_to_the_bytes_that_one_makes(two: Two, tmp_path: Path):
    folder = Path(shutil.copytree(two[0] / "run", tmp_path / "run"))
    todo = tasks(tiny_recipe(*RECIPE), folder)
    (combine,) = [task for task in todo if task.stage.name == "combine"]
    theirs = read_result(combine.folder)
    shutil.rmtree(combine.folder)
    perform([combine])
    ours = read_result(combine.folder)
    assert ours is not None
    assert theirs is not None
    assert ours.sha256 == theirs.sha256
    assert ours.parents == theirs.parents
    for key in ("coverage", "combined"):
        assert ours.details[key] == theirs.details[key]


def test_perform_all_raises_on_both_workers_what_stops_the_first(two: Two):
    assert two[1]["broken run"] == two[2]["broken run"]
    assert two[1]["broken run"][0] == "StorageError"
