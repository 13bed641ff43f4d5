"""Home Assistant's own Wyoming integration as a program: describes servers and speaks clips to them when told to.

Runs in the environment that script/setup-home-assistant makes and knows nothing of our server. One JSON object per
line. Both questions carry an `id`, which comes back in the answer; questions are answered side by side.

{"do": "describe", "port": 10300, "times": 5}
    -> {"name", "platforms", "languages", "seconds": [for each time]}; "name" null where no answer came
{"do": "speak", "port": 10300, "language": "en", "pcm": base64 of 16 kHz s16le, "pace": 1.0, "silence": 0.7,
 "limit": 60.0}
    -> {"state": success, error or hangs, "text", "seconds": from the end of the audio to the result, "spoken": seconds
    of audio that were taken}; `pace` 1 is real time, 0 as fast as it goes; after so much `silence` the command has
    ended, null lets it end with the audio; `limit` counts from the end of the audio
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from homeassistant.components import stt
from homeassistant.components.assist_pipeline.vad import VoiceCommandSegmenter
from homeassistant.components.wyoming.data import WyomingService, load_wyoming_info
from homeassistant.components.wyoming.stt import WyomingSttProvider
from webrtc_noise_gain import AudioProcessor

HOST = "127.0.0.1"
BYTES_PER_SECOND = 32000
PACKET_BYTES = 2048  # what satellites send
PIECE_BYTES = 320  # what Home Assistant makes of it: 10 ms
PIECE_SECONDS = 0.01


class Microphone:
    """A satellite's audio as Home Assistant's pipeline hands it to a provider."""

    def __init__(self, pcm: bytes, pace: float, silence: float | None) -> None:
        self._pcm, self._pace = pcm, pace
        self._processor = AudioProcessor(0, 0)
        self._command = None if silence is None else VoiceCommandSegmenter(silence_seconds=silence)
        self.taken = 0
        """Bytes that the provider has asked for."""
        self.ended: float | None = None
        """When the provider asked for more and there was nothing more."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        began, arrived = time.monotonic(), 0
        for start in range(0, len(self._pcm), PIECE_BYTES):
            piece = self._pcm[start : start + PIECE_BYTES]
            while arrived < start + len(piece):
                arrived += PACKET_BYTES
                due = began + self._pace * min(arrived, len(self._pcm)) / BYTES_PER_SECOND
                await asyncio.sleep(max(0.0, due - time.monotonic()))  # 0 lets the other satellites speak
            if self._command is not None and self._is_over(piece):
                break
            self.taken += len(piece)
            yield piece
        self.ended = time.monotonic()

    def _is_over(self, piece: bytes) -> bool:
        assert self._command is not None
        if len(piece) < PIECE_BYTES:
            return True
        return not self._command.process(PIECE_SECONDS, self._processor.Process10ms(piece).is_speech)


class Entities:
    """The speech-to-text entity of each server, set up once and kept, also while the server is away."""

    def __init__(self) -> None:
        self._services: dict[int, WyomingService] = {}

    async def service(self, port: int) -> WyomingService | None:
        if port not in self._services:
            if (service := await WyomingService.create(HOST, port)) is None:
                return None
            self._services[port] = service
        return self._services[port]


async def describe(entities: Entities, question: dict[str, Any]) -> dict[str, Any]:
    service = await entities.service(question["port"])
    if service is None:
        return {"name": None}
    seconds = []
    for _ in range(question["times"]):
        began = time.monotonic()
        if await load_wyoming_info(HOST, question["port"]) is None:
            return {"name": None}
        seconds.append(time.monotonic() - began)
    languages = sorted(provider(service).supported_languages)
    return {"name": service.get_name(), "platforms": service.platforms, "languages": languages, "seconds": seconds}


def provider(service: WyomingService) -> WyomingSttProvider:
    return WyomingSttProvider(SimpleNamespace(entry_id="probe"), service)


async def speak(entities: Entities, question: dict[str, Any]) -> dict[str, Any]:
    service = await entities.service(question["port"])
    assert service is not None
    metadata = stt.SpeechMetadata(
        language=question["language"],
        format=stt.AudioFormats.WAV,
        codec=stt.AudioCodecs.PCM,
        bit_rate=stt.AudioBitRates.BITRATE_16,
        sample_rate=stt.AudioSampleRates.SAMPLERATE_16000,
        channel=stt.AudioChannels.CHANNEL_MONO,
    )
    pcm, pace = base64.b64decode(question["pcm"]), question["pace"]
    microphone = Microphone(pcm, pace, question["silence"])
    limit = pace * len(pcm) / BYTES_PER_SECOND + question["limit"]
    began = time.monotonic()
    try:
        async with asyncio.timeout(limit):
            result = await provider(service).async_process_audio_stream(metadata, microphone)
        state, text = str(result.result.value), result.text
    except TimeoutError:
        state, text = "hangs", None
    ended = microphone.ended or began
    spoken = microphone.taken / BYTES_PER_SECOND
    return {"state": state, "text": text, "seconds": time.monotonic() - ended, "spoken": spoken}


QUESTIONS = {"describe": describe, "speak": speak}


async def answer(entities: Entities, question: dict[str, Any]) -> None:
    result = await QUESTIONS[question["do"]](entities, question)
    print(json.dumps({"id": question["id"]} | result), flush=True)


async def main() -> None:
    logging.disable(logging.ERROR)  # the provider logs what it survives with a traceback
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    entities = Entities()
    async with asyncio.TaskGroup() as answering:
        while line := await reader.readline():
            answering.create_task(answer(entities, json.loads(line)))


if __name__ == "__main__":
    asyncio.run(main())
