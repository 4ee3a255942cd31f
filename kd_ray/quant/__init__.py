"""Low-bit networks: quantizers as pure functions, as modules, and on a model (floor 2)."""

from kd_ray.quant.apply import (
    LayerBits,
    calibrate_,
    dequantize_,
    is_quantized,
    quantize_,
)
from kd_ray.quant.cost import LayerCost, ModelCost, activity, dead_layers, model_cost
from kd_ray.quant.dorefa import dorefa_activations, dorefa_gradients, dorefa_weights
from kd_ray.quant.lsq import lsq
from kd_ray.quant.megvii import megvii_activations, megvii_weights
from kd_ray.quant.pact import pact
from kd_ray.quant.rounding import fake_quantize, round_ste

__all__ = [
    "LayerBits",
    "LayerCost",
    "ModelCost",
    "activity",
    "calibrate_",
    "dead_layers",
    "dequantize_",
    "dorefa_activations",
    "dorefa_gradients",
    "dorefa_weights",
    "fake_quantize",
    "is_quantized",
    "lsq",
    "megvii_activations",
    "megvii_weights",
    "model_cost",
    "pact",
    "quantize_",
    "round_ste",
]
