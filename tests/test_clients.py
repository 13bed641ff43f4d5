"""`transcribe` and `listen` as people use them: real recordings, a real server, connections that break."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import AUDIO, Clip
from scripted import ScriptedDiarizer, ScriptedStages
from serving import serving

from wyoming_wlk.catalogue import DIARIZATION, translation_entry
from wyoming_wlk.clients.capture import CaptureError, Microphone, Source, SystemSound
from wyoming_wlk.clients.listen import Tape, listen
from wyoming_wlk.clients.screen import Screen
from wyoming_wlk.config import Config, DecodingConfig, HttpConfig, StagesConfig
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.errors import RequestError
from wyoming_wlk.models import InstalledModel, ModelStore
from wyoming_wlk.vad import SileroVad

LAMP, STORY = AUDIO / "turn_on_the_lamp.flac", AUDIO / "1688-142285-0003.flac"
EXAMPLES = Path(__file__).parent.parent / "examples"
NO_STAGES = StagesConfig()
SPEAKERS_IN_PORTUGUESE = StagesConfig(diarization="online", target_language="pt")
QUIET = bytes(2 * 16000)


async def command(*arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a Python program."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WLK_")}
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, arguments),
        env=clean | environment,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
    )
    out, err = await asyncio.wait_for(program.communicate(), 60)
    assert program.returncode is not None
    return program.returncode, out.decode(), err.decode()


# --- transcribe -------------------------------------------------------------------------------------------------------


async def test_transcribe_in_process(tiny_en: InstalledModel, tmp_path: Path) -> None:
    """Two files become subtitles, the one between them is told of, and the exit code says that one failed."""
    broken = tmp_path / "broken.flac"
    broken.write_bytes(LAMP.read_bytes()[:50])
    model = ["--offline", "--model", "tiny.en", "--data-dir", tiny_en.folder.parent.parent]
    code, out, err = await command(
        "-m",
        "wyoming_wlk",
        "transcribe",
        LAMP,
        broken,
        STORY,
        "--format",
        "srt",
        "--output-dir",
        tmp_path / "o",
        *model,
    )
    assert (code, out) == (1, "")
    assert err.count("\n") == 1 and err.startswith(f"wyoming-wlk: {broken}: the audio cannot be decoded")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["1688-142285-0003.srt", "turn_on_the_lamp.srt"]
    assert "Turn on the lamp" in (tmp_path / "o" / "turn_on_the_lamp.srt").read_text("utf-8")


async def test_transcribe_by_a_server(engine: Engine, vad: SileroVad) -> None:
    """A server does the same with its own model; its refusals are told of."""
    async with serving(engine, vad, token="secret") as server:
        call = ["-m", "wyoming_wlk", "transcribe", "--server", server.url, "--language", "en", LAMP]
        text = await command(*call, "--token", "secret")
        form = await command(*call, "--format", "json", WLK_TOKEN="secret")
        refused = await command(*call, LAMP.parent / "missing.flac")
        scene = [*call[:-1], LAMP.parent / "activate_Mood_Lighting.flac", "--token", "secret"]
        names = await command(*scene, "--hotwords", "Lamp,Mood Lighting")
    assert names[0] == 0 and "mood lighting" in names[1].lower()
    assert text == (0, "Turn on the lamp.\n", "")
    found = json.loads(form[1])
    assert form[0] == 0 and found["text"] == "Turn on the lamp." and found["words"][0]["word"] == "Turn"
    assert refused[:2] == (1, "") and "401" in refused[2] and "missing.flac" in refused[2]


async def test_transcribe_with_speakers_and_translation(tiny_en: InstalledModel, store: ModelStore) -> None:
    """The real models of both in one process, from the cache alone; RTTM where only speakers are wanted."""
    store.fetch(DIARIZATION)
    store.fetch(translation_entry("en", "pt"))
    call = ["-m", "wyoming_wlk", "transcribe", "--offline", "--data-dir", tiny_en.folder.parents[1], LAMP]
    call += ["--model", "tiny.en", "--language", "en", "--diarization", "online"]
    text = await command(*call, "--target-language", "Portuguese")
    rttm = await command(*call, "--format", "rttm")
    assert text[0] == 0 and re.fullmatch(r"Speaker 1: Ligue a lâmpada\.?\n", text[1]), text
    assert rttm[0] == 0 and rttm[1].count("\n") == 1, rttm
    assert rttm[1].startswith("SPEAKER turn_on_the_lamp 1 ") and " speaker_1 " in rttm[1]


async def test_transcribe_with_speakers_by_a_server(engine: Engine, vad: SileroVad) -> None:
    """A server gets the same wishes; what has no speakers to tell of is an error of its file."""
    diarizer = ScriptedDiarizer(turn=30.0)
    async with serving(engine, vad) as server:
        server.services.stages = ScriptedStages(server.services.config, diarizer)
        call = ["-m", "wyoming_wlk", "transcribe", "--server", server.url, "--language", "en", LAMP]
        call += ["--diarization", "online", "--target-language", "pt"]
        text = await command(*call)
        rttm = await command(*call, "--format", "rttm")
        diarizer.fails_at = 0.0
        failed = await command(*call, "--format", "rttm")
    assert text == (0, "Speaker 1: TURN ON THE LAMP.\n", "")
    assert rttm[0] == 0 and rttm[1].startswith("SPEAKER turn_on_the_lamp 1 0.000 3.000 ")
    assert failed[:2] == (1, "") and "who speaks is not known: diarization has failed" in failed[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["transcribe"], "FILE"),
        (["transcribe", "a.wav", "--format", "rttm"], "--diarization"),
        (["transcribe", "a.wav", "--target-language", "klingon"], "klingon"),
        (["listen", "--diarization", "pyannote"], "pyannote"),
        (["transcribe", "a.wav", "--format", "doc"], "doc"),
        (["transcribe", "a.wav", "b/a.flac", "--output-dir", "x"], "a.txt"),
        (["transcribe", "a.wav", "--server", "localhost"], "localhost"),
        (["transcribe", "a.wav", "--language", "klingon"], "klingon"),
        (["listen", "--source", "radio"], "radio"),
    ],
)
async def test_wrong_options(arguments: list[str], words: str) -> None:
    """A wrong option is one line on stderr and exit code 2."""
    code, out, err = await command("-m", "wyoming_wlk", *arguments)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


# --- listen -----------------------------------------------------------------------------------------------------------


class Recorded:
    """A source that is a recording, in chunks of 0.1 s; `before` is awaited before each."""

    rate = 16000

    def __init__(self, name: str, pcm: bytes, before: Callable[[int], object] | None = None) -> None:
        self.name, self._pcm, self._before = name, pcm, before

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._pcm), 3200):
            if self._before is not None:
                self._before(start)
            await asyncio.sleep(0)
            yield self._pcm[start : start + 3200]


class Cable:
    """A connection to a server that can be cut."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.plugged = 0
        self.sent = 0

    @asynccontextmanager
    async def plug(self) -> AsyncIterator[str]:
        listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        finally:
            listening.close()
            self.cut()
            await asyncio.gather(*self._tasks)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.plugged += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, back]
        for source, sink, counts in ((reader, back, True), (there, writer, False)):
            task = asyncio.create_task(self._copy(source, sink, counts))
            self._tasks.add(task)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, counts: bool) -> None:
        try:
            while data := await source.read(4096):
                self.sent += len(data) if counts else 0
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


