"""Parts of the model that run as TorchScript: without Python, and so without its lock, between their operations.

Encoder and decoder work on threads of their own, and each of torch's operations gives Python's lock back and then waits
for it again: with many small operations on two cores that costs a quarter of both.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_SUPPORTED = sys.version_info < (3, 14)
"""Later Pythons have no TorchScript. What is written for it is Python as well, and computes the same."""


def scripted(module: nn.Module) -> Callable[..., Any]:
    """A module, with all that it consists of, as TorchScript; itself where there is none.

    TorchScript knows no global constants: what it needs of them are attributes, or defaults of arguments.
    """
    if not _SUPPORTED:
        return module
    with warnings.catch_warnings():
        # torch.compile, which shall replace it, needs a C++ compiler where it runs, and compiles for each shape.
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(module)

    def run(*inputs: object) -> Any:
        # Optimizing makes nothing faster here, but takes 50 MB and some slow calls at the beginning.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return script(*inputs)

    return run
