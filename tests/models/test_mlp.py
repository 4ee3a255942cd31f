import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kd_ray.errors import ConfigError
from kd_ray.models import build_model, parameter_count, project_
from kd_ray.models.mlp import BoundedLinear, mlp

SHAPE = (1, 4, 4)


def test_mlp_of_the_paper_has_its_number_of_parameters():
    model = mlp(shape=(1, 28, 28), classes=10, hidden=[1200, 1200])
    assert parameter_count(model) == 2_395_210


def test_mlp_without_hidden_layers_is_a_linear_map():
    model = mlp(shape=SHAPE, classes=3, hidden=[])
    a, b = torch.randn(2, 1, *SHAPE)
    zero = model(torch.zeros(1, *SHAPE))
    torch.testing.assert_close(model(a + b) - zero, model(a) + model(b) - 2 * zero)


def test_mlp_drops_units_in_training_only():
    model = mlp(shape=SHAPE, classes=3, hidden=[32, 32], dropout=[0.2, 0.5, 0.5])
    shares = [module.p for module in model if isinstance(module, nn.Dropout)]
    assert shares == [0.2, 0.5, 0.5]
    images = torch.randn(4, *SHAPE)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_mlp_drops_the_input_before_the_first_layer_and_hidden_units_after_their_relu():
    model = mlp(shape=SHAPE, classes=3, hidden=[8], dropout=[0.2, 0.5])
    kinds = [type(module) for module in model]
    linear = [nn.Dropout, nn.Linear]
    assert kinds == [nn.Flatten, *linear, nn.ReLU, *linear]


@settings(deadline=None)
@given(st.floats(0.01, 10), st.integers(0, 1000))
def test_project_bounds_every_hidden_units_incoming_weights_and_touches_no_other(
    bound: float, seed: int
):
    model = mlp(shape=SHAPE, classes=3, hidden=[8, 4], max_norm=bound)
    layers = [module for module in model if isinstance(module, BoundedLinear)]
    assert [layer.out_features for layer in layers] == [8, 4]  # the output is not bounded
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    before = [layer.weight.clone() for layer in layers]
    project_(model)
    for layer, old in zip(layers, before, strict=True):
        norms, old_norms = layer.weight.norm(dim=1), old.norm(dim=1)
        torch.testing.assert_close(norms, old_norms.clamp(max=bound))
        inside = old_norms <= bound
        assert torch.equal(layer.weight[inside], old[inside])
        torch.testing.assert_close(
            nn.functional.cosine_similarity(layer.weight, old), torch.ones(len(old))
        )
        once = layer.weight.clone()
        project_(model)
        torch.testing.assert_close(layer.weight, once)


def test_project_leaves_the_gradient_and_the_parameter_in_place():
    model = mlp(shape=SHAPE, classes=3, hidden=[8], max_norm=0.1)
    parameters = list(model.parameters())
    model(torch.randn(2, *SHAPE)).sum().backward()
    project_(model)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(parameter.grad is not None for parameter in parameters)


def test_mlp_with_a_bound_keeps_it_from_the_start():
    model = mlp(shape=SHAPE, classes=3, hidden=[8], max_norm=0.1)
    for module in model:
        if isinstance(module, BoundedLinear):
            assert (module.weight.norm(dim=1) <= 0.1 + 1e-6).all()


def test_project_does_nothing_to_models_without_a_bound():
    model = mlp(shape=SHAPE, classes=3, hidden=[8])
    before = [parameter.clone() for parameter in model.parameters()]
    project_(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"hidden": [8, 0]}, r"hidden\.1: input should be greater than or equal to 1, but got 0"),
        ({"hidden": [8], "dropout": [0.2]}, "dropout must have 2 shares"),
        ({"hidden": [8], "dropout": [0.2, 1.0]}, r"dropout\.1: input should be less than 1"),
        ({"hidden": [8], "dropout": [float("nan"), 0.5]}, r"dropout\.0: input should be a finite"),
        ({"hidden": [8], "max_norm": 0.0}, "max_norm: input should be greater than 0, but got 0.0"),
        ({"hidden": [8], "max_norm": float("inf")}, "max_norm: input should be a finite number"),
    ],
)
def test_mlp_refuses_options_that_make_no_network(options: dict, rule: str):
    with pytest.raises(ConfigError, match=rule):
        build_model("mlp", options, shape=SHAPE, classes=3, seed=0)
