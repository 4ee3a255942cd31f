"""No step waits for a device, shown on one that computes nothing: torch's meta device.

A figure that is read there is an error. Copies to it that would wait are counted, and so are
operations that would copy by themselves, as an index on the CPU does.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import quantizer_options, tiny_dataset, tiny_feed, tiny_meta, tiny_model
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kd_ray.batch import UNLABELLED, Batch
from kd_ray.config import Augment, Objective, StudentTrain, TransferSetOptions
from kd_ray.models import build_model
from kd_ray.quant import quantize_
from kd_ray.runs.rows import rows_to_label
from kd_ray.training import epoch, fused
from kd_ray.training.batch_loss import BatchLoss
from kd_ray.training.epoch import Turn, train_epoch
from kd_ray.training.evaluation import evaluate
from kd_ray.training.feed import TensorFeed
from kd_ray.training.fused import train_together
from kd_ray.training.losses import Ensemble
from kd_ray.training.progress import Training
from kd_ray.training.saved_model import SavedModel, raw_logits
from kd_ray.training.schedule import make_schedule
from kd_ray.training.workers import Worker

META = torch.device("meta")
THERE = Worker(rank=0, world=1, device=META, threads=1)
COPIES = {"_to_copy", "copy_", "to"}
MAKERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
SHAPE = (1, 8, 8)


@dataclass
class Watch:
    """What waited while it was on."""

    on: bool = False
    over: bool = False
    waits: list[str] = field(default_factory=list)

    def note(self, what: Any) -> None:
        if self.on:
            self.waits.append(str(what))

    def over_all(self, parts: Iterable[Any]) -> Iterator[Any]:
        """The parts of some work; it is watched from the second to the last."""
        inner = iter(parts)
        yield next(inner)
        self.on = True
        yield from inner
        self.on, self.over = False, True


class Operations(TorchDispatchMode):
    """Notes copies that wait, and operations on tensors of two devices."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
        moved = len({tensor.device.type for tensor in given if tensor.dim()}) > 1
        asked_not_to = kwargs.get("non_blocking") or any(arg is True for arg in args[2:])
        if moved and not (func.overloadpacket.__name__ in COPIES and asked_not_to):
            self.watch.note(func)
        return made


class Makers(TorchFunctionMode):
    """Notes tensors that are made of Python's numbers on the device, which is a copy that waits."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        by_list = func is Tensor.__getitem__ and isinstance(args[1], list)
        if (func in MAKERS or by_list) and made.device == META:
            self.watch.note(func)
        return made


@dataclass(frozen=True)
class Watched:
    """A feed whose steps are watched."""

    feed: TensorFeed
    watch: Watch
    rows: int = 24

    def batches(self, *arguments: Any) -> Iterator[Batch]:
        yield from self.watch.over_all(self.feed.batches(*arguments))


def student(watch: Watch, net: str, number: int = 0, objective: Any = None) -> Turn:
    """A student in its second epoch, in which views are rendered."""
    options = {"hidden": [6]} if net == "mlp" else {"groups": [[3, 4]]}
    kind = "mlp" if net == "mlp" else "convnet"
    model = build_model(kind, options, shape=SHAPE, classes=3, seed=number)
    if net not in ("mlp", "convnet"):
        quantize_(model, quantizer_options(net, 2, 2), SHAPE)
    model = model.to(META)
    pixels = torch.zeros(24, *SHAPE, dtype=torch.uint8)
    feed = tiny_feed(24, views=2, pixels=pixels, augment=Augment(shift=1, rotate=5.0, color=0.1))
    feed.labels[::5] = UNLABELLED
    train = StudentTrain(epochs=2, batch_size=6, grad_clip=1.0)
    weights = Ensemble(weights=(0.1 * number, 1 - 0.1 * number))
    there = feed.to(META)
    there.__dict__["_labelled"] = feed._labelled  # which is read once, before the first step
    wanted = Objective.model_validate(objective or {"temperature": 2.0 + number})
    return Turn(
        Training(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), epoch=1),
        Watched(there, watch),
        BatchLoss(wanted, 0.1, weights),
        train,
        make_schedule("cosine", {}),
        seed=0,
    )


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    for module in (epoch, fused):
        monkeypatch.setattr(module, "autocast", lambda precision, device: nullcontext())
    return Watch()


def read_at_the_end(watch: Watch, work: Callable[[], object]) -> None:
    """Work whose figures are read once, at its end, which this device has none to give for."""
    with Operations(watch), Makers(watch), pytest.raises((RuntimeError, NotImplementedError)) as e:
        work()
    assert "meta" in str(e.value), e.value
    ours = [str(entry) for entry in e.traceback if "kd_ray" in str(entry.path)]
    assert watch.over, f"{e.value}, at {ours[-1]}"
    assert not watch.waits


@pytest.mark.parametrize(
    "objective",
    [
        *({"name": name, "temperature": 2.0} for name in ("hinton", "dkd", "dist", "wttm")),
        {"ensemble": "geometric", "temperature": 2.0},
        {"targets": "labels"},
    ],
    ids=lambda objective: "-".join(map(str, objective.values())),
)
def test_no_step_of_any_objective_waits(watch: Watch, objective: Any):
    one = student(watch, "mlp", 1, objective)
    read_at_the_end(watch, lambda: list(train_epoch(one, one.training.model, THERE)))


@pytest.mark.parametrize("net", ["convnet", "dorefa", "megvii", "lsq", "pact"])
def test_no_step_of_a_quantized_student_waits(watch: Watch, net: str):
    one = student(watch, net)
    read_at_the_end(watch, lambda: list(train_epoch(one, one.training.model, THERE)))


@pytest.mark.parametrize("net", ["mlp", "convnet", "dorefa"])
def test_no_step_of_students_trained_as_one_waits(watch: Watch, net: str):
    dkd = {"name": "dkd", "temperature": 2.0}
    turns = [student(watch, net, number, dkd if number == 1 else None) for number in range(4)]
    read_at_the_end(watch, lambda: list(train_together(turns, THERE)))


def test_no_batch_of_an_evaluation_waits(watch: Watch, monkeypatch: pytest.MonkeyPatch):
    feed, of = tiny_feed(600), TensorFeed.of
    monkeypatch.setattr(TensorFeed, "of", lambda *a, **k: watch.over_all(of(*a, **k)))
    model, there = tiny_model().to(META), feed.to(META)
    there.__dict__["_labelled"] = feed._labelled
    read_at_the_end(watch, lambda: evaluate(model, there, THERE))


def test_no_piece_of_a_shard_that_is_labelled_waits(watch: Watch):
    dataset = tiny_dataset(train=3000)
    options = TransferSetOptions(views=2, augment=Augment(shift=1, color=0.1))
    chosen = rows_to_label(dataset, options)["train"]
    about = tiny_meta(dataset, {"name": "mlp", "hidden": [5]})
    teachers = [SavedModel(Path("teacher"), about, tiny_model(seed).to(META)) for seed in (0, 1)]
    pieces = watch.over_all(chosen.images(torch.arange(6000), META))
    read_at_the_end(watch, lambda: raw_logits(teachers, pieces, META))
