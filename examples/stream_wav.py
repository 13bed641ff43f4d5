"""Streams a WAV file to the server as if it were spoken now, and prints words as they come.

.venv/bin/python examples/stream_wav.py FILE.wav [tcp://127.0.0.1:10300]
"""

import asyncio
import os
import sys
import wave

from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient


async def speak(client: AsyncClient, path: str) -> None:
    with wave.open(path, "rb") as file:
        form = {"rate": file.getframerate(), "width": file.getsampwidth(), "channels": file.getnchannels()}
        await client.write_event(Transcribe().event())
        await client.write_event(AudioStart(**form).event())
        while audio := file.readframes(file.getframerate() // 10):
            await client.write_event(AudioChunk(**form, audio=audio).event())
            await asyncio.sleep(0.1)
        await client.write_event(AudioStop().event())


async def main(path: str, uri: str = "tcp://127.0.0.1:10300") -> None:
    async with AsyncClient.from_uri(uri) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(speak(client, path))
        while (event := await client.read_event()) is not None:
            if TranscriptChunk.is_type(event.type):
                print(TranscriptChunk.from_event(event).text, end="", flush=True)
            elif Transcript.is_type(event.type):
                print(f"\n= {Transcript.from_event(event).text}")
                break
            elif event.type == "error":
                sys.exit(f"\n{event.data['text']}")


if len(sys.argv) < 2 or not os.path.isfile(sys.argv[1]):
    sys.exit(__doc__)
asyncio.run(main(*sys.argv[1:]))
