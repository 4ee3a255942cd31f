"""`[student.quantizer]`: bits of weights, activations and gradients, and how they are reached."""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kd_ray.config.table import Table

FLOAT_BITS: Final = 32
"""Stands for float: nothing is quantized."""


def _checked_bits(bits: int) -> int:
    if not (1 <= bits <= 8 or bits == FLOAT_BITS):
        raise ValueError(f"bits must be 1 to 8, or 32 for float, but got {bits}")
    return bits


BitCount = Annotated[int, AfterValidator(_checked_bits)]


class LayerOptions(Table):
    """`[student.quantizer.layers]`: other bits for the layers that a pattern names."""

    weight_bits: BitCount | None = None
    """Bits of the layer's weights."""

    activation_bits: BitCount | None = None
    """Bits of the layer's inputs."""


class QuantizerOptions(Table):
    """`[student.quantizer]`: a student of few bits; see `kd_ray.quant` for the methods."""

    method: Literal["dorefa", "megvii", "lsq", "pact"] = "dorefa"
    """DoReFa-Net, the course exercise's block, LSQ, or PACT's activations with DoReFa's weights."""

    weight_bits: BitCount = FLOAT_BITS
    """Bits of weights: 1 to 8, or 32 for float."""

    activation_bits: BitCount = FLOAT_BITS
    """Bits of the inputs of layers: 1 to 8, or 32 for float."""

    gradient_bits: BitCount = FLOAT_BITS
    """Bits of the gradients of layers' outputs: 1 to 8, or 32 for float; dorefa alone has them."""

    first_last_float: bool | None = None
    """Whether the first and the last layer stay float; unset, both do, but megvii's first one."""

    first_last_bits: Literal[8] | None = None
    """Bits of the weights and the inputs of the first and the last layer, instead of float: with 8
    an exported student adds up integers alone, pixels included."""

    signed_levels: Literal["with-zero", "without-zero"] | None = None
    """LSQ's levels on both sides of 0: -2, -1, 0, 1 or -3/2, -1/2, 1/2, 3/2 steps for 2 bits;
    unset, with zero from 2 bits on."""

    layers: dict[str, LayerOptions] = Field(default={})
    """Bits of single layers, by name or by a pattern such as "block4_*"; later ones win."""

    @property
    def float_ends(self) -> tuple[bool, bool]:
        """Whether the first and whether the last layer stay float."""
        if self.first_last_bits is not None:
            return False, False
        if self.first_last_float is None:
            return self.method != "megvii", True
        return self.first_last_float, self.first_last_float

    def has_signed_zero(self, bits: int) -> bool:
        """Whether LSQ's signed levels of so many bits have 0 among them."""
        return bits > 1 if self.signed_levels is None else self.signed_levels == "with-zero"

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.gradient_bits != FLOAT_BITS and self.method != "dorefa":
            raise ValueError(
                f"gradient_bits goes with dorefa, which alone has quantized gradients, but got "
                f"{self.gradient_bits} with {self.method}; use 32, or method = dorefa"
            )
        if self.signed_levels is not None and self.method != "lsq":
            raise ValueError(
                f"signed_levels goes with lsq, but got it with {self.method}; leave it out"
            )
        if self.first_last_bits is not None and self.first_last_float is not None:
            raise ValueError(
                "first_last_bits says how the first and the last layer are quantized, but got "
                f"first_last_float = {str(self.first_last_float).lower()} beside it; leave one out"
            )
        weights = [self.weight_bits, *(layer.weight_bits for layer in self.layers.values())]
        if self.signed_levels == "with-zero" and 1 in weights:
            raise ValueError(
                "signed levels with a zero need at least 2 bits, but got 1 bit, whose levels would "
                'be {-1, 0}; choose signed_levels = "without-zero" ({-1, +1}) or more bits'
            )
        inputs = [layer.activation_bits for layer in self.layers.values()]
        if self.method == "megvii" and any(bits is not None for bits in inputs):
            raise ValueError(
                "megvii quantizes what leaves each ReLU with the one activation_bits, so layers "
                "have no activation_bits of their own; leave them out, or choose another method"
            )
        return self
