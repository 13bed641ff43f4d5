"""Writes ONNX files: nodes and constants into a graph, the graph into protocol buffers.

Only what our exports need of the format (https://onnx.ai/onnx/intro/concepts.html): float and int64 constants, and
attributes that are numbers or lists of numbers. Knows nothing about the networks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

Attribute = int | float | str | Sequence[int]

_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_IR_VERSION = 8
OPSET = 17


class Graph:
    """A graph under construction. Every method that adds something returns the name of what it makes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._count = 0

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """A float input; a dimension that varies is given as a name."""
        self._inputs.append(_value(name, shape))
        return name

    def output(self, name: str, value: str, shape: Sequence[int | str]) -> None:
        """Declares a value as a float output of the network, under `name`."""
        self._nodes.append(_node("Identity", [value], [name], {}))
        self._outputs.append(_value(name, shape))

    def constant(self, value: np.ndarray | Sequence[int] | float) -> str:
        """Weights (kept as float32) or whole numbers (int64)."""
        array = np.asarray(value)
        array = array.astype("<i8" if array.dtype.kind == "i" else "<f4")
        name = self._fresh("constant")
        dims = b"".join(_varint(1, size) for size in array.shape)
        data_type = _INT64 if array.dtype.kind == "i" else _FLOAT
        self._constants.append(dims + _varint(2, data_type) + _text(8, name) + _bytes(9, array.tobytes()))
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, attributes: dict[str, Attribute] | None = None) -> str:
        """Adds a node and returns its first output; an empty name leaves an optional input away."""
        names = [self._fresh(operator) for _ in range(outputs)]
        self._nodes.append(_node(operator, inputs, names, attributes or {}))
        return names[0]

    def to_bytes(self) -> bytes:
        """The finished model file."""
        graph = b"".join(_bytes(1, node) for node in self._nodes) + _text(2, self._name)
        graph += b"".join(_bytes(5, constant) for constant in self._constants)
        graph += b"".join(_bytes(11, value) for value in self._inputs)
        graph += b"".join(_bytes(12, value) for value in self._outputs)
        opset = _text(1, "") + _varint(2, OPSET)
        return _varint(1, _IR_VERSION) + _text(2, "wyoming-wlk") + _bytes(7, graph) + _bytes(8, opset)

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind.lower()}_{self._count}"


# --- protocol buffers -------------------------------------------------------------------------------------------------


def _node(operator: str, inputs: Sequence[str], outputs: Sequence[str], attributes: dict[str, Attribute]) -> bytes:
    named = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, name) for name in outputs)
    return named + _text(4, operator) + b"".join(_bytes(5, _attribute(*item)) for item in attributes.items())


def _attribute(name: str, value: Attribute) -> bytes:
    """AttributeProto: the value's field, and its kind (field 20)."""
    if isinstance(value, float):
        return _text(1, name) + struct.pack("<Bf", 2 << 3 | 5, value) + _varint(20, 1)
    if isinstance(value, int):
        return _text(1, name) + _varint(3, value) + _varint(20, 2)
    if isinstance(value, str):
        return _text(1, name) + _text(4, value) + _varint(20, 3)
    return _text(1, name) + b"".join(_varint(8, item) for item in value) + _varint(20, 7)


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    """ValueInfoProto of a float tensor."""
    dims = [_text(2, size) if isinstance(size, str) else _varint(1, size) for size in shape]
    tensor = _varint(1, _FLOAT) + _bytes(2, b"".join(_bytes(1, dim) for dim in dims))
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value & (1 << 64) - 1)


def _bytes(field: int, value: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _number(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(parts) + bytes([value])
