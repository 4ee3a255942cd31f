"""Groups of classes, the dustbin, a specialist's rows, the joint distribution: pure functions."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tiny import ALONE, generator, tiny_dataset, tiny_teacher
from torch import Tensor

from kd_ray.config import SpecialistOptions, TeacherTrain
from kd_ray.errors import ConfigError, TransferSetError
from kd_ray.models.dustbin import Specialist, joined, special_labels
from kd_ray.specialists import (
    ClassGroups,
    by_coverage,
    check_rows,
    confusion,
    coverage,
    find_groups,
    gain_kept,
    new_specialist,
    training_feed,
)
from kd_ray.specialists.combine import (
    Beliefs,
    active_specialists,
    combine,
    gather_beliefs,
    membership,
)
from kd_ray.training.evaluation import evaluate

NAMES = tuple("abcdefgh")


def pairs(rows: int = 400, classes: int = 8) -> Tensor:
    """Predictions that confuse class 2c with class 2c + 1, `(N, K)`."""
    draw = torch.rand(rows, generator=generator(1))
    truth = torch.randint(0, classes, (rows,), generator=generator(2))
    found = torch.full((rows, classes), 0.01)
    found[torch.arange(rows), truth] += draw
    found[torch.arange(rows), truth ^ 1] += 1 - draw
    return found / found.sum(dim=1, keepdim=True)


def groups(probabilities: Tensor, **options: int) -> ClassGroups:
    return find_groups(probabilities, SpecialistOptions.model_validate(options))


def asked(
    rows: int = 6, classes: int = 7, seed: int = 0, top_n: int = 1, overlap: bool = True
) -> tuple[Beliefs, list[tuple[int, ...]], Tensor]:
    """Beliefs of specialists with random opinions; their classes; their probabilities."""
    special = [(0, 1, 2), (2, 3, 4), (5, 6)] if overlap else [(0, 1, 2), (3, 4), (5, 6)]
    logits = 2 * torch.randn(rows, classes, generator=generator(seed), dtype=torch.float64)
    opinions = [
        (2 * torch.randn(rows, len(some) + 1, generator=generator(seed + 9 + m)))
        .double()
        .softmax(1)
        for m, some in enumerate(special)
    ]
    found = gather_beliefs(logits, special, lambda m, chosen: opinions[m][chosen], top_n)
    return found, special, opinions


def joint_cross_entropy(logits: Tensor, beliefs: Beliefs) -> Tensor:
    """F of each image but for what does not depend on q (the entropies of p_g and p_m), in nats.

    Args:
        logits: z, `(N, K)`.
        beliefs: of the images.

    Returns:
        `(N,)`.
    """
    log_q = logits.double().log_softmax(dim=1)
    behind = log_q.exp() @ (~beliefs.members).to(log_q).T
    wanted = beliefs.generalist.softmax(dim=1) + beliefs.special
    return -(wanted * log_q).sum(dim=1) - torch.xlogy(beliefs.dustbin, behind).sum(dim=1)


# Groups


def test_groups_are_the_classes_that_are_confused_with_each_other():
    found = groups(pairs(), count=4)
    assert found.special == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert found.of_class == (0, 0, 1, 1, 2, 2, 3, 3)
    assert found.covering() == [1] * 8
    assert all(found.overlaps(number) == {} for number in range(4))


def test_groups_are_a_function_of_predictions_and_seed():
    noisy = (torch.randn(50, 8, generator=generator())).softmax(dim=1)
    assert groups(noisy, count=3, classes_each=4, seed=3) == groups(
        noisy, count=3, classes_each=4, seed=3
    )


def test_specialists_with_so_many_classes_each_take_their_group_and_the_nearest_others():
    found = groups(pairs(), count=4, classes_each=3)
    for number, special in enumerate(found.special):
        assert {2 * number, 2 * number + 1} < set(special)
        assert len(special) == 3
    assert sum(found.covering()) == 12
    shared = {(one, m): c for one in range(4) for m, c in found.overlaps(one).items()}
    assert shared
    assert all(shared[m, one] == classes for (one, m), classes in shared.items())


def test_a_group_may_have_more_classes_than_its_specialist():
    found = groups(pairs(), count=2, classes_each=2)
    assert sorted(map(len, found.special)) == [2, 2]
    assert found.covering().count(0) == 4


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(1, 8), st.integers(0, 50))
def test_every_specialist_has_classes_to_tell_apart_and_others_for_its_dustbin(
    count: int, different: int, seed: int
):
    drawn = torch.randn(30, different, generator=generator(seed))
    alike = drawn[:, torch.arange(8) % different].softmax(dim=1)  # columns that nobody can divide
    found = groups(alike, count=count)
    assert len(found.special) == len(set(found.of_class)) == count
    assert all(1 < len(set(some)) < 8 for some in found.special)
    assert min(found.covering()) >= 1


def test_a_class_that_is_alone_in_its_group_takes_its_nearest_along():
    found = groups(pairs(), count=5)
    alone = [c for c, group in enumerate(found.of_class) if found.of_class.count(group) == 1]
    assert len(alone) == 2
    for c in alone:
        assert found.special[found.of_class[c]] == (c & ~1, c | 1)


def test_a_transfer_set_without_rows_of_a_class_is_refused_by_its_name():
    labels = torch.tensor([0, 1, 1, -1])
    check_rows(labels, torch.tensor([0, 1, 1, 2]), NAMES[:3], 5)  # the hidden one looks like a 'c'
    with pytest.raises(TransferSetError, match="it has none of 'c'"):
        check_rows(labels, torch.tensor([0, 1, 1, 1]), NAMES[:3], 5)
    with pytest.raises(TransferSetError, match="has none; use a dataset with a test split"):
        check_rows(labels, torch.tensor([0, 1, 1, 2]), NAMES[:3], 0)


# The dustbin


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6, unique=True), st.integers(0, 100))
def test_a_dustbin_has_the_sum_of_what_it_joins(special: list[int], seed: int):
    logits = 3 * torch.randn(4, 7, generator=generator(seed), dtype=torch.float64)
    others = [number for number in range(7) if number not in special]
    found = joined(logits, torch.tensor(special), torch.tensor(others)).softmax(dim=1)
    whole = logits.softmax(dim=1)
    torch.testing.assert_close(found[:, :-1], whole[:, special])
    torch.testing.assert_close(found[:, -1], whole[:, others].sum(dim=1))


def test_labels_of_other_classes_are_the_dustbins():
    assert special_labels(torch.arange(-1, 5), [1, 3]).tolist() == [-1, 2, 0, 2, 1, 2]


def test_the_correction_is_of_evaluation_alone_and_raises_the_dustbin(tmp_path):
    dataset = tiny_dataset()
    teacher = tiny_teacher(tmp_path, dataset)
    images = torch.randn(5, 1, 4, 4, generator=generator())
    plain = Specialist(teacher.model, [0, 2], 3).train()(images)
    model = new_specialist(teacher, (0, 2), math.log(3.0))
    torch.testing.assert_close(model.train()(images), plain)
    shift = model.eval()(images) - plain
    torch.testing.assert_close(shift, torch.tensor([0.0, 0.0, math.log(3.0)]).expand(5, 3))


# A specialist's rows


def feed_of_pairs(tmp_path, special: tuple[int, ...] = (1,), rows: int = 24):
    dataset = tiny_dataset(train=rows)
    return training_feed(dataset, tiny_teacher(tmp_path, dataset), special, TeacherTrain(), 0)


def test_half_of_an_epoch_is_special_and_each_special_row_comes_once(tmp_path):
    feed = feed_of_pairs(tmp_path)
    assert feed.rows == 2 * 8
    (batch,) = feed.batches(0, 1, feed.rows, 0, slice)
    assert (batch.labels == 0).sum() == (batch.labels == 1).sum() == 8
    drawn = feed.drawn(1)
    assert drawn[:8].tolist() == feed.special.tolist()
    assert len(set(drawn[8:].tolist())) == 8  # not one twice while there are others


def test_the_others_are_drawn_anew_for_each_epoch_and_alike_when_asked_again(tmp_path):
    feed, again = feed_of_pairs(tmp_path), feed_of_pairs(tmp_path)
    assert feed.drawn(1).tolist() == again.drawn(1).tolist() != feed.drawn(2).tolist()


def test_few_others_are_repeated_evenly_and_the_correction_is_still_their_ratio(tmp_path):
    feed = feed_of_pairs(tmp_path, special=(0, 1))
    drawn = feed.drawn(3)[16:]
    assert sorted(drawn.tolist()) == sorted(feed.rest.tolist() * 2)
    assert feed.correction == pytest.approx(math.log(8 / 16))


def test_classes_without_training_images_are_refused_by_name(tmp_path):
    dataset = tiny_dataset()
    few = type(dataset.train)("train", dataset.train.images[:2], dataset.train.labels[:2])
    lacking = type(dataset)(
        "tiny", dataset.class_names, few, dataset.validation, dataset.test, True
    )
    teacher = tiny_teacher(tmp_path, dataset)
    with pytest.raises(ConfigError, match=r"specialist 4: needs training .* 0 of class-2"):
        training_feed(lacking, teacher, (2,), TeacherTrain(), 4)


# The joint distribution


def test_without_an_active_specialist_q_is_the_generalists_exactly():
    logits = torch.randn(5, 7, generator=generator(), dtype=torch.float64)
    beliefs = gather_beliefs(logits, [], lambda number, rows: pytest.fail("nobody to ask"), 1)
    found = combine(beliefs)
    assert torch.equal(found.logits, logits - logits.mean(dim=1, keepdim=True))


def test_specialists_that_are_not_active_change_no_bit_of_a_row():
    beliefs, special, _ = asked(rows=40, seed=3)
    special = special[:2]
    found = gather_beliefs(
        beliefs.generalist, special, lambda m, rows: torch.eye(4)[torch.zeros(len(rows)).long()], 1
    )
    idle = ~found.active.any(dim=1)
    assert idle.any()
    assert (~idle).any()
    centred = beliefs.generalist - beliefs.generalist.mean(dim=1, keepdim=True)
    assert torch.equal(combine(found).logits[idle], centred[idle])


@pytest.mark.parametrize("top_n", [1, 2, 7])
def test_specialists_that_agree_with_the_generalist_leave_q_where_it_is(top_n: int):
    beliefs, special, _ = asked(top_n=top_n)
    members = membership(special, 7)
    numbers = torch.arange(7)

    def agreed(m: int, rows: Tensor) -> Tensor:
        own, rest = numbers[members[m]], numbers[~members[m]]
        return joined(beliefs.generalist[rows], own, rest).softmax(dim=1)

    found = combine(gather_beliefs(beliefs.generalist, special, agreed, top_n))
    torch.testing.assert_close(found.logits.softmax(1), beliefs.generalist.softmax(1))


def test_one_specialist_has_a_closed_form():
    beliefs, special, opinions = asked(rows=50, overlap=False)
    found = combine(beliefs, most_steps=1).logits.softmax(dim=1)
    p = beliefs.generalist.softmax(dim=1)
    for row in range(50):
        (number,) = beliefs.active[row].nonzero().flatten().tolist()  # a partition, and n = 1
        own = list(special[number])
        rest = [place for place in range(7) if place not in own]
        wanted = torch.empty(7, dtype=torch.float64)
        # The mean of the two distributions that have the dustbin joined ...
        wanted[own] = (p[row, own] + opinions[number][row, :-1]) / 2
        dustbin = (p[row, rest].sum() + opinions[number][row, -1]) / 2
        # ... which is shared out as the generalist shares it.
        wanted[rest] = dustbin * p[row, rest] / p[row, rest].sum()
        torch.testing.assert_close(found[row], wanted)


@pytest.mark.parametrize("top_n", [1, 3])
def test_the_minimum_is_scipys(top_n: int):
    beliefs, _, _ = asked(rows=8, seed=5, top_n=top_n)
    assert int(beliefs.active.sum(dim=1).max()) >= 2
    found = combine(beliefs, tolerance=1e-12, most_steps=10_000)
    value = joint_cross_entropy(found.logits, beliefs)
    for row in range(8):
        one = Beliefs(
            beliefs.generalist[row : row + 1],
            beliefs.members,
            beliefs.active[row : row + 1],
            beliefs.special[row : row + 1],
            beliefs.dustbin[row : row + 1],
        )

        def with_gradient(z: np.ndarray, one: Beliefs = one) -> tuple[float, np.ndarray]:
            logits = torch.from_numpy(z).unsqueeze(0).requires_grad_()
            total = joint_cross_entropy(logits, one).sum()
            return total.item(), torch.autograd.grad(total, logits)[0][0].numpy()

        best = minimize(with_gradient, np.zeros(7), jac=True, method="BFGS", tol=1e-10)
        assert value[row].item() == pytest.approx(best.fun, abs=1e-9)
        q = torch.from_numpy(best.x).softmax(dim=0)
        torch.testing.assert_close(found.logits[row].softmax(dim=0), q, atol=1e-5, rtol=1e-4)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 7))
def test_every_step_lowers_the_objective_and_ends_without_gradient(seed: int, top_n: int):
    beliefs, _, _ = asked(rows=3, seed=seed, top_n=top_n)
    values = [joint_cross_entropy(beliefs.generalist, beliefs)]
    for steps in (1, 2, 4, 8):
        found = combine(beliefs, tolerance=0.0, most_steps=steps)
        values.append(joint_cross_entropy(found.logits, beliefs))
    for before, after in pairwise(values):
        assert (after <= before + 1e-12).all()
    logits = combine(beliefs, tolerance=1e-9).logits.requires_grad_()
    (gradient,) = torch.autograd.grad(joint_cross_entropy(logits, beliefs).sum(), logits)
    assert float(gradient.abs().max()) < 1e-6


def test_the_gradient_that_is_told_is_the_objectives():
    beliefs, _, _ = asked(rows=5, top_n=3)
    found = combine(beliefs, tolerance=0.0, most_steps=1)
    logits = found.logits.requires_grad_()
    (gradient,) = torch.autograd.grad(joint_cross_entropy(logits, beliefs).sum(), logits)
    assert found.gradient == pytest.approx(float(gradient.abs().max()), abs=1e-9)


def test_the_order_of_specialists_and_of_images_does_not_matter():
    beliefs, special, opinions = asked(rows=9, top_n=3)
    found = combine(beliefs).logits
    order = [2, 0, 1]
    turned = gather_beliefs(
        beliefs.generalist,
        [special[m] for m in order],
        lambda m, rows: opinions[order[m]][rows],
        3,
    )
    torch.testing.assert_close(combine(turned).logits, found, atol=1e-9, rtol=1e-9)
    rows = torch.randperm(9, generator=generator())
    shuffled = gather_beliefs(
        beliefs.generalist[rows], special, lambda m, chosen: opinions[m][rows[chosen]], 3
    )
    torch.testing.assert_close(combine(shuffled).logits, found[rows], atol=1e-6, rtol=1e-6)


def test_active_are_those_with_one_of_the_first_choices():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    members = membership([(0,), (1, 2), (3,)], 4)
    assert active_specialists(logits, members, 1).int().tolist() == [[1, 0, 0], [0, 0, 1]]
    assert active_specialists(logits, members, 2).int().tolist() == [[1, 1, 0], [0, 1, 1]]


def test_a_specialist_is_asked_about_the_images_it_is_active_for_and_no_others():
    logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [9.0, 1.0, 0]])
    seen = {}

    def told(number: int, rows: Tensor) -> Tensor:
        seen[number] = rows.tolist()
        return torch.full((len(rows), 2), 0.5)

    gather_beliefs(logits, [(0,), (1,), (2,)], told, 1)
    assert seen == {0: [0, 2], 1: [1]}


def test_mass_goes_where_a_sure_specialist_says():
    logits = torch.tensor([[2.0, 1.9, 0.0, 0.0]])
    sure = torch.tensor([[0.01, 0.98, 0.01]])
    found = combine(gather_beliefs(logits, [(0, 1)], lambda *_: sure, 1)).logits
    assert int(found.argmax()) == 1


# Figures


def test_rows_and_right_choices_by_coverage_add_up():
    groups = ClassGroups((0, 0, 1, 1), ((0, 1), (1, 2)))
    labels = torch.tensor([0, 1, 1, 2, 3, 3])
    before, after = torch.tensor([0, 0, 1, 1, 3, 0]), torch.tensor([0, 1, 1, 2, 3, 0])
    lines = by_coverage(labels, before, after, coverage(labels, groups))
    assert [(line["specialists"], line["rows"]) for line in lines] == [(0, 2), (1, 2), (2, 2)]
    assert [line["correct_before"] for line in lines] == [1, 1, 1]
    assert [line["correct_after"] for line in lines] == [1, 2, 2]
    assert [line["relative_change"] for line in lines] == [0.0, 1.0, 1.0]


def test_the_confusion_of_groups_adds_up_to_the_errors():
    labels, chosen = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 1, 0, 2, 3])
    assert confusion(labels, chosen, (0, 0, 1, 1)) == [[1, 0], [1, 1]]


def test_nothing_is_kept_of_no_gain():
    assert gain_kept(0.5, 0.5, 0.7) is None
    assert gain_kept(0.6, 0.5, 0.7) is None
    assert gain_kept(0.5, 0.7, 0.7) == pytest.approx(1.0)


def test_a_specialist_is_evaluated_among_its_own_classes_and_the_dustbin(tmp_path):
    dataset = tiny_dataset()
    teacher = tiny_teacher(tmp_path, dataset)
    feed = feed_of_pairs(tmp_path)
    figures = evaluate(new_specialist(teacher, (1,), feed.correction), feed.feed, ALONE)
    assert figures["rows"] == 24
    assert 0 <= figures["accuracy"] <= 1
