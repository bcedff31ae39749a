"""Linear layers whose weights are kept in fewer bits; what they compute with is not quantized."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

_GROUP = 32

Tensor = torch.Tensor


def quantize(model: Any, quantization: str) -> None:
    """Replace the linear layers of `model` in place: int8, or int4 with the output layer int8.

    It saves memory, and time only where torch has a kernel for it (int8 on a GPU). A layer whose
    width is no multiple of the group stays int8.
    """
    head = model.get_output_embeddings()
    for module in [*model.modules()]:
        for name, layer in [*module.named_children()]:
            if isinstance(layer, nn.Linear):
                four = quantization == "int4" and layer is not head
                fits = layer.in_features % _GROUP == 0
                setattr(module, name, Int4Linear(layer) if four and fits else Int8Linear(layer))


class Int8Linear(nn.Module):
    """Weights of 8 bits [outputs, inputs], one scale for each output."""

    whole: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        scales = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
        self.register_buffer("whole", torch.round(weight / scales[:, None]).to(torch.int8))
        self.register_buffer("scales", scales)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear's."""
        if _has_kernel(x.device):
            rows = x.reshape(-1, x.shape[-1])
            out = torch._weight_int8pack_mm(rows, self.whole, self.scales)
            out = out.reshape(*x.shape[:-1], -1)
        else:
            out = linear(x, self.whole.to(x.dtype)) * self.scales
        return out if self.bias is None else out + self.bias


class Int4Linear(nn.Module):
    """Weights of 4 bits, two a byte, one scale for each output and 32 inputs."""

    packed: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        groups = weight.reshape(weight.shape[0], -1, _GROUP)
        scales = groups.abs().amax(dim=2, keepdim=True).clamp(min=1e-8) / 7
        whole = (torch.round(groups / scales) + 8).to(torch.uint8).reshape(weight.shape)
        self.register_buffer("packed", whole[:, ::2] | whole[:, 1::2] << 4)
        self.register_buffer("scales", scales)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear's."""
        whole = torch.stack([self.packed & 15, self.packed >> 4], dim=-1).to(x.dtype) - 8
        weight = whole.reshape(len(whole), -1, _GROUP) * self.scales
        return linear(x, weight.reshape(len(whole), -1), self.bias)


_kernels: dict[str, bool] = {}


def _has_kernel(device: torch.device) -> bool:
    """Whether torch multiplies by 8-bit weights there; on the CPU its kernel is the slower way."""
    if device.type not in _kernels:
        _kernels[device.type] = device.type != "cpu" and _multiplies(device)
    return _kernels[device.type]


def _multiplies(device: torch.device) -> bool:
    rows = torch.ones((1, 64), dtype=torch.bfloat16, device=device)
    whole = torch.ones((64, 64), dtype=torch.int8, device=device)
    try:
        out = torch._weight_int8pack_mm(rows, whole, rows[0])
    except (RuntimeError, NotImplementedError):
        return False
    return bool((out == 64).all())
