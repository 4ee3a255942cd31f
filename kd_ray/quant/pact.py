"""PACT: activations whose upper clip is learned (Choi et al. 2018, 1805.06085)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.quant.rounding import top_level

INITIAL_CLIP = 8.0
"""Alpha before training: high, and drawn down by its weight decay where that costs nothing."""

CLIP_DECAY = 2e-4
"""L2 penalty of alpha, as large as the paper's for weights."""


class _Pact(torch.autograd.Function):
    """`round(n clip(x / alpha, 0, 1)) alpha / n`."""

    generate_vmap_rule = True  # several students may be trained as one

    @staticmethod
    def forward(x: Tensor, clip: Tensor, n: int) -> Tensor:
        return F.hardtanh_(x / clip, 0, 1).mul_(n).round_() * (clip / n)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, clip, _ = inputs
        ctx.save_for_backward(x, clip)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, clip = ctx.saved_tensors
        (g,) = gradients
        share = x / clip
        inside = torch.ops.aten.hardtanh_backward(g, share, 0.0, 1.0)
        below = torch.ops.aten.hardtanh_backward(g, share, -torch.inf, 1.0)
        return inside, g.sum() - below.sum(), None


def pact(x: Tensor, clip: Tensor, bits: int) -> Tensor:
    """`round(y n / alpha) alpha / n` with y = clip(x, 0, alpha); equations 1 to 3.

    The shape of `x` stays, and `clip` is alpha > 0, of no dimension. The gradient of `x` is 1
    inside (0, alpha) and 0 elsewhere; that of `clip` is 1 where x >= alpha and 0 elsewhere.
    """
    quantized: Tensor = _Pact.apply(x, clip, top_level(bits))
    return quantized
