"""A decoder as the kernels see it: sizes and addresses. kernels.c declares the same."""

from ctypes import Structure, addressof, c_float, c_int64, c_void_p

import numpy as np
from numpy.typing import NDArray

from inference.engine.native.memory import Cache, Weights
from inference.engine.native.weights import BLOCK, Shape

SPAN = 64
"""Positions whose keys are read at once; a place has room for a multiple of them."""


class Linear(Structure):
    _fields_ = (
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("inputs", c_int64),
        ("tiles", c_int64),
    )


class Layer(Structure):
    _fields_ = (
        ("before", c_void_p),
        ("after", c_void_p),
        ("qkv", Linear),
        ("out", Linear),
        ("gate_up", Linear),
        ("down", Linear),
    )


class Model(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "hidden", "heads", "groups", "head_size")),
        *((name, c_int64) for name in ("neurons", "vocabulary", "context", "places")),
        ("epsilon", c_float),
        *((name, c_void_p) for name in ("embedding", "norm", "cosines", "sines")),
        ("head", Linear),
        ("layer", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
    )


class Decoder:
    """Holds a Model and everything it points to."""

    def __init__(
        self, shape: Shape, weights: Weights, *, theta: float, places: int, context: int
    ) -> None:
        context = -(-context // SPAN) * SPAN
        self.cache = Cache(shape, places=places, context=context)
        self._weights = weights
        self._angles = rotation(theta, shape.head_size, context)
        self._layers = (Layer * shape.layers)(*(self._layer(n) for n in range(shape.layers)))
        self.model = Model(
            **{name: getattr(shape, name) for name in Shape.__slots__},
            context=context,
            places=places,
            embedding=self._at("embedding"),
            norm=self._at("norm"),
            cosines=self._angles[0].ctypes.data,
            sines=self._angles[1].ctypes.data,
            head=self._linear("head"),
            layer=addressof(self._layers),
            keys=self.cache.keys,
            values=self.cache.values,
        )

    def _layer(self, number: int) -> Layer:
        linears = ("qkv", "out", "gate_up", "down")
        return Layer(
            before=self._at(f"{number}.before"),
            after=self._at(f"{number}.after"),
            **{name: self._linear(f"{number}.{name}") for name in linears},
        )

    def _linear(self, name: str) -> Linear:
        tiles, blocks = self._weights[f"{name}.weights"].shape[:2]
        return Linear(
            self._at(f"{name}.weights"), self._at(f"{name}.scales"), blocks * BLOCK, tiles
        )

    def _at(self, name: str) -> int:
        return self._weights[name].ctypes.data


def rotation(theta: float, size: int, context: int) -> NDArray[np.float32]:
    """[2, context, size / 2]: cosines and sines of rotary positions (Su et al. 2021)."""
    speeds = theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    angles = np.arange(context, dtype=np.float64)[:, None] * speeds
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
