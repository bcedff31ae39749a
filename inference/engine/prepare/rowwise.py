"""Linear layers in 8 bit, weights and activations, no row ever depending on its neighbours.

Three steps over the reshaped graph:

1. Smoothing (SmoothQuant, Xiao et al. 2023): a channel whose activations are large is divided by
   a factor s and its weights multiplied by it: s = (largest activation)^a / (largest weight)^(1-a),
   a = 0.7 behind norms, where one scale serves all rows, and 0.5 elsewhere. The division is folded
   into what makes the channel (a norm's weight, the columns of `up_proj` or of the values), so it
   costs nothing when the model runs.
2. Activations to unsigned 8 bit around 128: with one calibrated scale for a whole tensor where a
   norm or the attention bounds them (`fixed`), else with the row's own largest magnitude (`row`).
   Both depend on the row alone.
3. Weights to signed 8 bit with a scale each column, multiplied by MatMulIntegerToFloat. On CPUs
   without VNNI instructions pairs of products may saturate at 16 bit, so weights get 7 bits there.

The output layer stays MatMulNBits: weights in blocks of 64, activations quantized by row and block.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from inference.engine.prepare.calibration import Ranges

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Blocks = tuple[NDArray[np.generic], ...]

_BLOCK = 64
_LEVELS = 127
_STRONG, _EVEN = 0.7, 0.5
_ZEROS = ("quantized.zero", "quantized.weight_zero")
_CONTRIB = "com.microsoft"
_NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")


def quantize(model: ModelProto, ranges: Ranges, *, weight_levels: int | None = None) -> None:
    """Replace the graph's linear layers in place; `ranges` as `Reading` gives them."""
    graph = _Graph(model)
    ranges = dict(ranges)
    for value in graph.linear_inputs():
        graph.smooth(value, ranges)
    _Rewriting(graph, ranges, weight_levels or best_weight_levels()).run()


def quantize_weights(model: ModelProto) -> None:
    """Weights of 4 bit in blocks of 32 with a scale and a zero each; the output layer of 8 bit."""
    graph = _Graph(model)
    _Rewriting(graph, {}, _LEVELS, weight_only=True).run()


