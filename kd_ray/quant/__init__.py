"""Low-bit networks: quantizers as pure functions, as modules, and on a model."""

from kd_ray.quant.activations import activity, dead_layers
from kd_ray.quant.apply import calibrate_, is_quantized, quantize_
from kd_ray.quant.cost import model_cost

__all__ = ["activity", "calibrate_", "dead_layers", "is_quantized", "model_cost", "quantize_"]
