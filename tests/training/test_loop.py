import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import ALONE, soft_objective, tiny_feed, tiny_model, without_time
from torch import Tensor

from kd_ray.batch import Batch
from kd_ray.config import Named, Train
from kd_ray.errors import ConfigError, TrainingError
from kd_ray.training import epoch, evaluation
from kd_ray.training.batch_loss import ObjectiveFunction
from kd_ray.training.evaluation import evaluate
from kd_ray.training.loop import fit
from kd_ray.training.losses import Ensemble, Loss, soft_targets
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.order import batch_bounds, derived_seed
from kd_ray.training.progress import Epoch, Step, Training
from kd_ray.training.schedule import make_schedule
from kd_ray.training.workers import Worker

OBJECTIVE = soft_objective()


def options(**changes: Any) -> Train:
    fields: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 0.01, **changes}
    if isinstance(fields.get("schedule"), str):
        fields["schedule"] = Named(name=fields["schedule"])
    return Train(**fields)


def new_training(train: Train, dropout: float = 0.0) -> Training:
    model = tiny_model(seed=1, dropout=dropout)
    return Training(model, make_optimizer(model, train))


def events(
    training: Training,
    train: Train,
    objective: ObjectiveFunction = OBJECTIVE,
    seed: int = 0,
    **arguments: Any,
) -> Iterator[Step | Epoch]:
    fields: dict[str, Any] = {"seed": seed, "worker": ALONE, **arguments}
    feed = fields.pop("feed", None) or tiny_feed()
    return fit(training, feed, objective, train, **fields)


def trained(train: Train, dropout: float = 0.0, **arguments: Any) -> Training:
    training = new_training(train, dropout)
    for _ in events(training, train, **arguments):
        pass
    return training


def weights(training: Training) -> Tensor:
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


@given(rows=st.integers(1, 5000), batch_size=st.integers(1, 600))
def test_batch_bounds_show_every_row_once_in_the_fewest_batches(rows: int, batch_size: int):
    bounds = batch_bounds(rows, batch_size)
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(rows))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(bounds) == math.ceil(rows / batch_size)


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["order", "dropout"]))))
def test_derived_seed_is_another_for_other_parts(parts: list[tuple[int, str]]):
    seeds = {derived_seed(*part) for part in parts}
    assert len(seeds) == len(set(parts))
    assert all(0 <= seed < 2**63 for seed in seeds)


