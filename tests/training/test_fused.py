"""Students trained as one learn what they learn alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import ALONE, quantizer_options, tiny_feed

from kd_ray.batch import Batch
from kd_ray.config import Named, Objective, StudentTrain
from kd_ray.errors import TrainingError
from kd_ray.models import build_model
from kd_ray.quant import calibrate_, quantize_
from kd_ray.training.batch_loss import BatchLoss, label_objective, losses_of_all
from kd_ray.training.epoch import Turn, train_epoch
from kd_ray.training.feed import TensorFeed
from kd_ray.training.fused import is_faster, most_in_memory, obstacle, train_together
from kd_ray.training.losses import Ensemble
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Training
from kd_ray.training.schedule import make_schedule

SHAPE = (1, 8, 8)
STEPS = 100
FEWER = 25
OBJECTIVES = (
    Objective(temperature=1.0),
    Objective(temperature=4.0, hard_weight=0.5),
    Objective.model_validate({"soft_weight": 0}),
)

MIXED = [
    BatchLoss(Objective(temperature=2.0), smoothing=0),
    BatchLoss(Objective(name="dkd", temperature=2.0), smoothing=0),
    BatchLoss(Objective(temperature=3.0, hard_weight=0.0), smoothing=0.1),
    BatchLoss(Objective(temperature=4.0, hard_weight=0.5), smoothing=0.1),
    BatchLoss(Objective(targets="labels", hard_weight=0.5), smoothing=0),
    BatchLoss(Objective(temperature=2.0, hard_weight=0.0, soft_decay=0.5), smoothing=0),
    label_objective(0.1),
]
"""Of five kinds, those of one kind apart from each other."""


def feed(rows: int = 24, classes: int = 3) -> TensorFeed:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (rows, *SHAPE), generator=draw).to(torch.uint8)
    logits = torch.randn(rows, 1, 2, classes, generator=draw)
    return tiny_feed(rows, pixels=pixels, logits=logits)


def turn(number: int, model: torch.nn.Module, **changes: Any) -> Turn:
    """A student of numbers of its own."""
    train = StudentTrain.model_validate(
        {
            "epochs": 120,
            "batch_size": 24,
            "lr": changes.pop("lr", 0.002) * (1 + number),
            "weight_decay": 0.01 * number,
            "momentum": 0.9 - 0.1 * number,
            "schedule": Named(name=("cosine", "one-cycle", "constant")[number]),
            **{key: value for key, value in changes.items() if key in StudentTrain.model_fields},
        }
    )
    weights = Ensemble(weights=(0.25 * number, 1 - 0.25 * number))
    return Turn(
        Training(model, make_optimizer(model, train)),
        DoubleFeed(feed()) if changes.get("double") else changes.get("feed") or feed(),
        BatchLoss(changes.get("objective") or OBJECTIVES[number], train.label_smoothing, weights),
        train,
        make_schedule(train.schedule.name, train.schedule.options),
        seed=changes.get("seed", number // 2),
    )


def students(
    name: str = "mlp", options: Any = None, quantizer: Any = None, **changes: Any
) -> list[Turn]:
    """Three students of one architecture."""
    found = []
    for number in range(3):
        model = build_model(
            name, options or {"hidden": [6]}, shape=SHAPE, classes=3, seed=10 + number
        )
        if quantizer is not None:
            quantize_(model, quantizer, SHAPE)
            calibrate_(model, torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1)))
        if changes.get("double"):
            model = model.double()
        found.append(turn(number, model, **changes))
    return found


def quantized(weights: int, activations: int, seed: int) -> torch.nn.Module:
    model = build_model("convnet", {"groups": [[3, 4]]}, shape=SHAPE, classes=3, seed=seed)
    quantize_(model, quantizer_options("dorefa", weights, activations), SHAPE)
    return model.double()


def next_turns(turns: Sequence[Turn]) -> list[Turn]:
    """The same trainings an epoch further on."""
    for each in turns:
        each.training.epoch += 1
    return [
        Turn(each.training, each.feed, each.objective, each.options, each.schedule, each.seed)
        for each in turns
    ]


def losses(turns: list[Turn], together: bool, epochs: int) -> torch.Tensor:
    """The loss of each epoch and student, `(epochs, S)`; then the weights are trained."""
    found = []
    for _ in range(epochs):
        if together:
            list(train_together(turns, ALONE))
        else:
            for each in turns:
                list(train_epoch(each, each.training.model, ALONE))
        found.append([each.figures()["train_loss"] for each in turns])
        turns = next_turns(turns)
    return torch.tensor(found, dtype=torch.float64)


NETS = {
    "mlp": ("mlp", {"hidden": [6, 5]}),
    "max-norm": ("mlp", {"hidden": [6], "max_norm": 0.7}),
    "convnet": ("convnet", {"groups": [[3], [4, 4]]}),
    "resnet": ("resnet20", {"width": 2}),
}


@dataclass(frozen=True)
class DoubleFeed:
    """The rows of a feed in double precision, in which sums of another order hardly differ."""

    feed: TensorFeed
    rows: int = 24

    def batches(self, *arguments: Any) -> Iterator[Batch]:
        for batch in self.feed.batches(*arguments):
            v = batch.teacher_logits
            assert v is not None
            yield replace(batch, images=batch.images.double(), teacher_logits=v.double())


def check_equal(rtol: float, *arguments: Any, double: bool = False, **changes: Any) -> None:
    """Holds the losses of students trained as one against those of each alone."""
    ways = {}
    for together in (False, True):
        turns = students(*arguments, double=double, **changes)
        ways[together] = losses(turns, together, FEWER if double else STEPS)
    assert (ways[True] > 0).all()
    torch.testing.assert_close(ways[True], ways[False], rtol=rtol, atol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("net", [*list(NETS)[:-1], pytest.param("resnet", marks=pytest.mark.slow)])
def test_students_trained_as_one_have_the_losses_of_each_alone(net: str, optimizer: str) -> None:
    check_equal(1e-9, *NETS[net], double=True, optimizer=optimizer, grad_clip=1.5)


@pytest.mark.parametrize("net", [*list(NETS)[:-1], pytest.param("resnet", marks=pytest.mark.slow)])
def test_a_hundred_steps_in_single_precision_differ_by_a_hundred_thousandth(net: str) -> None:
    # Deep networks carry a difference on further than flat ones.
    check_equal(1e-5, *NETS[net], optimizer="sgd", lr=1e-5 if net == "resnet" else 1e-4)


@pytest.mark.parametrize(
    "bits", [(1, 2), *(pytest.param(bits, marks=pytest.mark.slow) for bits in ((2, 2), (4, 3)))]
)
@pytest.mark.parametrize("method", ["dorefa", "megvii", "lsq", "pact"])
def test_quantized_students_have_the_losses_of_each_alone(
    method: str, bits: tuple[int, int]
) -> None:
    signed = {"signed_levels": "without-zero"} if method == "lsq" else {}
    quantizer = quantizer_options(method, *bits, **signed)
    # Without pooling: sums of few levels are often equal, and rounding would choose the largest.
    check_equal(1e-9, "convnet", {"groups": [[3, 4, 4]]}, quantizer, double=True)


@pytest.mark.parametrize("images", ["shared", "own"])
def test_students_of_other_bits_have_the_losses_of_each_alone(images: str) -> None:
    ways = {}
    for together in (False, True):
        turns = []
        for number, bits in enumerate([(1, 2), (2, 2), (1, 2), (2, 32)]):
            seed = 0 if images == "shared" else number
            model = quantized(*bits, seed=number)
            turns.append(turn(number % 3, model, double=True, seed=seed))
        ways[together] = losses(turns, together, FEWER)
    torch.testing.assert_close(ways[True], ways[False], rtol=1e-9, atol=0)


@pytest.mark.slow
def test_ends_of_eight_bits_have_the_losses_of_each_alone() -> None:
    quantizer = quantizer_options("dorefa", 2, 2, first_last_bits=8)
    check_equal(1e-5, "convnet", {"groups": [[3, 4]]}, quantizer, optimizer="sgd", lr=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "dkd", "temperature": 2.0},
        {"targets": "labels", "temperature": 2.0, "hard_weight": 0.5},
        {"ensemble": "geometric", "temperature": 3.0},
        {"temperature": 3.0, "soft_warmup": 0.2, "soft_decay": 0.5},
    ],
    ids=str,
)
def test_students_of_any_objective_have_the_losses_of_each_alone(objective: Any) -> None:
    wanted = Objective.model_validate(objective)
    check_equal(1e-9, double=True, objective=wanted, label_smoothing=0.1)


@given(st.permutations(range(len(MIXED))), st.booleans())
def test_each_of_several_losses_is_what_it_is_alone_in_any_order(
    order: list[int], shared: bool
) -> None:
    draw = torch.Generator().manual_seed(len(order))
    batches = [next(feed().batches(seed, 0, 8, 0, ALONE.part_of)) for seed in range(len(MIXED))]
    shown = batches[:1] if shared else [batches[place] for place in order]
    logits = torch.randn(len(order), 8, 3, generator=draw)
    progresses = [place / len(order) for place in order]
    together = losses_of_all([MIXED[place] for place in order], logits, shown, progresses)
    for number, place in enumerate(order):
        batch = shown[0 if shared else number]
        alone = MIXED[place](logits[number], batch, progresses[number])
        for name in ("total", "hard", "soft"):
            ours, theirs = getattr(together, name)[number], getattr(alone, name)
            torch.testing.assert_close(ours, theirs, msg=f"{name} of {place}")


def test_a_training_keeps_its_optimizer_and_gets_its_tensors_back() -> None:
    turns = students("convnet", {"groups": [[3], [4]]})
    parameters = [list(each.training.model.parameters()) for each in turns]
    list(train_together(turns, ALONE))
    for each, own in zip(turns, parameters, strict=True):
        assert all(a is b for a, b in zip(each.training.model.parameters(), own, strict=True))
        assert all(parameter.grad is None for parameter in own)
        assert all(
            parameter.untyped_storage().nbytes() == parameter.numel() * 4 for parameter in own
        )
        assert set(each.training.optimizer.state) == set(own)


def test_one_whose_loss_is_not_finite_fails_alone() -> None:
    turns = students()
    with torch.no_grad():
        next(turns[1].training.model.parameters()).fill_(torch.inf)
    list(train_together(turns, ALONE))
    with pytest.raises(TrainingError, match="the loss must be finite"):
        turns[1].figures()
    alone = students()
    for each in (alone[0], alone[2]):
        list(train_epoch(each, each.training.model, ALONE))
    for one, other in ((turns[0], alone[0]), (turns[2], alone[2])):
        assert one.figures()["train_loss"] == pytest.approx(other.figures()["train_loss"])


def test_what_cannot_be_trained_as_one_is_named() -> None:
    assert obstacle(students(), ALONE) is None
    assert "random numbers" in str(
        obstacle(students(options={"hidden": [6], "dropout": [0, 0.5]}), ALONE)
    )
    noisy = quantizer_options("dorefa", 2, 2, gradient_bits=4)
    problem = str(obstacle(students("convnet", {"groups": [[3, 4, 4]]}, noisy), ALONE))
    assert "torch cannot stack their model (You tried to vmap over _QuantizedGradient" in problem
    assert "several workers" in str(obstacle(students(), replace(ALONE, world=2)))
    assert "compile" in str(obstacle(students(compile=True), ALONE))


def test_to_try_students_leaves_them_as_they_were() -> None:
    turns = students()
    before = [weight.clone() for each in turns for weight in each.training.model.parameters()]
    assert isinstance(is_faster(turns, ALONE), bool)
    assert obstacle(turns, ALONE) is None
    assert most_in_memory(turns) > 1000
    after = [weight for each in turns for weight in each.training.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(each.training.optimizer.state for each in turns)
