"""A sentence encoder (BERT, Devlin et al. 2019) as an ONNX graph, written node by node.

Input: `ids` [rows, length], and `mask` [rows, length], 1 where there is a token and 0 behind its
end. Output: `vectors` [rows, width], the mean over a row's tokens, brought to length 1 (Reimers and
Gurevych 2019). What a row comes to depends on its own tokens alone: padding weighs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

Array = NDArray[Any]

_OPSET, _IR = 20, 10
_FAR = -1e9
"""Added to the attention paid to padding."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the encoder; `width` is also the vectors'."""

    layers: int
    heads: int
    width: int
    epsilon: float


def build_encoder(weights: Path, target: Path, shape: Shape) -> int:
    """Write the graph of a checkpoint's weights to `target`; how many parameters it has."""
    found = load_file(weights)
    graph = _Graph({name: np.asarray(value) for name, value in found.items()}, shape)
    onnx.save(graph.build(), target)
    return graph.parameters


class _Graph:
    """Nodes and constants in the making."""

    def __init__(self, weights: dict[str, Array], shape: Shape) -> None:
        self._weights = weights
        self._shape = shape
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {}

    @property
    def parameters(self) -> int:
        """How many numbers it was trained to have."""
        return sum(value.size for value in self._constants.values() if value.dtype == np.float32)

    def build(self) -> onnx.ModelProto:
        """The whole model."""
        mask = self._node("Unsqueeze", ["mask", self._keep("mask.axes", np.array([1, 2]))])
        away = self._node("Sub", [mask, self._keep("one", np.array(1, np.float32))])
        far = self._node("Mul", [away, self._keep("far", np.array(-_FAR, np.float32))])
        x = self._embedded()
        for layer in range(self._shape.layers):
            x = self._layer(f"encoder.layer.{layer}", x, far)
        self._pool(x)
        names = ["rows", "length"]
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [
                helper.make_tensor_value_info("ids", TensorProto.INT64, names),
                helper.make_tensor_value_info("mask", TensorProto.FLOAT, names),
            ],
            [
                helper.make_tensor_value_info(
                    "vectors", TensorProto.FLOAT, ["rows", self._shape.width]
                )
            ],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR)
        onnx.checker.check_model(model)
        return model

    def _embedded(self) -> str:
        """Words and positions; every text is of the first type, which is folded into these."""
        words = self._taken("embeddings.word_embeddings.weight")
        types = self._weights["embeddings.token_type_embeddings.weight"]
        places = self._weights["embeddings.position_embeddings.weight"] + types[:1]
        length = self._node("Shape", ["ids"], start=1, end=2)
        upto = self._node("Squeeze", [length])
        steps = [self._keep("zero", np.array(0)), upto, self._keep("step", np.array(1))]
        position = self._node("Range", steps)
        word = self._node("Gather", [words, "ids"])
        place = self._node("Gather", [self._keep("places", places), position])
        return self._norm("embeddings.LayerNorm", self._node("Add", [word, place]))

    def _layer(self, name: str, x: str, far: str) -> str:
        attended = self._attention(name, x, far)
        x = self._norm(f"{name}.attention.output.LayerNorm", self._node("Add", [attended, x]))
        wide = self._node("Gelu", [self._linear(f"{name}.intermediate.dense", x)])
        narrow = self._linear(f"{name}.output.dense", wide)
        return self._norm(f"{name}.output.LayerNorm", self._node("Add", [narrow, x]))

    def _attention(self, name: str, x: str, far: str) -> str:
        shape = self._shape
        size = shape.width // shape.heads
        apart = self._keep("apart", np.array([0, 0, shape.heads, size]))
        query, key, value = (
            self._node("Reshape", [self._linear(f"{name}.attention.self.{each}", x), apart])
            for each in ("query", "key", "value")
        )
        query = self._node("Transpose", [query], perm=[0, 2, 1, 3])
        key = self._node("Transpose", [key], perm=[0, 2, 3, 1])
        value = self._node("Transpose", [value], perm=[0, 2, 1, 3])
        scores = self._node("MatMul", [query, key])
        scaled = self._node("Mul", [scores, self._keep("scale", np.array(size**-0.5, np.float32))])
        weighed = self._node("Softmax", [self._node("Add", [scaled, far])], axis=-1)
        mixed = self._node("MatMul", [weighed, value])
        joined = self._node("Transpose", [mixed], perm=[0, 2, 1, 3])
        together = self._keep("together", np.array([0, 0, shape.width]))
        flat = self._node("Reshape", [joined, together])
        return self._linear(f"{name}.attention.output.dense", flat)

    def _pool(self, x: str) -> None:
        """By a product, whose order of adding up does not depend on how many rows there are."""
        last, middle = (self._keep(f"axis.{at}", np.array([at])) for at in (-1, 1))
        total = self._node("MatMul", [self._node("Unsqueeze", ["mask", middle]), x])
        count = self._node("ReduceSum", ["mask", middle], keepdims=1)
        mean = self._node("Div", [self._node("Squeeze", [total, middle]), count])
        norm = self._node("ReduceL2", [mean, last], keepdims=1)
        self._node("Div", [mean, norm], output="vectors")

    def _linear(self, name: str, x: str) -> str:
        weight = self._keep(f"{name}.weight", self._weights[f"{name}.weight"].T)
        product = self._node("MatMul", [x, weight])
        return self._node("Add", [product, self._taken(f"{name}.bias")])

    def _norm(self, name: str, x: str) -> str:
        inputs = [x, self._taken(f"{name}.weight"), self._taken(f"{name}.bias")]
        return self._node("LayerNormalization", inputs, epsilon=self._shape.epsilon)

    def _taken(self, name: str) -> str:
        return self._keep(name, self._weights[name])

    def _keep(self, name: str, value: Array) -> str:
        self._constants.setdefault(name, np.ascontiguousarray(value).reshape(value.shape))
        return name

    def _node(self, kind: str, inputs: Sequence[str], *, output: str = "", **more: object) -> str:
        output = output or f"{kind}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **more))
        return output
