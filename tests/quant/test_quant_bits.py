"""A law of every method: 32 bits are float."""

from collections.abc import Callable

import pytest
import torch
from tiny import normal
from torch import Tensor

from kd_ray.quant.dorefa import dorefa_activations, dorefa_weights
from kd_ray.quant.lsq import lsq
from kd_ray.quant.megvii import megvii_activations, megvii_weights
from kd_ray.quant.pact import pact

Method = Callable[[Tensor, Tensor, int], Tensor]
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


def with_gradients(method: Method, x: Tensor, learned: Tensor, bits: int) -> list[Tensor]:
    """The value, and the gradients of x and of what is learned under a random cotangent."""
    x, learned = x.clone().requires_grad_(), learned.clone().requires_grad_()
    value = method(x, learned, bits)
    cotangent = normal(*value.shape, seed=9)
    gradients = torch.autograd.grad(value, (x, learned), cotangent, materialize_grads=True)
    return [value.detach(), *gradients]


@pytest.mark.parametrize("name", METHODS)
def test_32_bits_are_float(name: str):
    x, learned = normal(40) * 2, torch.tensor(1.5)
    found = with_gradients(METHODS[name], x, learned, 32)
    for mine, expected in zip(found, with_gradients(FLOAT[name], x, learned, 32), strict=True):
        torch.testing.assert_close(mine, expected)
