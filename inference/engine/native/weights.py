"""A Llama checkpoint's weights as the kernels read them, in one file.

A linear layer [outputs, inputs] is bytes around 128, in tiles of 16 outputs and blocks of 64
inputs: `[outputs / 16, inputs / 64, 16, 16, 4]`, so that one load holds four inputs of sixteen
outputs; its scales, one for each output and block, are `[outputs / 16, inputs / 64, 16]` in half
precision. Tiles come in pairs: outputs are padded to a multiple of 32. The rows of `gate_proj` and
`up_proj` alternate by tiles, so that a pair is a gate and what it gates.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

FILE = "weights.safetensors"
BLOCK, LANES, PAIR = 64, 16, 2

Floats = NDArray[np.float32]
Tensors = dict[str, NDArray[np.generic]]
Read = Callable[[str], Floats]

_LAYER = "model.layers.{}.{}.weight"


class Unsupported(Exception):
    """A checkpoint that the kernels cannot run; the message says which field is to blame."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's sizes, by the names of the kernels."""

    layers: int
    hidden: int
    heads: int
    groups: int
    head_size: int
    neurons: int
    vocabulary: int
    epsilon: float


def read_shape(config: dict[str, Any]) -> Shape:
    """From a checkpoint's config.json. Raises Unsupported."""

    def number(name: str, default: int | None = None) -> int:
        value = config.get(name)
        if isinstance(value, int):
            return value
        if default is None:
            raise Unsupported(f"config.json lacks {name}")
        return default

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    shape = Shape(
        layers=number("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        groups=number("num_key_value_heads", heads),
        head_size=number("head_dim", hidden // heads),
        neurons=number("intermediate_size"),
        vocabulary=number("vocab_size"),
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
    )
    _check(config, shape)
    read_theta(config)
    return shape


def read_theta(config: dict[str, Any]) -> float:
    """The base of the rotary positions. Raises Unsupported."""
    rope = config.get("rope_parameters") or {}
    kind = rope.get("rope_type", "default")
    if kind != "default" or config.get("rope_scaling"):
        raise Unsupported(f"rope_type is {kind!r}; only 'default' is supported")
    return float(rope.get("rope_theta") or config.get("rope_theta") or 10_000)


def _check(config: dict[str, Any], shape: Shape) -> None:
    if config.get("model_type") != "llama":
        raise Unsupported(f"model_type is {config.get('model_type')!r}; only 'llama' is supported")
    for name, only in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if config.get(name, only) != only:
            raise Unsupported(f"{name} is {config[name]!r}; only {only!r} is supported")
    for name, size, multiple in (
        ("hidden_size", shape.hidden, BLOCK),
        ("intermediate_size", shape.neurons, BLOCK),
        ("heads times head_dim", shape.heads * shape.head_size, BLOCK),
        ("head_dim", shape.head_size, LANES),
    ):
        if size % multiple:
            raise Unsupported(f"{name} is {size}; it must be a multiple of {multiple}")


def pack(checkpoint: Path, file: Path) -> Shape:
    """Write the weights of a checkpoint folder that `save_pretrained` wrote; its shape.

    Raises Unsupported.
    """
    shape = read_shape(json.loads((checkpoint / "config.json").read_text()))
    with safe_open(checkpoint / "model.safetensors", "numpy") as source:
        names = set(source.keys())

        def read(name: str) -> Floats:
            return np.asarray(source.get_tensor(name), np.float32)

        head = "lm_head.weight" if "lm_head.weight" in names else "model.embed_tokens.weight"
        tensors: Tensors = dict(_tensors(read, shape, head))
    save_file(tensors, file)
    return shape


def _tensors(read: Read, shape: Shape, head: str) -> Iterator[tuple[str, NDArray[np.generic]]]:
    yield "embedding", read("model.embed_tokens.weight").astype(np.float16)
    yield "norm", read("model.norm.weight")
    yield from _linear("head", read(head))
    for number in range(shape.layers):

        def of(name: str, number: int = number) -> Floats:
            return read(_LAYER.format(number, name))

        gate_up = np.stack([_tiles(of(f"mlp.{name}_proj")) for name in ("gate", "up")], axis=1)
        packed = np.concatenate([of(f"self_attn.{name}_proj") for name in "qkv"])
        yield f"{number}.before", of("input_layernorm")
        yield f"{number}.after", of("post_attention_layernorm")
        yield from _linear(f"{number}.qkv", packed)
        yield from _linear(f"{number}.out", of("self_attn.o_proj"))
        yield from _linear(f"{number}.gate_up", gate_up.reshape(-1, shape.hidden))
        yield from _linear(f"{number}.down", of("mlp.down_proj"))


def _tiles(weight: Floats) -> Floats:
    """[outputs, inputs] as [tiles, 16, inputs]."""
    return weight.reshape(-1, LANES, weight.shape[1])


def _linear(name: str, weight: Floats) -> Iterator[tuple[str, NDArray[np.generic]]]:
    quantized, scales = quantize(weight)
    yield f"{name}.weights", quantized
    yield f"{name}.scales", scales


def quantize(weight: Floats) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Bytes and scales of [outputs, inputs]; see this module for their layout."""
    outputs, inputs = weight.shape
    padded = np.zeros((-(-outputs // (LANES * PAIR)) * LANES * PAIR, inputs), np.float32)
    padded[:outputs] = weight
    blocks = padded.reshape(-1, LANES, inputs // BLOCK, BLOCK)
    scales = (np.abs(blocks).max(axis=-1) / 127).astype(np.float16)
    steps = np.maximum(scales.astype(np.float32), 1e-12)
    whole = np.clip(np.round(blocks / steps[..., None]), -127, 127) + 128
    fours = whole.astype(np.uint8).reshape(-1, LANES, inputs // BLOCK, BLOCK // 4, 4)
    return (
        np.ascontiguousarray(fours.transpose(0, 2, 3, 1, 4)),
        np.ascontiguousarray(scales.transpose(0, 2, 1)),
    )
