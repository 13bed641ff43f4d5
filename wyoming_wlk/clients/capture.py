"""Where `wyoming-wlk listen` gets its sound: a microphone, or what the machine plays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from wyoming_wlk.errors import WlkError

_BLOCKS_PER_SECOND = 10
_SYSTEM_RATE = 16000
_PAREC = (
    "parec",
    "--device=@DEFAULT_MONITOR@",
    "--format=s16le",
    f"--rate={_SYSTEM_RATE}",
    "--channels=1",
    "--latency-msec=100",
    "--client-name=wyoming-wlk",
)


class CaptureError(WlkError):
    """Sound that cannot be recorded here."""

    code = "capture"


class Source(Protocol):
    """Something to listen to; `rate` in Hz."""

    name: str
    rate: int

    def chunks(self) -> AsyncIterator[bytes]:
        """Mono s16le as it is recorded, until the source ends. Raises `CaptureError`."""
        ...


class Microphone:
    """The default input, at its own rate: the server converts."""

    name = "mic"

    def __init__(self) -> None:
        """Raises `CaptureError` where there is no microphone, or no library to reach it by."""
        try:
            import sounddevice
        except ImportError as err:
            raise CaptureError("the microphone needs a library: pip install 'wyoming-wlk[listen]'") from err
        except OSError as err:
            raise CaptureError("the microphone needs PortAudio (Debian: apt-get install libportaudio2)") from err
        self._library: Any = sounddevice
        try:
            self.rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
        except (sounddevice.PortAudioError, ValueError) as err:
            raise CaptureError(f"there is no microphone: {err}") from err

    async def chunks(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        blocks: asyncio.Queue[bytes] = asyncio.Queue()

        def arrived(data: Any, frames: int, time: Any, status: Any) -> None:
            loop.call_soon_threadsafe(blocks.put_nowait, bytes(data))

        size = self.rate // _BLOCKS_PER_SECOND
        try:
            with self._library.RawInputStream(self.rate, size, channels=1, dtype="int16", callback=arrived):
                while True:
                    yield await blocks.get()
        except self._library.PortAudioError as err:
            raise CaptureError(f"the microphone cannot be opened: {err}") from err


class SystemSound:
    """What the machine plays: the monitor of the default output, which PulseAudio and PipeWire offer."""

    name = "system"
    rate = _SYSTEM_RATE

    async def chunks(self) -> AsyncIterator[bytes]:
        pipe = asyncio.subprocess.PIPE
        try:
            program = await asyncio.create_subprocess_exec(*_PAREC, stdout=pipe, stderr=pipe)
        except FileNotFoundError as err:
            raise CaptureError(
                "the machine's own sound needs `parec` and PulseAudio or PipeWire "
                "(Debian: apt-get install pulseaudio-utils)"
            ) from err
        assert program.stdout is not None and program.stderr is not None
        try:
            while data := await program.stdout.read(_SYSTEM_RATE * 2 // _BLOCKS_PER_SECOND):
                yield data
            reason = (await program.stderr.read()).decode(errors="replace").strip()
            raise CaptureError(f"the machine's own sound cannot be recorded: {reason or 'it has ended'}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            await program.wait()


def sources(kind: str) -> Sequence[Source]:
    """Of `mic`, `system` or `both`. Raises `CaptureError`."""
    found: list[Source] = []
    if kind in ("mic", "both"):
        found.append(Microphone())
    if kind in ("system", "both"):
        found.append(SystemSound())
    return found
