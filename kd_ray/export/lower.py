"""A student's torch module to the steps of `net`: traced, its numbers taken out, thresholds folded.

Traced by `torch.fx`: what is reached in evaluation mode counts. Batch norm is never folded into
low-bit weights, which would change them, but into the thresholds behind.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from kd_ray.errors import ConfigError
from kd_ray.export.fold import folded
from kd_ray.export.net import (
    Add,
    Affine,
    Array,
    Flatten,
    Level,
    MaxPool,
    MeanPool,
    Operation,
    PixelCodes,
    Pixels,
    Product,
    Relu,
    Shortcut,
    Threshold,
    without_unused,
)
from kd_ray.quant.codes import codes_of, float_thresholds, weight_codes
from kd_ray.quant.quantizers import MegviiNorm, QuantizedReLU, Quantizer
from kd_ray.training.feed import normalized

Shape = tuple[int, int, int]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
KEPT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
"""Modules that do nothing in evaluation."""


def lowered(
    model: nn.Module, shape: Shape, mean: Sequence[float], std: Sequence[float]
) -> list[Operation]:
    """What a model computes in evaluation mode from uint8 pictures, step by step to its logits.

    Args:
        model: float or quantized, on the CPU; it stays as it is.
        shape: `(C, H, W)` of a picture.
        mean: `(C,)` of the pixels in [0, 1], by which it is normalized.
        std: as `mean`.

    Raises:
        ConfigError: it has an operation that has no export.
    """
    made = _Lowering(model, Pixels("pixels", (), shape, *_affine(mean, std)), _levels(mean, std))
    return without_unused(folded(made.steps[: made.number_of(made.end, codes=False) + 1]))


def _affine(mean: Sequence[float], std: Sequence[float]) -> tuple[Array, Array]:
    """As `training.feed` normalizes: float32 throughout."""
    centre, spread = (torch.tensor(v, dtype=torch.float32) for v in (mean, std))
    return (1 / (255 * spread)).numpy(), (-centre / spread).numpy()


def _levels(mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """`(C, 256)`: every pixel normalized, by torch itself and so to the last bit."""
    every = torch.arange(256, dtype=torch.uint8).expand(1, 1, len(mean), 256).transpose(1, 2)
    return normalized(every, *(torch.tensor(v, dtype=torch.float32) for v in (mean, std)))[0, :, 0]


class _Tracer(fx.Tracer):
    """Goes into a model down to torch's own layers, and to those that quantizers made of them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = (nn.Conv2d, nn.Linear, nn.ReLU, *NORMS, Quantizer)
        return isinstance(m, whole) or super().is_leaf_module(m, module_qualified_name)


