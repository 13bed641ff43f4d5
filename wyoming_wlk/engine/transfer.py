"""Copies between host and device that nobody waits for.

Memory that the system may not move (pinned) and streams beside the main one are CUDA's and ROCm's; elsewhere a copy
is a copy.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)


def upload(values: Sequence[int] | Sequence[float], device: torch.device) -> Tensor:
    """A tensor of them on the device."""
    return to_device(torch.tensor(values), device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on the device. The host does not wait for what the device has still to do."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: Tensor) -> Tensor:
    """A copy that may be read once anything computed later has been read; the tensor itself on the CPU."""
    return tensor.to("cpu", non_blocking=tensor.is_cuda)


class Parking(Protocol):
    """Moves parts of a cache to host memory and back, bit for bit."""

    def away(self, tensor: Tensor) -> Tensor:
        """A copy in host memory, which only `back` may read. The original may be overwritten at once."""
        ...

    def back(self, parked: Tensor, target: Tensor) -> None:
        """Begins to copy into `target`, which holds it after `settle`."""
        ...

    def settle(self) -> None:
        """Everything that the device is given from now on finds what was brought back."""
        ...


class PlainParking:
    """Copies that are done when they return."""

    def away(self, tensor: Tensor) -> Tensor:
        return tensor.to("cpu", copy=True)

    def back(self, parked: Tensor, target: Tensor) -> None:
        target.copy_(parked)

    def settle(self) -> None:
        pass


class PinnedParking:
    """Copies on a stream of their own, through pinned memory, while the device computes.

    The main stream only copies between a slot and a staging buffer on the device, which takes microseconds.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._arriving: list[tuple[Tensor, Tensor]] = []

    def away(self, tensor: Tensor) -> Tensor:
        staged = tensor.clone(memory_format=torch.contiguous_format)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            parked = staged.to("cpu", non_blocking=True)  # into pinned memory
        staged.record_stream(self._stream)
        return parked

    def back(self, parked: Tensor, target: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            self._arriving.append((parked.to(self._device, non_blocking=True), target))

    def settle(self) -> None:
        if not self._arriving:
            return
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for staged, target in self._arriving:
            target.copy_(staged)
            staged.record_stream(current)
        self._arriving.clear()


def parking_for(device: torch.device) -> Parking:
    """The fastest way that does what it should on this device."""
    if device.type != "cuda":
        return PlainParking()
    try:
        pinned = PinnedParking(device)
        if parks_exactly(pinned, device):
            return pinned
        _LOG.warning("parking through pinned memory changes what is parked; plain copies are used")
    except Exception:
        _LOG.warning("parking through pinned memory fails; plain copies are used", exc_info=True)
    return PlainParking()


def parks_exactly(parking: Parking, device: torch.device) -> bool:
    """Whether some rows come back as they were, though their place was used in between."""
    rows = torch.randn(4, 3, 1000, 64, device=device)
    before = rows.clone()
    parked = [parking.away(rows[:, :, : 200 * (n + 1)]) for n in range(4)]
    rows.zero_()
    parking.back(parked[3], rows[:, :, :800])
    parking.settle()
    return torch.equal(rows[:, :, :800], before[:, :, :800]) and not rows[:, :, 800:].any()
