"""Teachers that are run in every step, fewer views than are stored, and rows that are held out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import ALONE, perform, tasks, tiny_feed, tiny_model, tiny_recipe

from kd_ray.batch import UNLABELLED
from kd_ray.config import Augment
from kd_ray.config.schema import StudentOptions
from kd_ray.errors import ConfigError
from kd_ray.runs import Finished, result_model
from kd_ray.training.epoch import autocast
from kd_ray.training.feed import TensorFeed
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.order import shuffled
from kd_ray.training.progress import Training
from kd_ray.training.saved_model import load_model
from kd_ray.training.student import StudentFeeds, TaughtFeed, distill, held_out, rows_shown

SHIFT = Augment(shift=1)
TRAIN = tiny_recipe("train.epochs=3", "train.precision='fp32'").train


def student(override: str) -> StudentOptions:
    return tiny_recipe(f"student.{override}").student


def taught(feed: TensorFeed, members: int = 2) -> TaughtFeed:
    teachers = [tiny_model(seed).eval() for seed in range(members)]
    return TaughtFeed(feed, teachers, lambda: autocast("fp32", ALONE.device))


def test_taught_rows_carry_the_logits_of_their_own_pixels() -> None:
    feed = tiny_feed(views=3, augment=SHIFT)
    online = taught(feed)
    (batch,) = online.batches(0, 2, 24, 0, lambda rows: slice(2, 6))
    assert batch.teacher_logits is not None
    assert batch.teacher_logits.shape == (4, 2, 3)
    for member, teacher in enumerate(online.teachers):
        assert torch.equal(batch.teacher_logits[:, member], teacher(batch.images))
    assert batch.global_rows == 24
    assert not batch.teacher_logits.requires_grad


def test_a_student_of_some_views_shows_the_first_ones_in_turn() -> None:
    feed = tiny_feed(views=4, augment=SHIFT)
    shown = rows_shown(feed, student("views=2"), TRAIN, (), ALONE)
    for epoch in (1, 2, 3, 4, 5):
        order = shuffled(24, 0, epoch)
        of_set = feed.batch(order, slice(None), (epoch - 1) % 2 + 1)
        (of_student,) = shown.batches(0, epoch, 24, 0, slice)
        assert torch.equal(of_student.images, of_set.images)
        assert torch.equal(of_student.teacher_logits, of_set.teacher_logits)


def test_a_student_of_more_views_than_are_stored_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4 views, but it has 2"):
        rows_shown(tiny_feed(views=2, augment=SHIFT), student("views=4"), TRAIN, (), ALONE)


def test_online_views_are_those_of_a_set_with_one_for_each_epoch() -> None:
    feed = tiny_feed(views=3, augment=SHIFT)
    plain = replace(feed, views=1, logits=None)
    online = student("teacher_in_every_step=true")
    shown = rows_shown(plain, online, TRAIN, [tiny_model(0).eval()], ALONE)
    for epoch in (1, 2, 3):
        (ours,), (theirs,) = (each.batches(0, epoch, 24, 0, slice) for each in (shown, feed))
        assert torch.equal(ours.images, theirs.images)


def test_an_online_student_is_that_of_as_many_stored_views_as_it_has_epochs(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        "transfer_set.views=2",
        "transfer_set.augment={ shift = 1 }",
        "transfer_set.dtype='float32'",
        "student.baselines=['online']",
    )
    assert recipe.train.epochs == 2
    results = {
        task.variant: event.result
        for task, event in perform(tasks(recipe, tmp_path))
        if isinstance(event, Finished) and task.stage.name == "distill"
    }
    weights = [
        load_model(
            result_model(tmp_path / "student" / variant / "seed-0"), ALONE.device
        ).model.state_dict()
        for variant in ("online", "distilled")
    ]
    for name, value in weights[0].items():
        # Another batch size sums in another order, in the teacher's forward pass.
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)
    losses = [results[v].history[-1]["train_loss"] for v in ("online", "distilled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_held_out_rows_are_not_learned_from_and_are_plain() -> None:
    feed = tiny_feed(rows=40, views=2, augment=SHIFT)
    feeds = held_out(StudentFeeds(feed, None, tiny_feed(rows=9)), 0.25)
    assert feeds.validation is not None
    assert (feeds.train.rows, feeds.validation.rows) == (30, 10)
    both = torch.cat([feeds.train.index, feeds.validation.index])
    assert torch.equal(both.sort().values, torch.arange(40))
    assert feeds.validation.views == 1
    for part in (feeds.train, feeds.validation):
        assert torch.equal(part.pixels, feed.pixels[part.index])
        assert torch.equal(part.labels, feed.labels[part.index])
        assert part.logits is not None
        assert torch.equal(part.logits, feed.logits[part.index])


def test_holding_nothing_out_changes_nothing() -> None:
    feeds = StudentFeeds(tiny_feed(), None, tiny_feed(rows=9))
    assert held_out(feeds, 0.0) is feeds


def test_a_student_of_labels_alone_refuses_rows_without_one() -> None:
    feeds = StudentFeeds(tiny_feed(labels=torch.full((24,), UNLABELLED)), None, tiny_feed())
    recipe = tiny_recipe("objective.soft_weight=0")
    model = tiny_model()
    training = Training(model, make_optimizer(model, recipe.train))
    with pytest.raises(ConfigError, match="student: must have labels to learn from"):
        next(distill(training, recipe, 0, feeds, ALONE))
    assert next(distill(training, tiny_recipe(), 0, feeds, ALONE))


def test_early_stopping_works_on_held_out_rows(tmp_path: Path) -> None:
    recipe = tiny_recipe("train.hold_out=0.2", "train.keep='best'", "train.epochs=4")
    results = [e.result for _, e in perform(tasks(recipe, tmp_path)) if isinstance(e, Finished)]
    for result in results[2:]:
        accuracies = [record["accuracy"] for record in result.history]
        best = accuracies.index(max(accuracies)) + 1
        assert result.checkpoint == f"epoch-{best:04d}"


def test_hold_out_beside_validation_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.hold_out: 0.2 of the rows cannot take the place"):
        tiny_recipe("train.hold_out=0.2", "data.validation=20")


def test_patience_without_rows_to_choose_by_is_refused_of_a_teacher_too() -> None:
    with pytest.raises(ConfigError, match=r"teacher.train: keep"):
        tiny_recipe("train.hold_out=0.2", "teacher.train.patience=2")