class _Lowering:
    """The steps of a model, made node by node of its graph.

    Attributes:
        levels: `(C, 256)`, see `_levels`.
        steps: so far.
        at: node -> number of the step that holds its value.
        grid: number of a step that holds codes -> lowest level and distance of two.
        end: the node of the logits.
    """

    def __init__(self, model: nn.Module, pixels: Pixels, levels: torch.Tensor):
        self.model, self.shape, self.levels = model, pixels.shape, levels
        self.steps: list[Operation] = [pixels]
        self.at: dict[fx.Node, int] = {}
        self.grid: dict[int, tuple[float, float]] = {}
        self.floats: dict[int, int] = {}
        try:
            graph = _Tracer().trace(model)
        except Exception as error:  # a model's own code is traced, which may do anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"its operations cannot be listed ({reason[:160]}), so it has no export; write it "
                "without choices that depend on values"
            ) from error
        for node in graph.nodes:
            self._take(node)

    def _take(self, node: fx.Node) -> None:
        """Makes the steps of one node."""
        if node.op == "placeholder":
            self.at[node] = 0
        elif node.op == "output":
            (self.end,) = node.all_input_nodes
        elif node.op == "call_module":
            name = str(node.target)
            self.at[node] = self._module(name, self.model.get_submodule(name), node.args[0])
        else:
            self.at[node] = self._function(node)

    def number_of(self, node: Any, *, codes: bool) -> int:
        """The step that holds a node's value; as floats unless `codes` will do."""
        number = self.at[node]
        if codes or number not in self.grid:
            return number
        if number not in self.floats:
            low, step = self.grid[number]
            self.floats[number] = self._add(Level(self.steps[number].name, (number,), step, low))
        return self.floats[number]

    def _add(self, step: Operation, grid: tuple[float, float] | None = None) -> int:
        self.steps.append(step)
        number = len(self.steps) - 1
        if grid is not None:
            self.grid[number] = grid
        return number

    def _like(self, step: Operation) -> int:
        """Adds a step whose value is of the form of its source."""
        return self._add(step, self.grid.get(step.sources[0]))

    def _module(self, name: str, module: nn.Module, source: Any) -> int:
        codes = (self.number_of(source, codes=True),)
        match module:
            case QuantizedReLU():
                return self._quantized(name, module.output_quantizer, source)
            case nn.Conv2d() | nn.Linear():
                return self._product(name, module, source)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                return self._norm(name, module, source)
            case nn.ReLU():
                return self._add(Relu(name, (self.number_of(source, codes=False),)))
            case nn.MaxPool2d() if module.dilation == 1 and not module.ceil_mode:
                sides = (module.kernel_size, module.stride, module.padding)
                return self._like(MaxPool(name, codes, *map(_pair, sides)))
            case nn.AdaptiveAvgPool2d() if _pair(module.output_size) == (1, 1):
                return self._add(MeanPool(name, (self.number_of(source, codes=False),)))
            case nn.Flatten() if (module.start_dim, module.end_dim) == (1, -1):
                return self._like(Flatten(name, codes))
        if isinstance(module, KEPT):
            return codes[0]
        raise _none(f"layer '{name}' is a {module}")

    def _function(self, node: fx.Node) -> int:
        """A call that is no layer: those of the residual block, and the plainest others."""
        first = node.args[0] if node.args else None
        if node.target in (operator.add, torch.add) and len(node.all_input_nodes) == 2:
            sources = tuple(self.number_of(each, codes=False) for each in node.args)
            return self._add(Add(node.name, sources))
        if node.target in (F.relu, torch.relu):
            return self._add(Relu(node.name, (self.number_of(first, codes=False),)))
        if node.target in (torch.flatten,) and node.args[1:] in ((1,), (1, -1)):
            return self._like(Flatten(node.name, (self.number_of(first, codes=True),)))
        if node.target is operator.getitem:
            match node.args[1]:
                case (a, b, slice() as rows, slice() as columns) if _is_strided(
                    a, b, rows, columns
                ):
                    stride = (int(rows.step or 1), int(columns.step or 1))
                    source = (self.number_of(first, codes=False),)
                    return self._add(Shortcut(node.name, source, stride, 0))
        if node.target is F.pad and node.kwargs.get("value") in (None, 0):
            match node.args[1:]:
                case ((0, 0, 0, 0, 0, int(extra)),):
                    source = (self.number_of(first, codes=False),)
                    return self._add(Shortcut(node.name, source, (1, 1), extra))
        name = getattr(node.target, "__name__", str(node.target))
        raise _none(f"it calls {name} on {first}")

    def _quantized(self, name: str, quantizer: Quantizer, source: Any) -> int:
        """The codes that a quantizer makes of floats, or of the picture."""
        number = self.at[source]
        flat = isinstance(self.steps[number], Flatten)
        if (self.steps[number].sources[0] if flat else number) == 0:
            codes = codes_of(quantizer, self.levels)
            made = PixelCodes(name, (), self.shape, quantizer.bits, codes)
            number = self._add(made, quantizer.grid())
            return self._like(Flatten(name, (number,))) if flat else number
        thresholds = float_thresholds(quantizer)[None]
        number = self.number_of(source, codes=False)
        none = np.zeros(0, bool)
        return self._add(
            Threshold(name, (number,), quantizer.bits, thresholds, none), quantizer.grid()
        )

    def _product(self, name: str, layer: nn.Module, source: Any) -> int:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        if isinstance(quantizer := getattr(layer, "input_quantizer", None), Quantizer):
            number = self._quantized(name, quantizer, source)
        else:
            number = self.number_of(source, codes=True)
        found, grid = weight_codes(layer), self.grid.get(number)
        window: dict[str, Any] = {}
        if isinstance(layer, nn.Conv2d):
            window = _window(name, layer)
        inputs: dict[str, Any] = {}
        scale = 1.0 if found is None else found.scale
        if found and grid and -grid[0] % grid[1] == 0:
            scale *= grid[1]
            inputs = {"input_bits": self._bits(number), "zero": round(-grid[0] / grid[1])}
        elif grid is not None:
            if number not in self.floats:
                self.floats[number] = self._add(Level(name, (number,), grid[1], grid[0]))
            number = self.floats[number]
        bits: dict[str, Any] = {"bits": 32}
        weights: Array
        if found is None:
            weights = layer.weight.detach().float().numpy()
        else:
            weights = found.codes
            bits = {"bits": found.bits, "factor": found.factor, "shift": found.shift}
        made = self._add(Product(name, (number,), weights, **bits, **inputs, **window))
        outputs = len(weights)
        bias = np.zeros(outputs) if layer.bias is None else _numbers(layer.bias)
        return self._add(Affine(name, (made,), np.full(outputs, scale), bias))

    def _bits(self, number: int) -> int:
        """Of the codes that a step holds."""
        step = self.steps[number]
        return (
            step.bits if isinstance(step, Threshold | PixelCodes) else self._bits(step.sources[0])
        )

    def _norm(self, name: str, norm: nn.BatchNorm1d | nn.BatchNorm2d, source: Any) -> int:
        if norm.running_mean is None or norm.running_var is None:
            raise _none(f"layer '{name}' normalizes by the batch's own statistics")
        factor = np.ones(norm.num_features) if norm.weight is None else _numbers(norm.weight)
        if isinstance(norm, MegviiNorm):
            factor = np.abs(factor) + 1
        offset = 0.0 if norm.bias is None else _numbers(norm.bias)
        scale = factor / np.sqrt(_numbers(norm.running_var) + norm.eps)
        bias = offset - scale * _numbers(norm.running_mean)
        return self._add(Affine(name, (self.number_of(source, codes=False),), scale, bias))


def _window(name: str, layer: nn.Conv2d) -> dict[str, Any]:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise _none(f"layer '{name}' fills its border by {layer.padding_mode}, {layer.padding}")
    return {
        "stride": _pair(layer.stride),
        "padding": _pair(layer.padding),
        "dilation": _pair(layer.dilation),
        "groups": layer.groups,
    }


def _numbers(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()


def _pair(value: Any) -> tuple[int, int]:
    one, other = value if isinstance(value, tuple | list) else (value, value)
    return int(one), int(other)


def _is_strided(first: Any, second: Any, rows: slice, columns: slice) -> bool:
    whole = slice(None)
    from_the_first = (rows.start, rows.stop, columns.start, columns.stop) == (None,) * 4
    return first == second == whole and from_the_first


def _none(what: str) -> ConfigError:
    return ConfigError(
        f"{what}, which has no export; choose --format pt2, or a model of convolutions, linear "
        "layers, batch norm, ReLU, pooling and sums"
    )