def best_weight_levels() -> int:
    """127 where products of unsigned and signed bytes are added up in 32 bit, else 63."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return 63
    return _LEVELS if "avx512_vnni" in flags or "avx_vnni" in flags else 63


class _Graph:
    """A graph's nodes by what they make and read, its weights as arrays."""

    def __init__(self, model: ModelProto) -> None:
        self.proto = model.graph
        self.made_by = {out: node for node in self.proto.node for out in node.output if out}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.proto.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self._initializers = {one.name: one for one in self.proto.initializer}
        self._weights: dict[str, Array] = {}

    def has(self, name: str) -> bool:
        return name in self._initializers

    def weight(self, name: str) -> Array:
        if name not in self._weights:
            self._weights[name] = numpy_helper.to_array(self._initializers[name])
        return self._weights[name]

    def set(self, name: str, value: Array) -> None:
        self._weights[name] = value

    def is_linear(self, node: NodeProto) -> bool:
        return node.op_type == "MatMul" and self.has(node.input[1])

    def linear_inputs(self) -> list[str]:
        """The values that linear layers read, each once."""
        return list(dict.fromkeys(n.input[0] for n in self.proto.node if self.is_linear(n)))

    def smooth(self, value: str, ranges: Ranges) -> None:
        """Divide the channels of `value` where it is made, multiply its readers' weights."""
        readers, maker = self.readers[value], self.made_by[value]
        if value not in ranges or not all(self.is_linear(node) for node in readers):
            return
        weights = [self.weight(node.input[1]) for node in readers]
        largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
        if maker.op_type in _NORMS:
            factor = _factor(ranges[value], largest, _STRONG)
            self._divide_norm(maker, factor)
        elif maker.op_type == "Mul" and self.is_linear(self.made_by[maker.input[1]]):
            factor = _factor(ranges[value], largest, _EVEN)
            self._divide_columns(self.made_by[maker.input[1]].input[1], factor)
        elif maker.op_type == "GroupQueryAttention" and self._makes_values(maker):
            factor = self._divide_values(maker, ranges[value], largest)
        else:
            return
        ranges[value] = ranges[value] / factor
        for node, weight in zip(readers, weights, strict=True):
            self.set(node.input[1], weight * factor[:, None])

    def _makes_values(self, attention: NodeProto) -> bool:
        packed = not attention.input[1]
        return packed and self.is_linear(self.made_by[attention.input[0]])

    def _divide_norm(self, norm: NodeProto, factor: Array) -> None:
        name = norm.input[1 if norm.op_type == _NORMS[0] else 2]
        self.set(name, self.weight(name) / factor)

    def _divide_columns(self, name: str, factor: Array) -> None:
        self.set(name, self.weight(name) / factor[None])

    def _divide_values(self, attention: NodeProto, activations: Array, weights: Array) -> Array:
        """Heads of a group share their values, so their channels share a factor."""
        attributes = {one.name: one.i for one in attention.attribute}
        heads, groups = attributes["num_heads"], attributes["kv_num_heads"]
        shape = (groups, heads // groups, -1)
        factor = _factor(activations.reshape(shape).max(1), weights.reshape(shape).max(1), _EVEN)
        name = self.made_by[attention.input[0]].input[1]
        packed = self.weight(name).copy()
        packed[:, -factor.size :] /= factor.reshape(1, -1)
        self.set(name, packed)
        return np.repeat(factor[:, None], heads // groups, axis=1).reshape(-1)


class _Rewriting:
    """Builds the new list of nodes; what two linear layers both read is quantized once."""

    def __init__(
        self, graph: _Graph, ranges: Ranges, levels: int, *, weight_only: bool = False
    ) -> None:
        self._weight_only = weight_only
        self._graph = graph
        self._ranges = ranges
        self._levels = levels
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, NDArray[np.generic]] = {
            _ZEROS[0]: np.array(128, np.uint8),
            _ZEROS[1]: np.array(0, np.int8),
            "quantized.step": np.array(1 / _LEVELS, np.float32),
            "quantized.last_axis": np.array([-1], np.int64),
        }
        self._quantized: dict[str, tuple[str, str, str | None]] = {}

    def run(self) -> None:
        """Rewrite every linear layer."""
        replaced: set[str] = set()
        for node in self._graph.proto.node:
            if not self._graph.is_linear(node):
                self._nodes.append(node)
                continue
            replaced.add(node.input[1])
            if "logits" in node.output:
                self._blocks(node, in_blocks(self._graph.weight(node.input[1]), _BLOCK), 8, _BLOCK)
            elif self._weight_only:
                self._blocks(node, in_small_blocks(self._graph.weight(node.input[1]), 32), 4, 32)
            else:
                self._integer(node)
        self._store(replaced)

    def _integer(self, node: NodeProto) -> None:
        value, name = node.input
        quantized, scale, largest = self._activations(value)
        weight = self._graph.weight(name)
        steps = np.maximum(np.abs(weight).max(axis=0), 1e-8) / self._levels
        self._constants[f"{name}.int8"] = np.round(weight / steps).astype(np.int8)
        self._constants[f"{name}.scales"] = steps.astype(np.float32)
        made = node.output[0] if largest is None else f"{node.output[0]}.of_row"
        self._add(
            "MatMulIntegerToFloat",
            [quantized, f"{name}.int8", scale, f"{name}.scales", *_ZEROS],
            [made],
            domain=_CONTRIB,
        )
        if largest is not None:
            self._add("Mul", [made, largest], [node.output[0]])

    def _blocks(self, node: NodeProto, packed: Blocks, bits: int, size: int) -> None:
        value, name = node.input
        parts = [f"{name}.{part}" for part in ("blocks", "scales", "zeros")][: len(packed)]
        self._constants |= dict(zip(parts, packed, strict=True))
        rows, columns = self._graph.weight(name).shape
        self._add(
            "MatMulNBits",
            [value, *parts],
            list(node.output),
            domain=_CONTRIB,
            K=rows,
            N=columns,
            bits=bits,
            block_size=size,
            accuracy_level=4,
        )

    def _activations(self, value: str) -> tuple[str, str, str | None]:
        """The quantized value, its fixed scale, and by what its rows are to be multiplied."""
        if value not in self._quantized:
            fixed = self._is_bounded(value)
            self._quantized[value] = self._fixed(value) if fixed else self._by_row(value)
        return self._quantized[value]

    def _is_bounded(self, value: str) -> bool:
        return self._graph.made_by[value].op_type in (*_NORMS, "GroupQueryAttention")

    def _fixed(self, value: str) -> tuple[str, str, None]:
        scale, quantized = f"{value}.step", f"{value}.uint8"
        self._constants[scale] = np.array(self._ranges[value].max() / _LEVELS, np.float32)
        self._add("QuantizeLinear", [value, scale, _ZEROS[0]], [quantized])
        return quantized, scale, None

    def _by_row(self, value: str) -> tuple[str, str, str]:
        largest, quantized = f"{value}.largest", f"{value}.uint8"
        self._add("Abs", [value], [f"{value}.abs"])
        self._add("ReduceMax", [f"{value}.abs", "quantized.last_axis"], [largest], keepdims=1)
        self._add("Div", [value, largest], [f"{value}.in_row"])
        self._add("QuantizeLinear", [f"{value}.in_row", "quantized.step", _ZEROS[0]], [quantized])
        return quantized, "quantized.step", largest

    def _add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> None:
        name = f"{outputs[0]}/{kind}"
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))

    def _store(self, replaced: Iterable[str]) -> None:
        """Nodes and weights back into the graph."""
        proto, gone = self._graph.proto, set(replaced)
        kept = [one.name for one in proto.initializer if one.name not in gone]
        weights = [numpy_helper.from_array(self._graph.weight(name), name) for name in kept]
        constants = [numpy_helper.from_array(one, name) for name, one in self._constants.items()]
        del proto.node[:], proto.initializer[:]
        proto.node.extend(self._nodes)
        proto.initializer.extend(weights + constants)


