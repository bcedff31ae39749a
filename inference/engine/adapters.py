"""LoRA adapters (Hu et al. 2021) of one base model, each row of a call by its own.

A layer's adapters lie side by side: one product with all their A, the columns of other adapters
than the row's own made nothing, one product with all their B. So a call costs the same whichever
rows wear which, its shapes are fixed, and no row's numbers depend on its neighbours.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import linear

from inference.engine.manifest import NotPrepared

_PREFIX = "base_model.model."
_PLAIN: Mapping[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
}
"""What is understood; an adapter that says otherwise is refused."""

Tensor = torch.Tensor
log = logging.getLogger(__name__)


class Adapters:
    """Adapters by name, in the order of `names`; `which` says who wears what in the next call."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._number = {name: number for number, name in enumerate(folders)}
        self._folders = folders
        self.which = torch.empty(0, dtype=torch.int64)

    @property
    def names(self) -> frozenset[str]:
        """Those there are."""
        return frozenset(self._number)

    def number(self, name: str) -> int:
        """Of the adapter `name`; -1 for none, "". Raises KeyError."""
        return self._number[name] if name else -1

    def fit(self, model: nn.Module) -> None:
        """Put them around the layers of `model` that they change; leave out what does not fit."""
        kind = next(model.parameters()).dtype
        found: dict[str, list[tuple[int, Tensor, Tensor]]] = defaultdict(list)
        for name, folder in self._folders.items():
            try:
                adapter = read_adapter(folder)
                _check(adapter, model, folder)
            except NotPrepared as error:
                log.error("the adapter %s is left out: %s", name, error)
                del self._number[name]
                continue
            for path, (down, up) in adapter.items():
                found[path].append((self._number[name], down.to(kind), up.to(kind)))
        for path, parts in found.items():
            parent, _, leaf = path.rpartition(".")
            wrapped = _Adapted(model.get_submodule(path), parts, self)
            setattr(model.get_submodule(parent), leaf, wrapped)


class _Adapted(nn.Module):
    """A linear layer, and what each adapter adds to it."""

    down: Tensor
    up: Tensor
    owner: Tensor

    def __init__(
        self, layer: nn.Module, parts: Sequence[tuple[int, Tensor, Tensor]], adapters: Adapters
    ) -> None:
        super().__init__()
        self._layer = layer
        self._adapters = [adapters]  # in a list, so that torch does not look into it
        owners = [torch.full((len(down),), number) for number, down, _ in parts]
        self.register_buffer("down", torch.cat([down for _, down, _ in parts]))
        self.register_buffer("up", torch.cat([up for *_, up in parts], dim=1))
        self.register_buffer("owner", torch.cat(owners))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, inputs] → [rows, tokens, outputs]."""
        mine = (self._adapters[0].which[:, None] == self.owner)[:, None]
        low = linear(x, self.down)
        out: Tensor = self._layer(x) + linear(low.where(mine, 0), self.up)
        return out


def read_adapter(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A folder as peft writes it: (A, B with its scale) by layer. Raises NotPrepared."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise NotPrepared(
            f"{folder} holds no adapter as peft saves it (adapter_config.json and "
            f"adapter_model.safetensors): {error}"
        ) from error
    for field, plain in _PLAIN.items():
        if config.get(field, plain) not in (plain, plain or None):
            raise NotPrepared(f"{folder}: {field} {config[field]!r} of an adapter is not supported")
    found = {}
    for name in [name for name in weights if name.endswith(".lora_A.weight")]:
        path = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        down = weights.pop(name)
        up = weights.pop(name.replace(".lora_A.", ".lora_B."))
        found[path] = down, up * _scale(config, rank=len(down))
    if weights or not found:
        left = next(iter(weights), "nothing")
        raise NotPrepared(
            f"{folder}: {left} in an adapter is not supported, only lora_A and lora_B"
        )
    return found


def _check(adapter: Mapping[str, tuple[Tensor, Tensor]], model: nn.Module, folder: Path) -> None:
    """Raise NotPrepared for an adapter of another model."""
    for path, (down, up) in adapter.items():
        try:
            layer: Any = model.get_submodule(path)
            fits = (layer.in_features, layer.out_features) == (down.shape[1], up.shape[0])
        except AttributeError:
            fits = False
        if not fits:
            raise NotPrepared(f"{folder} does not fit the model: it has no such layer as {path}")


def _scale(config: Mapping[str, Any], *, rank: int) -> float:
    """alpha / r, or its root for rank-stabilized ones (Kalajdzievski 2023)."""
    below = rank**0.5 if config.get("use_rslora") else rank
    return float(config["lora_alpha"] / below)
