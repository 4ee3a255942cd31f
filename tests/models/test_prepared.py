"""Laws of what a model sees: its own size and normalization of the same view."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import normal
from torch import Tensor, nn

from kd_ray.config import InputOptions, ModelOptions
from kd_ray.errors import ConfigError
from kd_ray.models import build_model, new_model
from kd_ray.models.prepared import Prepared, network_in

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Seen(nn.Module):
    """Answers with what it was fed."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def prepared(wanted: dict[str, Any], channels: int = 3) -> Prepared:
    options = InputOptions.model_validate(wanted)
    return Prepared(Seen(), options, mean=MEAN[:channels], std=STD[:channels])


def per_channel(values: Any) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [5, 8, 16])
def test_prepared_equals_resizing_and_normalizing_the_pixels_by_hand(kind: str, size: int):
    pixels = torch.rand(2, 3, 8, 8)
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    got = prepared({"size": size, "interpolation": kind, **own})(
        (pixels - per_channel(MEAN)) / per_channel(STD)
    )
    antialias = kind != "nearest"
    hand = F.interpolate(pixels, (size, size), mode=kind, antialias=antialias)
    hand = (hand - per_channel(own["mean"])) / per_channel(own["std"])
    torch.testing.assert_close(got, hand, rtol=1e-4, atol=1e-5)


def test_a_grey_image_becomes_three_channels_each_normalized_as_its_own():
    pixels = torch.rand(2, 1, 4, 4)
    got = prepared({"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}, channels=1)(
        (pixels - MEAN[0]) / STD[0]
    )
    hand = (pixels - per_channel([0.1, 0.2, 0.3])) / per_channel([0.4, 0.5, 0.6])
    torch.testing.assert_close(got, hand, rtol=1e-4, atol=1e-5)


def test_what_asks_for_nothing_or_for_what_comes_changes_no_bit():
    images = normal(2, 3, 4, 4)
    for wanted in ({}, {"size": 4}, {"mean": list(MEAN), "std": list(STD)}):
        assert torch.equal(prepared(wanted)(images), images)


def test_a_model_without_an_input_of_its_own_is_the_network_itself():
    for options in ({"hidden": [4]}, {"hidden": [4], "input": {}}):
        model = build_model("mlp", options, shape=(1, 4, 4), classes=3, seed=0)
        assert network_in(model) is model


def test_nothing_of_it_is_stored_among_the_weights_and_it_needs_no_gradient():
    model = prepared({"size": 6, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]})
    assert not model.state_dict()
    assert not list(model.parameters())


def test_other_channels_than_one_are_not_made_into_others():
    with pytest.raises(ConfigError, match=r"each of the 3 channels.*but has 2"):
        prepared({"mean": [0.1, 0.2], "std": [0.4, 0.5]})


def test_what_a_recipe_says_of_the_input_is_in_the_description_and_builds_the_same_model():
    table = {"name": "mlp", "hidden": [4], "input": {"size": 6, "interpolation": "nearest"}}
    made = new_model(
        ModelOptions.model_validate(table), shape=(3, 8, 8), classes=3, seed=5, mean=MEAN, std=STD
    )
    assert made.table == table
    options = {key: value for key, value in made.table.items() if key != "name"}
    again = build_model("mlp", options, shape=(3, 8, 8), classes=3, seed=5, mean=MEAN, std=STD)
    images = normal(2, 3, 8, 8)
    assert torch.equal(made.network(images), again(images))
    assert network_in(again).get_parameter("linear1.weight").shape == (4, 3 * 6 * 6)
