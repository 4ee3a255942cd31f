"""DoReFa-Net: low-bit weights, activations and gradients (Zhou et al. 2016, 1606.06160)."""

from typing import Any

import torch
from torch import Tensor

from kd_ray.config.quantizer import FLOAT_BITS
from kd_ray.quant.rounding import fake_quantize, straight_through, top_level


def dorefa_weights(w: Tensor, bits: int) -> Tensor:
    """Low-bit weights; equations 7 and 9.

    One bit: `E sign(w)` with E the mean of |w| over the layer, sign(0) = +1, and the gradient of
    the identity. More: `2 q_k(t / (2 max|t|) + 1/2) - 1` with t = tanh(w); there is no level 0, and
    the layer's scale is lost, which is harmless only where a batch norm follows. The shape of `w`
    stays.

    >>> dorefa_weights(torch.tensor([-3.0, 0.0, 1.0]), 1)
    tensor([-1.3333,  1.3333,  1.3333])
    """
    if bits == 1:
        scale = w.abs().mean()
        return straight_through(w, torch.where(w >= 0, scale, -scale))
    t = torch.tanh(w)
    # Where all weights are 0 every one is in the middle of the range.
    top = t.abs().amax()
    half = t / (2 * torch.where(top > 0, top, 1))
    return 2 * fake_quantize(half + 0.5, bits) - 1


def dorefa_activations(x: Tensor, bits: int) -> Tensor:
    """`q_k(clip(x, 0, 1))`, section 2.4; the gradient is 1 inside (0, 1) and 0 elsewhere."""
    return fake_quantize(x, bits)


class _QuantizedGradient(torch.autograd.Function):
    """The identity whose gradient has 2^k levels for each sample."""

    @staticmethod
    def forward(x: Tensor, bits: int) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.bits = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return quantized_gradient(gradients[0], ctx.bits), None


def dorefa_gradients(x: Tensor, bits: int) -> Tensor:
    """`x`, `(N, ...)`, whose gradient is quantized on its way back, unless it has 32 bits."""
    if bits >= FLOAT_BITS:
        return x
    passed: Tensor = _QuantizedGradient.apply(x, bits)
    return passed


def quantized_gradient(gradient: Tensor, bits: int) -> Tensor:
    """Equation 12: `2m (q_k(clip(g / 2m + 1/2 + noise, 0, 1)) - 1/2)`, m = max|g| of each sample.

    The noise is uniform on one step, so that the expectation keeps what rounding would lose; it
    comes from torch's random state, which the loop seeds for each epoch. The shape of `gradient`,
    `(N, ...)`, stays.
    """
    n = top_level(bits)
    dims = tuple(range(1, gradient.dim()))
    m = torch.linalg.vector_norm(gradient, torch.inf, dim=dims, keepdim=True)
    twice = 2 * m.clamp_min(torch.finfo(gradient.dtype).tiny)
    # In place, as it is as large as the layer's output: 1/2 and the noise, g / 2m, q_k, back again.
    level = torch.empty_like(gradient).uniform_(0.5 - 0.5 / n, 0.5 + 0.5 / n)
    level.addcmul_(gradient, 1 / twice).clamp_(0, 1).mul_(n).round_()
    return level.sub_(n / 2).mul_(twice / n)
