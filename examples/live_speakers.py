"""Streams a WAV file (16 bit, mono) to the server as if it were spoken now, and prints who says what.

With a language (pt, Portuguese ...) the translation of each line follows it.

pip install websockets && python examples/live_speakers.py FILE.wav [ws://127.0.0.1:10380 [LANGUAGE]]
"""

import asyncio
import json
import sys
import wave
from collections import defaultdict
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect


async def speak(socket: ClientConnection, file: wave.Wave_read) -> None:
    while audio := file.readframes(file.getframerate() // 10):
        await socket.send(audio)
        await asyncio.sleep(0.1)
    await socket.send(json.dumps({"type": "stop"}))


async def main(path: str, server: str = "ws://127.0.0.1:10380", language: str = "off") -> None:
    with wave.open(path, "rb") as file:
        query = urlencode(
            {
                "client_id": "example-speakers",
                "format": "updates",
                "encoding": "s16le",
                "sample_rate": file.getframerate(),
                "diarization": "true",
                "target_language": language,
            }
        )
        async with connect(f"{server}/ws/transcription?{query}") as socket:
            speaking = asyncio.create_task(speak(socket, file))
            ended, translations = set(), defaultdict(str)
            async for received in socket:
                message = json.loads(received)
                if message["type"] == "transcript_update":
                    for segment in message["segments"]:  # each is what one person says without a pause
                        translations[segment["id"]] += segment["translation"]
                        if segment["ended"]:
                            ended.add(segment["id"])
                            print(f"Speaker {segment['speaker']}: {segment['final_text']}", flush=True)
                        if segment["id"] in ended and translations[segment["id"]]:
                            print(f"  = {translations.pop(segment['id']).strip()}", flush=True)
                elif message["type"] == "notice":
                    print(message["text"], file=sys.stderr)
                elif message["type"] == "error":
                    sys.exit(message["error"])
            await speaking


asyncio.run(main(*sys.argv[1:]))
