"""Matrix products in the precision that suits the device.

`Int8Linear` quantizes weights per output channel and activations per row (token or frame). A row's result therefore
never depends on the other rows in the batch, and integer sums are exact: the same row gives the same bits in any batch.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_MAX_INT8 = 127.0
_BLOCK_ROWS = 8


class Linear(Protocol):
    """y = x W^T + b over the last dimension: [rows, in] -> [rows, out]."""

    def __call__(self, x: Tensor) -> Tensor: ...


class FloatLinear:
    """Weights and activations in one float type."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, device: torch.device) -> None:
        self._weight = weight.to(device, dtype)
        self._bias = None if bias is None else bias.to(device, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


class Int8Linear:
    """Eight-bit weights and activations with exact 32-bit sums; the rest in float32. CPU only."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / _MAX_INT8
        self._weight = (weight / scale[:, None]).round().to(torch.int8)
        self._scale = scale
        self._bias = torch.zeros_like(scale) if bias is None else bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        peak = x.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
        quantized = (x * (_MAX_INT8 / peak)).round_().to(torch.int8)
        rows = len(x)
        if rows > 1:  # whole blocks are faster, and the library keeps compiled code for each number of rows it meets
            quantized = F.pad(quantized, (0, 0, 0, -rows % _BLOCK_ROWS))
        sums = torch._int_mm(quantized, self._weight.t())[:rows]
        return torch.addcmul(self._bias, sums * (peak / _MAX_INT8), self._scale)


def int8_is_fast() -> bool:
    """Whether this CPU multiplies int8 exactly and quickly (AVX-512 VNNI); without it float32 is the better choice."""
    if not torch.cpu._is_vnni_supported():
        return False
    a = torch.full((3, 384), -127, dtype=torch.int8)
    return bool((torch._int_mm(a, a.t()) == 384 * 127 * 127).all())
