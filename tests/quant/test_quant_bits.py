"""Laws of every method: 32 bits are float, and a tensor of bits is its numbers, also in a stack."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kd_ray.quant import (
    dorefa_activations,
    dorefa_weights,
    fake_quantize,
    lsq,
    megvii_activations,
    megvii_weights,
    pact,
)

Method = Callable[[Tensor, Tensor, int | Tensor], Tensor]
"""Of values, of what is learned (a step, a clip), and of bits."""

METHODS: dict[str, Method] = {
    "dorefa_weights": lambda x, learned, bits: dorefa_weights(x, bits),
    "dorefa_activations": lambda x, learned, bits: dorefa_activations(x, bits),
    "megvii_weights": lambda x, learned, bits: megvii_weights(x, bits),
    "megvii_activations": lambda x, learned, bits: megvii_activations(x, bits),
    "pact": pact,
    "lsq_unsigned": lambda x, learned, bits: lsq(x, learned, bits, signed=False),
    "lsq_signed": lambda x, learned, bits: lsq(x, learned, bits, signed=True),
    "lsq_halves": lambda x, learned, bits: lsq(x, learned, bits, signed=True, zero=False),
}
FLOAT: dict[str, Method] = {
    "dorefa_weights": lambda x, learned, bits: x,
    "dorefa_activations": lambda x, learned, bits: x.relu(),
    "megvii_weights": lambda x, learned, bits: x,
    "megvii_activations": lambda x, learned, bits: x.relu(),
    "pact": lambda x, learned, bits: torch.minimum(x.relu(), learned),
    "lsq_unsigned": lambda x, learned, bits: x,
    "lsq_signed": lambda x, learned, bits: x,
    "lsq_halves": lambda x, learned, bits: x,
}
every_method = pytest.mark.parametrize("name", METHODS)


def stack_bits(name: str) -> Tensor:
    return torch.tensor([2, 3, 4, 8, 32] if name == "lsq_signed" else [1, 2, 4, 8, 32])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(method: Method, x: Tensor, learned: Tensor, bits: int | Tensor) -> list[Tensor]:
    """The value, and the gradients of x and of what is learned under a random cotangent."""
    x, learned = x.clone().requires_grad_(), learned.clone().requires_grad_()
    value = method(x, learned, bits)
    cotangent = normal(*value.shape, seed=9)
    gradients = torch.autograd.grad(value, (x, learned), cotangent, materialize_grads=True)
    return [value.detach(), *gradients]


@every_method
@pytest.mark.parametrize("as_tensor", [False, True])
def test_32_bits_are_float(name: str, as_tensor: bool):
    x, learned = normal(40) * 2, torch.tensor(1.5)
    bits = torch.tensor(32) if as_tensor else 32
    found = with_gradients(METHODS[name], x, learned, bits)
    for mine, expected in zip(found, with_gradients(FLOAT[name], x, learned, 32), strict=True):
        torch.testing.assert_close(mine, expected)


@every_method
def test_bits_as_a_tensor_give_what_the_number_gives(name: str):
    x, learned = normal(3, 20) * 2, torch.tensor(0.7)
    for bits in stack_bits(name):
        found = with_gradients(METHODS[name], x, learned, bits)
        expected = with_gradients(METHODS[name], x, learned, int(bits))
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other)


@every_method
def test_bits_as_a_tensor_give_what_the_number_gives_at_the_edges_of_the_clip(name: str):
    for bits in stack_bits(name)[:-1]:
        top = 2 ** int(bits)
        edges = {
            "dorefa_activations": [0.0, 1.0],
            "megvii_activations": [0.0, 10.0],
            "pact": [0.0, 0.5],
            "lsq_unsigned": [0.0, 0.5 * (top - 1)],
            "lsq_signed": [-0.25 * top, 0.25 * top - 0.5],
            "lsq_halves": [-0.25 * (top - 1), 0.25 * (top - 1)],
        }
        x, learned = torch.tensor(edges.get(name, [0.0, 1.0])), torch.tensor(0.5)
        found = with_gradients(METHODS[name], x, learned, bits)
        expected = with_gradients(METHODS[name], x, learned, int(bits))
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other)


@every_method
def test_a_stack_of_weights_and_bits_under_vmap_gives_each_alone(name: str):
    bits = stack_bits(name)
    stack, learned = normal(len(bits), 3, 20) * 2, torch.linspace(0.3, 1.1, len(bits))
    stack.requires_grad_()
    learned.requires_grad_()
    values = torch.vmap(METHODS[name])(stack, learned, bits)
    cotangent = normal(3, 20, seed=9).expand_as(values)
    gradients = torch.autograd.grad(values, (stack, learned), cotangent, materialize_grads=True)
    for place, number in enumerate(bits.tolist()):
        alone = with_gradients(
            METHODS[name], stack[place].detach(), learned[place].detach(), number
        )
        for mine, other in zip([values, *gradients], alone, strict=True):
            torch.testing.assert_close(mine[place], other)


@every_method
def test_gradients_taken_inside_vmap_are_those_of_each_alone(name: str):
    method, bits = METHODS[name], stack_bits(name)
    stack, learned = normal(len(bits), 20) * 2, torch.linspace(0.3, 1.1, len(bits))
    cotangent = normal(20, seed=9)

    def loss(x: Tensor, learned: Tensor, bits: Tensor) -> Tensor:
        return (method(x, learned, bits) * cotangent).sum()

    found = torch.vmap(torch.func.grad(loss, argnums=(0, 1)))(stack, learned, bits)
    for place, number in enumerate(bits.tolist()):
        _, *alone = with_gradients(method, stack[place], learned[place], number)
        for mine, other in zip(found, alone, strict=True):
            torch.testing.assert_close(mine[place], other)


@every_method
def test_one_input_under_a_stack_of_bits_gives_each_alone(name: str):
    bits, x, learned = stack_bits(name), normal(3, 20) * 2, torch.tensor(0.7)
    x.requires_grad_()
    values = torch.vmap(METHODS[name], in_dims=(None, None, 0))(x, learned, bits)
    (found,) = torch.autograd.grad(values, x, normal(3, 20, seed=9).expand_as(values))
    expected = torch.zeros_like(x)
    for place, number in enumerate(bits.tolist()):
        value, of_x, _ = with_gradients(METHODS[name], x.detach(), learned, number)
        torch.testing.assert_close(values[place], value)
        expected += of_x
    torch.testing.assert_close(found, expected)


@every_method
def test_a_stack_of_weights_of_the_same_bits_gives_each_alone(name: str):
    stack, learned = normal(3, 20) * 2, torch.tensor([0.3, 0.7, 1.1])
    for bits in (2, 8, 32):
        values = torch.vmap(METHODS[name], in_dims=(0, 0, None))(stack, learned, bits)
        for place in range(3):
            alone = METHODS[name](stack[place], learned[place], bits)
            torch.testing.assert_close(values[place], alone)


@pytest.mark.parametrize("half_up", [False, True])
def test_fake_quantize_of_a_stack_of_bits_gives_each_alone(half_up: bool):
    bits, x = torch.arange(1, 9), torch.linspace(-0.5, 1.5, 41)
    values = torch.vmap(lambda b: fake_quantize(x, b, half_up=half_up))(bits)
    for value, number in zip(values, bits.tolist(), strict=True):
        torch.testing.assert_close(value, fake_quantize(x, number, half_up=half_up))
