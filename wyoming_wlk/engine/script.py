"""Parts of the model that run as TorchScript: without Python, and so without its lock, between their operations.

Encoder and decoder work on threads of their own, and each of torch's operations gives Python's lock back and then waits
for it again. With two threads of many small operations that was a quarter of two cores.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

_Part = TypeVar("_Part", bound="nn.Module | Callable[..., object]")

_SUPPORTED = sys.version_info < (3, 14)
"""Later Pythons have no TorchScript; what is written here runs in Python as well, and computes the same."""


def scripted(part: _Part) -> _Part:
    """A function, or a module and all that it consists of, as TorchScript; itself where there is none.

    TorchScript knows no global constants: what it needs of them are attributes, or arguments.
    """
    if not _SUPPORTED:
        return part
    with warnings.catch_warnings():
        # torch.compile, which shall replace it, needs a C++ compiler where it runs, and compiles for each shape.
        warnings.simplefilter("ignore", DeprecationWarning)
        script: _Part = torch.jit.script(part)
    return script