class Recorder:
    """An objective that notes the rows and the progress it sees."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.progress: list[float] = []

    def __call__(self, logits: Tensor, batch: Batch, progress: float) -> Loss:
        self.batches.append(batch)
        self.progress.append(progress)
        return OBJECTIVE(logits, batch, progress)


def test_fit_shows_every_row_once_an_epoch_in_another_order_each_time():
    recorder = Recorder()
    feed = tiny_feed(23, labels=torch.arange(23) % 3)
    assert feed.logits is not None
    marks = feed.logits[:, 0, 0, 0]  # random numbers, so that they tell the row
    trained(options(epochs=4), objective=recorder, feed=feed)
    assert len(recorder.batches) == 4 * 3
    orders = []
    for number in range(4):
        found = [b.teacher_logits for b in recorder.batches[3 * number : 3 * number + 3]]
        seen = torch.cat([v[:, 0, 0] for v in found if v is not None])
        assert torch.equal(seen.sort().values, marks.sort().values)
        orders.append(tuple(seen.tolist()))
    assert len(set(orders)) == 4


def test_fit_tells_the_objective_how_much_of_the_run_is_done():
    recorder = Recorder()
    trained(options(epochs=4), objective=recorder)
    assert recorder.progress == [step / 12 for step in range(12)]


def test_fit_is_a_function_of_its_seed():
    train = options()
    first, second = trained(train, dropout=0.3), trained(train, dropout=0.3)
    other = trained(train, dropout=0.3, seed=1)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_fit_does_not_depend_on_random_numbers_drawn_elsewhere():
    train = options()
    expected = trained(train, dropout=0.3)
    training = new_training(train, dropout=0.3)
    for _ in events(training, train):
        torch.rand(5)
    assert torch.equal(weights(training), weights(expected))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_fit_learns(optimizer: str):
    sure = 6 * torch.eye(3)[torch.arange(24) % 3].view(24, 1, 1, 3)  # a teacher that knows
    train = options(epochs=15, lr=0.02, optimizer=optimizer)
    history = trained(train, feed=tiny_feed(logits=sure)).history
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert history[-1]["train_accuracy"] > history[0]["train_accuracy"]


def test_fit_reports_the_terms_of_the_loss_that_it_takes_gradients_of():
    for record in trained(options()).history:
        total = 0.5 * record["hard_loss"] + 4.0 * record["soft_loss"]
        assert record["train_loss"] == pytest.approx(total, rel=1e-6)


def test_fit_reports_no_training_accuracy_where_no_row_has_a_label():
    (record,) = trained(options(epochs=1), feed=tiny_feed(labels=torch.full((24,), -1))).history
    assert "train_accuracy" not in record
    assert record["hard_loss"] == 0
    assert record["soft_loss"] > 0


def test_fit_that_is_closed_after_an_epoch_goes_on_from_there():
    train = options(epochs=4, schedule="one-cycle")
    expected = trained(train, dropout=0.3)
    training = new_training(train, dropout=0.3)
    for count in range(1, 5):
        generator = events(training, train)
        assert next(e for e in generator if isinstance(e, Epoch)).number == count
        generator.close()  # type: ignore[attr-defined]
        assert training.epoch == count == len(training.history)
    assert list(events(training, train)) == []
    assert torch.equal(weights(training), weights(expected))
    assert without_time(training.history) == without_time(expected.history)


def test_fit_that_is_closed_inside_an_epoch_has_not_counted_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(epoch, "TICK_S", 0.0)
    training = new_training(options())
    generator = events(training, options())
    first = next(generator)
    generator.close()  # type: ignore[attr-defined]
    assert isinstance(first, Step)
    assert (first.epoch, first.done, first.steps) == (1, 1, 3)
    assert training.epoch == 0
    assert training.history == []


def test_fit_shows_steps_between_epochs_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(epoch, "TICK_S", 0.0)
    train = options(epochs=2)
    seen = [
        (event.epoch, event.done) if isinstance(event, Step) else event.number
        for event in events(new_training(train), train)
    ]
    assert seen == [(1, 1), (1, 2), (1, 3), 1, (2, 1), (2, 2), (2, 3), 2]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fit_turns_the_learning_rate_and_the_momentum_of_a_one_cycle(optimizer: str):
    train = options(optimizer=optimizer, schedule="one-cycle")
    training = new_training(train)
    rates, momenta = [], []

    def objective(logits: Tensor, batch: Batch, progress: float) -> Loss:
        (group,) = training.optimizer.param_groups
        rates.append(group["lr"])
        momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
        return OBJECTIVE(logits, batch, progress)

    last = [event for event in events(training, train, objective) if isinstance(event, Epoch)][-1]
    knobs = [make_schedule("one-cycle", {})(step, 3, 9) for step in range(9)]
    assert rates == [0.01 * knob.lr_scale for knob in knobs]
    assert momenta == [knob.momentum for knob in knobs]
    assert min(momenta) < 0.86 < 0.94 < max(momenta)
    assert last.metrics["learning_rate"] == rates[-1]


def test_fit_leaves_the_recipes_momentum_where_the_schedule_does_not_move_it():
    train = options(optimizer="sgd", momentum=0.7)
    assert trained(train).optimizer.param_groups[0]["momentum"] == 0.7


@pytest.mark.parametrize("largest", [0.005, 0.03])
def test_fit_bounds_the_norm_of_the_whole_gradient(largest: float):
    plain = {"optimizer": "sgd", "momentum": 0.0, "nesterov": False, "schedule": "constant"}
    train = options(epochs=1, batch_size=24, lr=1.0, grad_clip=largest, **plain)
    before = weights(new_training(train))
    moved = (weights(trained(train)) - before).norm()  # one step of rate 1 moves by the gradient
    free = (weights(trained(train.model_copy(update={"grad_clip": None}))) - before).norm()
    assert free > 10 * largest
    assert float(moved) == pytest.approx(largest, rel=1e-3)


def test_fit_in_bf16_learns_alike_and_keeps_float32_weights():
    full = trained(options(precision="fp32"))
    half = trained(options(precision="bf16"))
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())
    assert half.history[-1]["train_loss"] != full.history[-1]["train_loss"]
    assert half.history[-1]["train_loss"] == pytest.approx(full.history[-1]["train_loss"], rel=0.05)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_fit_stops_at_a_loss_that_is_not_finite(poison: float):
    def objective(logits: Tensor, batch: Batch, progress: float) -> Loss:
        loss = OBJECTIVE(logits, batch, progress)
        return Loss(loss.total * (poison if progress > 0.4 else 1.0), loss.hard, loss.soft)

    training = new_training(options())
    with pytest.raises(TrainingError, match=r"epoch 2: the loss must be finite, but is (nan|inf)"):
        list(events(training, options(), objective))
    assert training.epoch == 1


def test_fit_refuses_fewer_rows_than_workers():
    four = Worker(0, 4, ALONE.device, 1)
    train = options()
    with pytest.raises(ConfigError, match=r"number of workers \(4\), but the batch has 3 rows"):
        list(events(new_training(train), train, feed=tiny_feed(3), worker=four))
    small = options(batch_size=2)
    with pytest.raises(ConfigError, match="has 2 rows; use fewer workers"):
        list(events(new_training(small), small, worker=four))


def test_fit_evaluates_the_validation_rows_after_each_epoch():
    training = new_training(options())
    for event in events(training, options(), validation=tiny_feed(10)):
        if isinstance(event, Epoch):
            figures = evaluate(training.model, tiny_feed(10), ALONE)
            assert {key: event.metrics[key] for key in figures} == figures
            assert event.metrics["rows"] == 10
    assert "accuracy" not in trained(options()).history[-1]


def test_fit_with_patience_stops_when_validation_stands_still():
    train = options(epochs=50, lr=1e-12, patience=3)
    training = trained(train, validation=tiny_feed(10))
    assert training.best_epoch == 1
    assert training.epoch == 4
    assert training.is_over(train)


def noted(accuracies: list[float]) -> Training:
    training = new_training(options())
    for number, accuracy in enumerate(accuracies, start=1):
        training.note(Epoch(number, {"accuracy": accuracy}, 1.0, 1.0))
    return training


@given(st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0]), min_size=1, max_size=8))
def test_training_keeps_the_first_of_the_best_epochs(accuracies: list[float]):
    training = noted(accuracies)
    best = accuracies.index(max(accuracies)) + 1
    assert training.best_epoch == best
    assert training.result_epoch(options(keep="best")) == best
    assert training.result_epoch(options(keep="last")) == len(accuracies)


@given(st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=1, max_size=8), st.integers(1, 4))
def test_training_is_over_when_patience_has_run_out(accuracies: list[float], patience: int):
    training = noted(accuracies)
    waited = len(accuracies) - (accuracies.index(max(accuracies)) + 1)
    assert training.is_over(options(epochs=99, patience=patience)) == (waited >= patience)
    assert training.is_over(options(epochs=len(accuracies)))


def test_training_without_validation_ends_with_its_epochs_and_keeps_the_last():
    training = new_training(options())
    training.note(Epoch(1, {"train_loss": 1.0}, 1.0, 1.0))
    assert training.result_epoch(options(keep="best")) == 1
    assert not training.is_over(options(epochs=2, patience=1))


@pytest.mark.parametrize("ensemble", ["arithmetic", "geometric"])
@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
def test_evaluate_gives_the_figures_of_all_rows(
    ensemble: str, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluation, "EVALUATION_ROWS", rows_at_once)
    feed, model = tiny_feed(23), tiny_model(dropout=0.5)
    model.train()
    figures = evaluate(model, feed, ALONE, Ensemble(ensemble))
    batch = feed.batch(torch.arange(23), slice(None), 1)
    with torch.no_grad():
        z = model.eval()(batch.images)
    assert batch.teacher_logits is not None
    teacher = soft_targets(batch.teacher_logits, 1.0, Ensemble(ensemble))
    kl = teacher * (teacher.log() - z.log_softmax(dim=-1))
    assert figures["rows"] == 23
    assert figures["accuracy"] == float((z.argmax(1) == batch.labels).double().mean())
    assert figures["agreement"] == float((z.argmax(1) == teacher.argmax(1)).double().mean())
    assert figures["divergence"] == pytest.approx(float(kl.sum(dim=-1).mean()), 1e-5)


def test_evaluate_without_a_teacher_speaks_of_labels_only():
    figures = evaluate(tiny_model(), tiny_feed(23, logits=None), ALONE)
    assert "accuracy" in figures
    assert "agreement" not in figures


def test_evaluate_refuses_a_model_whose_outputs_are_not_finite():
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="outputs must be finite"):
        evaluate(model, tiny_feed(5), ALONE)


@pytest.mark.slow
def test_fit_of_a_compiled_model_learns_what_it_learns_uncompiled():
    compiled, plain = trained(options(compile=True)), trained(options())
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-5)
    assert [name for name, _ in compiled.model.named_parameters()] == [
        name for name, _ in plain.model.named_parameters()
    ]
