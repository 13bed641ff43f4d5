"""Streams a microphone to the server and prints what is said, a line for each time that somebody has finished.

The server decides when that is: start it with `--endpoint 0.7`.

pip install wyoming
arecord -q -r 16000 -c 1 -f S16_LE -t raw | python examples/stream_microphone.py [tcp://127.0.0.1:10300]
"""

import asyncio
import sys

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient

FORM = {"rate": 16000, "width": 2, "channels": 1}


async def begin(client: AsyncClient) -> None:
    await client.write_event(Transcribe().event())
    await client.write_event(AudioStart(**FORM).event())


async def speak(client: AsyncClient, ended: asyncio.Event) -> None:
    await begin(client)
    while audio := await asyncio.to_thread(sys.stdin.buffer.read, 3200):
        if ended.is_set():  # what comes now belongs to the next one
            ended.clear()
            await client.write_event(AudioStop().event())
            await begin(client)
        await client.write_event(AudioChunk(**FORM, audio=audio).event())
    await client.write_event(AudioStop().event())


async def main(uri: str = "tcp://127.0.0.1:10300") -> None:
    ended = asyncio.Event()
    async with AsyncClient.from_uri(uri) as client:
        speaking = asyncio.create_task(speak(client, ended))
        while (event := await client.read_event()) is not None:
            if event.type == "error":
                sys.exit(event.data["text"])
            if Transcript.is_type(event.type):
                if text := Transcript.from_event(event).text:
                    print(text, flush=True)
                if speaking.done():
                    break
                ended.set()


asyncio.run(main(*sys.argv[1:]))
