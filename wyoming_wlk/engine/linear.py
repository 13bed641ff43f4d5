"""Matrix products in the precision that suits the device.

`Int8Linear` quantizes weights per output channel and activations per row (token or frame). A row's result therefore
never depends on the other rows in the batch, and integer sums are exact: the same row gives the same bits in any batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MAX_INT8 = 127.0
_MIDDLE = 128
"""Zero of unsigned activations."""

_BLOCK_ROWS = 8


class FloatLinear(nn.Module):
    """y = x W^T + b, [rows, in] -> [rows, out]; weights and activations in one float type."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self._weight = weight.to(device, dtype)
        self._bias = None if bias is None else bias.to(device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


class Int8Linear(nn.Module):
    """The same with eight-bit weights and activations and exact 32-bit sums; the rest in float32. CPU only.

    The product is oneDNN's, as torch's quantizer for x86 uses it: weights are brought into its order once.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.float()
        self._scale = weight.abs().amax(dim=1).clamp(min=1e-12) / _MAX_INT8
        quantized = (weight / self._scale[:, None]).round().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(quantized, None)
        self._zero_points = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = None if bias is None else bias.float()
        self._max, self._middle, self._block = _MAX_INT8, _MIDDLE, _BLOCK_ROWS
        self._middle_and_half = torch.tensor([_MIDDLE + 0.5])
        """What makes cutting off into rounding."""

    def forward(self, x: Tensor) -> Tensor:
        rows = len(x)
        if rows > self._block and rows % self._block:  # the library keeps compiled code for each number it meets
            x = F.pad(x, [0, 0, 0, -rows % self._block])
        peak = x.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12)
        quantized = torch.addcmul(self._middle_and_half, x, self._max / peak).to(torch.uint8)
        y = self._product(quantized)
        bias = self._bias
        y = y.mul_(peak) if bias is None else torch.addcmul(bias, y, peak)
        return y[:rows]

    def _product(self, x: Tensor) -> Tensor:
        """(x - 128) / 127 W^T, with sums in integers."""
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1 / self._max, self._middle, self._weight, self._scale, self._zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return y


def int8_is_fast() -> bool:
    """Whether this CPU multiplies int8 exactly and quickly (AVX-512 VNNI); without it float32 is the better choice."""
    if not torch.cpu._is_vnni_supported():
        return False
    product = Int8Linear(torch.ones(8, 384), None)  # the largest sums: without VNNI they are cut off
    return all(bool((product(torch.ones(rows, 384)) - 384).abs().max() < 0.01) for rows in (1, 3))
