"""Draws tokens from rows of scores, by drawing.c."""

from collections.abc import Callable, Sequence
from ctypes import Structure, c_double, c_float, c_int, c_int64, c_void_p
from functools import cache

import numpy as np
from numpy.typing import NDArray

from inference.engine.native.library import load_library


class Some(Structure):
    """Some tokens' numbers: the addresses of `count` tokens (int64) and values (float32)."""

    _fields_ = (("tokens", c_void_p), ("values", c_void_p), ("count", c_int64))


class Choice(Structure):
    """How one row's token is drawn; drawing.c declares the same.

    `scores` is the address of the row, of which `set` are other ones, to which `added` are added,
    and of which only `allowed` (the address of a bool for each) count. With `temperature` 0 the
    likeliest is taken, else `u` in [0, 1) decides among the tokens at least `min_p` as likely as
    the likeliest, of these the `top_k` likeliest (0: all), of these the fewest that hold `top_p` of
    the weight (Holtzman et al. 2020).
    """

    _fields_ = (
        ("scores", c_void_p),
        ("set", Some),
        ("added", Some),
        ("allowed", c_void_p),
        ("top_p", c_double),
        ("u", c_double),
        ("top_k", c_int64),
        ("temperature", c_float),
        ("min_p", c_float),
    )


def draw_tokens(choices: Sequence[Choice], vocabulary: int) -> NDArray[np.int32]:
    """A token for each choice, whose scores are `vocabulary` numbers; -1 where none is allowed, or
    one of them is no number.

    Among equally likely tokens the lower one comes first.
    """
    tokens = np.empty(len(choices), np.int32)
    given = (Choice * len(choices))(*choices)
    if not _function()(len(choices), given, vocabulary, tokens.ctypes.data):
        raise MemoryError("no memory to draw tokens")
    return tokens


@cache
def _function() -> Callable[..., int]:
    function = load_library().draw_tokens
    function.argtypes = c_int, c_void_p, c_int, c_void_p
    return function
