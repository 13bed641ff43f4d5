"""What encoder and decoder are made of: number types, weights handed out in them, norms and feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyoming_wlk.engine.linear import FloatLinear, Int8Linear, int8_is_fast
from wyoming_wlk.engine.script import scripted
from wyoming_wlk.errors import ModelError


@dataclass(frozen=True)
class Precision:
    """Number types: `linear` of the matrix products (int8 or a float type), `state` of activations and caches,
    `attention` of the encoder's attention products."""

    linear: torch.dtype
    state: torch.dtype
    attention: torch.dtype

    @classmethod
    def choose(cls, compute_type: str, device: torch.device) -> Precision:
        """`compute_type` as the user wrote it: auto, int8, float32, float16 or bfloat16.

        Raises `ModelError` for int8 where the CPU has no fast and exact products of it.
        """
        if compute_type == "auto":
            fast = "int8" if int8_is_fast() else "float32"
            compute_type = fast if device.type == "cpu" else "float16"
        elif compute_type == "int8" and not int8_is_fast():
            raise ModelError("int8 needs a CPU with AVX-512 VNNI; leave --compute-type at auto, or choose float32")
        if compute_type == "int8":
            attention = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
            return cls(torch.int8, torch.float32, attention)
        dtype: torch.dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[
            compute_type
        ]
        return cls(dtype, dtype, dtype)


class Weights:
    """Hands the checkpoint's tensors out in the wanted precision."""

    def __init__(self, tensors: dict[str, Tensor], precision: Precision, device: torch.device) -> None:
        self._tensors, self._precision, self.device = tensors, precision, device

    def state(self, name: str) -> Tensor:
        return self._tensors[name].to(self.device, self._precision.state)

    def linear(self, *names: str) -> nn.Module:
        """One product for all of `names`, their outputs side by side; a missing bias (the keys') is zero."""
        weights = [self._tensors[f"{name}.weight"] for name in names]
        biases = [
            self._tensors.get(f"{name}.bias", torch.zeros(len(weight), dtype=weight.dtype))
            for name, weight in zip(names, weights, strict=True)
        ]
        return self.product(torch.cat(weights), torch.cat(biases))

    def product(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        if self._precision.linear == torch.int8:
            return Int8Linear(weight, bias)
        return FloatLinear(weight, bias, self._precision.linear, self.device)

    def ready(self, module: nn.Module) -> Callable[..., Any]:
        """A part of the model as it runs best: on a CPU that is without Python."""
        return scripted(module) if self.device.type == "cpu" else module

    def raw(self, name: str) -> Tensor:
        return self._tensors[name]


class Norm(nn.Module):
    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self._weight, self._bias = weights.state(f"{name}.weight"), weights.state(f"{name}.bias")

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._weight, self._bias)


class Projection(nn.Module):
    """What attention begins with: a norm, and one product for each of `names`, in heads."""

    def __init__(self, weights: Weights, norm: str, *names: str, heads: int) -> None:
        super().__init__()
        self._norm, self._linear = Norm(weights, norm), weights.linear(*names)
        self._names, self._heads = len(names), heads

    def forward(self, x: Tensor) -> Tensor:
        """[rows, state] -> [rows, names, heads, head size]"""
        y: Tensor = self._linear(self._norm(x))
        return y.view(len(x), self._names, self._heads, -1)


class Output(nn.Module):
    """What attention ends with: a product, added to where it began."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self._linear = weights.linear(name)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """x [rows, state]; attended [rows, heads, head size] -> [rows, state]"""
        y: Tensor = self._linear(attended.reshape(x.shape).to(x.dtype))
        return x + y


class Mlp(nn.Module):
    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self._norm = Norm(weights, f"{name}.mlp_ln")
        self._up, self._down = weights.linear(f"{name}.mlp.0"), weights.linear(f"{name}.mlp.2")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._down(F.gelu(self._up(self._norm(x))))
        return x + y