def in_blocks(weight: Array, size: int) -> tuple[Bytes, Array]:
    """[K, N] as MatMulNBits takes it in 8 bit: [N, K / size, size] around 128, and its scales."""
    blocks = _cut(weight, size)
    scales = np.maximum(np.abs(blocks).max(axis=-1), 1e-8) / _LEVELS
    packed = np.round(blocks / scales[..., None]) + 128
    return packed.astype(np.uint8), scales.astype(np.float32)


def in_small_blocks(weight: Array, size: int) -> tuple[Bytes, Array, Bytes]:
    """The same in 4 bit, two in a byte: [N, K / size, size / 2], its scales, its zeros."""
    blocks = _cut(weight, size)
    low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    scales = np.maximum(high - low, 1e-8) / 15
    zeros = np.round(-low / scales)
    fours = np.clip(np.round(blocks / scales[..., None]) + zeros[..., None], 0, 15)
    return _pairs(fours), scales.astype(np.float32), _pairs(zeros)


def _cut(weight: Array, size: int) -> Array:
    rows, columns = weight.shape
    count = -(-rows // size)
    padded = np.zeros((count * size, columns), np.float32)
    padded[:rows] = weight
    return padded.T.reshape(columns, count, size)


def _pairs(fours: Array) -> Bytes:
    """Neighbours on the last axis in one byte, the first in its lower half."""
    odd = [(0, 0)] * (fours.ndim - 1) + [(0, fours.shape[-1] % 2)]
    whole = np.pad(fours.astype(np.uint8), odd)
    return np.bitwise_or(whole[..., ::2], whole[..., 1::2] * 16, dtype=np.uint8)


def _factor(activations: Array, weights: Array, share: float) -> Array:
    """By what each channel is divided, around one; `share` of the outliers go to the weights."""
    factor = np.maximum(activations, 1e-5) ** share / np.maximum(weights, 1e-5) ** (1 - share)
    centred = factor / np.exp(np.log(factor).mean())
    return np.asarray(np.maximum(centred, 1e-4), np.float32)
