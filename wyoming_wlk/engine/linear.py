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
_SMALL_BYTES = 2**20


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
        self._few_rows = 2 if self._weight.nbytes <= _SMALL_BYTES else 5

    def __call__(self, x: Tensor) -> Tensor:
        peak = x.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
        quantized = (x * (_MAX_INT8 / peak)).round_().to(torch.int8)
        return torch.addcmul(self._bias, self._sums(quantized) * (peak / _MAX_INT8), self._scale)

    def _sums(self, x: Tensor) -> Tensor:
        """x W^T in exact integers."""
        rows, weight = len(x), self._weight.t()
        if (
            rows <= self._few_rows
        ):  # a product of several rows first reorders the weights, which costs that of many rows
            return torch.cat([torch._int_mm(row, weight) for row in torch.split(x, 1)])
        # Whole blocks are faster, and the library keeps compiled code for each number of rows it meets.
        return torch._int_mm(F.pad(x, (0, 0, 0, -rows % _BLOCK_ROWS)), weight)[:rows]


def int8_is_fast() -> bool:
    """Whether this CPU multiplies int8 exactly and quickly (AVX-512 VNNI); without it float32 is the better choice."""
    if not torch.cpu._is_vnni_supported():
        return False
    a = torch.full((3, 384), -127, dtype=torch.int8)
    return all(bool((torch._int_mm(rows, a.t()) == 384 * 127 * 127).all()) for rows in (a, a[:1]))
