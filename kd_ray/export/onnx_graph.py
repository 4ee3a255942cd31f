"""An ONNX graph as it is written node by node: names, constants, and codes of few bits."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kd_ray.export.net import Array
from kd_ray.export.packed import packed_codes

OPSET, IR = 25, 13
"""The first that has types of 2 bits."""
INPUT, OUTPUT = "pixels", "logits"
CODE_TYPES = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8}


def beside(values: Array, rank: int) -> Array:
    """`(O,)` as float32 that stand beside `(N, O, ...)` of `rank` dimensions behind the first."""
    return values.reshape(-1, *[1] * (rank - 1)).astype(np.float32)


class Graph:
    """Nodes and constants so far; a value is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[tuple[Any, ...], Any] = {}

    def add(self, operator: str, *inputs: "str | Array | np.generic", **attributes: Any) -> str:
        """A node, with arrays among its inputs as constants; the name of its value."""
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        made = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [made], **attributes))
        return made

    def cast(self, value: "str | Array", kind: type[np.generic]) -> str:
        """A value as numbers of another type."""
        to = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        return self.add("Cast", value, to=to)

    def scaled(self, x: str, scale: Array, bias: Array, rank: int) -> str:
        """`x * scale + bias`, `(O,)` each, of values of `rank` dimensions for one picture."""
        if (scale != 1).any():
            x = self.add("Mul", x, beside(scale, rank))
        return self.add("Add", x, beside(bias, rank)) if bias.any() else x

    def limited(self, codes: str, top: int) -> str:
        """Codes none of which is above the highest."""
        return codes if top == 255 else self.add("Clip", codes, "", np.uint8(top))

    def constant(self, value: "Array | np.generic") -> str:
        """An array; one that is there already is not written again."""
        array = np.asarray(value, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        return self._kept(key, lambda name: numpy_helper.from_array(array, name))

    def codes(self, codes: Array, bits: int) -> str:
        """Codes of the narrowest unsigned type that there is: 2, 4 or 8 bits each."""
        width = next(each for each in CODE_TYPES if bits <= each)
        raw = packed_codes(codes, width).tobytes()

        def made(name: str) -> Any:
            return TensorProto(
                name=name, data_type=CODE_TYPES[width], dims=codes.shape, raw_data=raw
            )

        return self._kept((width, codes.shape, raw), made)

    def _kept(self, key: tuple[Any, ...], made: Any) -> str:
        if key not in self.constants:
            self.constants[key] = made(f"c{len(self.constants)}")
        return str(self.constants[key].name)

    def write(
        self, file: Path, shape: Sequence[int], classes: int, about: Mapping[str, Any]
    ) -> None:
        """Writes a model whose last node makes the logits, after ONNX's own checker has seen it.

        Args:
            file: written at once.
            shape: `(C, H, W)` of a picture.
            classes: K.
            about: texts, or what is written as JSON; the model's own properties.
        """
        self.nodes[-1].output[0] = OUTPUT
        pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", *shape])
        logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])
        tensors = list(self.constants.values())
        graph = helper.make_graph(self.nodes, "student", [pixels], [logits], tensors)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            graph, opset_imports=[opset], ir_version=IR, producer_name="kd-ray"
        )
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
        helper.set_model_props(model, texts)
        onnx.checker.check_model(model, full_check=True)
        file.write_bytes(model.SerializeToString(deterministic=True))
