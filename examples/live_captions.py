"""Streams a WAV file (16 bit, mono) to the server as if it were spoken now, and prints words as they come.

pip install websockets && python examples/live_captions.py FILE.wav [ws://127.0.0.1:10380]
"""

import asyncio
import json
import sys
import wave

from websockets.asyncio.client import ClientConnection, connect


async def speak(socket: ClientConnection, file: wave.Wave_read) -> None:
    while audio := file.readframes(file.getframerate() // 10):
        await socket.send(audio)
        await asyncio.sleep(0.1)
    await socket.send(json.dumps({"type": "stop"}))


async def main(path: str, server: str = "ws://127.0.0.1:10380") -> None:
    with wave.open(path, "rb") as file:
        query = f"client_id=example&format=updates&encoding=s16le&sample_rate={file.getframerate()}"
        async with connect(f"{server}/ws/transcription?{query}") as socket:
            speaking = asyncio.create_task(speak(socket, file))
            async for received in socket:
                message = json.loads(received)
                if message["type"] == "transcript_update":
                    for segment in message["segments"]:
                        print(segment["text"], end="\n" if segment["ended"] else "", flush=True)
                elif message["type"] == "error":
                    sys.exit(message["error"])
            await speaking


asyncio.run(main(*sys.argv[1:]))
