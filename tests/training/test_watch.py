"""What is watched of a student: the pull of its two terms, and nothing that it is trained by."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_feed, tiny_model

from kd_ray.config import Objective
from kd_ray.training.batch_loss import BatchLoss
from kd_ray.training.watch import WATCHED_ROWS, pulls, sample_of


@given(st.floats(0.5, 20), st.floats(0.1, 10), st.floats(0, 3))
def test_pulls_are_the_gradients_that_the_paper_has_in_closed_form(
    temperature: float, c: float, h: float
) -> None:
    model, batch = tiny_model().eval(), sample_of(tiny_feed(members=1))
    objective = Objective.model_validate(
        {"temperature": temperature, "soft_weight": c, "hard_weight": h}
    )
    found = pulls(model, batch, BatchLoss(objective, smoothing=0.0), 1.0)
    assert batch.teacher_logits is not None
    with torch.no_grad():
        z, v = model(batch.images), batch.teacher_logits[:, 0]
    targets = (v / temperature).softmax(-1)
    soft = c * ((z / temperature).softmax(-1) - targets) / temperature
    hard = h * (z.softmax(-1) - torch.nn.functional.one_hot(batch.labels, 3))
    entropy = -(targets * targets.log()).sum(-1).mean()
    wanted = (hard.square().sum(-1).mean().sqrt(), soft.square().sum(-1).mean().sqrt(), entropy)
    names = ("hard_gradient", "soft_gradient", "target_entropy")
    assert [found[name] for name in names] == pytest.approx([*map(float, wanted)], abs=1e-5)


def test_pulls_leave_the_model_as_it_is() -> None:
    model = tiny_model(dropout=0.5).train()
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    pulls(model, sample_of(tiny_feed()), BatchLoss(Objective(), smoothing=0.0), 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, old)


def test_sample_reaches_from_the_first_row_to_the_last_and_has_no_row_twice() -> None:
    feed = tiny_feed(rows=2000)
    numbered = feed.index.float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4).half()
    plain = torch.tensor([0.0]), torch.tensor([1.0])
    rows = sample_of(tiny_feed(2000, pixels=numbered, mean=plain[0], std=plain[1])).images
    seen = rows[:, 0, 0, 0].round().int().tolist()
    assert (len(set(seen)), seen[0], seen[-1]) == (WATCHED_ROWS, 0, 1999)
    assert len(sample_of(tiny_feed(rows=24)).labels) == 24