async def heard(
    sources: Sequence[Source], url: str, token: str = "", stages: StagesConfig = NO_STAGES, width: int | None = None
) -> list[str]:
    """The lines that stay; with a width, all that a terminal gets."""
    out = io.StringIO()
    names = [source.name for source in sources]
    config = Config(http=HttpConfig(token=token), decoding=DecodingConfig(language="en"), stages=stages)
    await asyncio.wait_for(listen(sources, url, config, Screen(out, names, width)), 60)
    return out.getvalue().splitlines()


async def test_two_sources(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Each source has its own lines, under its name."""
    sources = [
        Recorded("mic", clips["turn_on_the_lamp"].pcm + QUIET),
        Recorded("system", clips["1688-142285-0003"].pcm + QUIET),
    ]
    async with serving(engine, vad, token="secret") as server:
        lines = await heard(sources, server.url, "secret")
    assert [line for line in lines if line.startswith("mic: ")] == ["mic: Turn on the lamp."]
    assert " ".join(line for line in lines if line.startswith("system: ")).startswith("system: I really like")


async def test_speakers_and_translations(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """A line for each speaker, and its translation below; until it is known who speaks, words are shown dim."""
    once = clips["1688-142285-0003"].pcm + 2 * QUIET
    async with serving(engine, vad) as server:
        diarizer = ScriptedDiarizer(turn=len(once) / 32000)
        server.services.stages = ScriptedStages(server.services.config, diarizer)
        lines = await heard([Recorded("mic", once * 2)], server.url, stages=SPEAKERS_IN_PORTUGUESE)
        drawn = await heard([Recorded("mic", once * 2)], server.url, stages=SPEAKERS_IN_PORTUGUESE, width=80)
    said = [line for line in lines if not line.startswith("= ")]
    assert [line[:18] for line in said] == ["Speaker 1: I reall", "Speaker 2: I reall"]
    assert sorted(lines)[:2] == sorted(f"= {line[11:].upper()}" for line in said) and len(lines) == 4
    assert any("\x1b[2m" in line and "really" in line.partition("\x1b[2m")[2] for line in drawn)


async def test_a_lost_connection_loses_no_words(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Cut twice in the middle of speech, the words are those of a connection that held."""
    pcm = clips["1688-142285-0001"].pcm + QUIET
    async with serving(engine, vad) as server:
        expected = await heard([Recorded("mic", pcm)], server.url)
        cable = Cable(server.url)
        cuts = [len(pcm) // 3, 2 * len(pcm) // 3]

        def before(position: int) -> None:
            if cuts and position >= cuts[0] and cable.sent:
                cuts.pop(0)
                cable.cut()
                cable.sent = 0

        async with cable.plug() as url:
            source = Recorded("mic", pcm, before)
            lines = await heard([source], url)
    assert cable.plugged >= 2 and lines == expected and "Margaret" in lines[0]


async def test_no_server_and_no_access(engine: Engine, vad: SileroVad) -> None:
    """What will not get better by waiting ends with a reason."""
    async with serving(engine, vad, token="secret") as server:
        with pytest.raises(RequestError, match="token"):
            await heard([Recorded("mic", QUIET)], server.url, "wrong")
    with pytest.raises(RequestError, match="cannot connect"):
        await heard([Recorded("mic", QUIET)], server.url)


def test_tape() -> None:
    """Sound is found by its position, whole samples only, and the oldest is forgotten."""
    tape = Tape(limit=4)
    tape.append(b"aabbc")
    assert (tape.read(0, 9), tape.read(1, 1)) == (b"aabb", b"bb")
    tape.append(b"cddeeff")
    assert tape.start == 2 and tape.read(2, 9) == b"ccddeeff" and tape.read(6, 9) == b""


def test_translations_on_the_screen() -> None:
    """A translation follows the line that it is of, whether it comes before the end of the line or after it."""
    out = io.StringIO()
    screen = Screen(out, ["mic"], None)
    screen.add("mic", 1, "One. Two.", "")
    screen.translate("mic", 1, " Um.")
    screen.translate("mic", 1, " Dois.")
    screen.add("mic", 2, "Three.", "")
    screen.end("mic", 1, "One. Two.")
    screen.end("mic", 2, "Three.")
    screen.translate("mic", 2, " Três.")
    assert out.getvalue() == "One. Two.\n= Um. Dois.\nThree.\n= Três.\n"


def test_screen() -> None:
    """On a terminal the live line is drawn anew, firm before dim, and never wider than the screen."""
    out = io.StringIO()
    screen = Screen(out, ["mic"], 20)
    screen.add("mic", 1, " Turn on", " the lamb")
    assert out.getvalue().endswith("Turn on\x1b[2m the lamb\x1b[0m")
    screen.add("mic", 1, " the lamp in the kitchen", "")
    assert "\x1b[36mlamp in the kitchen\x1b[2m" in out.getvalue()
    screen.end("mic", 1, "Turn on the lamp in the kitchen.")
    assert out.getvalue().endswith("\x1b[36mTurn on the lamp in the kitchen.\x1b[0m\n")


# --- capture ----------------------------------------------------------------------------------------------------------


def test_no_sound_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library the message says what to install."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(CaptureError, match=r"wyoming-wlk\[listen\]"):
        Microphone()


async def test_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's blocks come out in order, from the thread that it calls back on."""

    class Stream:
        def __init__(self, rate: int, size: int, channels: int, dtype: str, callback: Callable[..., None]) -> None:
            assert (rate, size, channels, dtype) == (44100, 4410, 1, "int16")
            self._callback = callback

        def __enter__(self) -> None:
            def blocks() -> None:
                for number in range(3):
                    self._callback(bytearray([number, 0]), 1, None, None)

            self.thread = asyncio.get_running_loop().run_in_executor(None, blocks)

        def __exit__(self, *_: object) -> None:
            pass

    library = SimpleNamespace(
        query_devices=lambda kind: {"default_samplerate": 44100.0}, RawInputStream=Stream, PortAudioError=OSError
    )
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    chunks = Microphone().chunks()
    assert [await anext(chunks) for _ in range(3)] == [b"\0\0", b"\1\0", b"\2\0"]


async def test_system_sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The recorder's output is passed on, and its complaint; without one the message says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CaptureError, match="pulseaudio-utils"):
        await anext(SystemSound().chunks())
    (tmp_path / "parec").write_text("#!/bin/sh\nprintf abcd\necho 'no such device' >&2\nexit 1\n")
    (tmp_path / "parec").chmod(0o755)
    chunks = SystemSound().chunks()
    assert await anext(chunks) == b"abcd"
    with pytest.raises(CaptureError, match="no such device"):
        await anext(chunks)


# --- examples ---------------------------------------------------------------------------------------------------------


async def test_live_captions(engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path) -> None:
    """The example prints what is said in a WAV file."""
    path = tmp_path / "lamp.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(clips["turn_on_the_lamp"].pcm)
    async with serving(engine, vad) as server:
        code, out, err = await command(EXAMPLES / "live_captions.py", path, server.url.replace("http", "ws"))
    assert (code, out.strip().rstrip("."), err) == (0, "Turn on the lamp", "")
