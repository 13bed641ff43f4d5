"""Home Assistant's own integration (2024.3.3) against the server: what it sees when all is well, and in trouble."""

from __future__ import annotations

import asyncio
import itertools
import signal
import statistics
from collections.abc import AsyncIterator
from dataclasses import dataclass

import home_assistant
import jiwer
import pytest
import pytest_asyncio
from conftest import Clip
from home_assistant import Described, Heard, Probe, free_port
from serving import Server, serving
from test_app import process, ready

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import InstalledModel
from wyoming_wlk.vad import SileroVad

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(bool(home_assistant.missing()), reason=home_assistant.missing() or "it is there"),
]

COMMANDS = [
    "turn_on_the_lamp",
    "is_the_garage_door_closed",
    "make_the_bedroom_light_blue",
    "set-kitchen-lights-to-red",
    "how_cold_is_it",
    "whats-the-date",
]
SATELLITES = [
    *COMMANDS,
    "what_s_the_weather_like_in_New_York",
    "turn_off_all_of_the_lights_in_the_Office",
    "is_the_Garage_Door_open",
    "gen_is_the_Front_Door_unlocked",
    "turn-off-standing-light",
    "what_time_is_it",
    "what_s_the_weather",
    "nevermind",
    "turn-off-all-lights-in-the-office",
    "1688-142285-0002",
]
SECOND_OF_SILENCE = bytes(2 * 16000)
DESCRIBE_SECONDS = 0.1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home() -> AsyncIterator[Probe]:
    async with home_assistant.probe() as running:
        yield running


@dataclass(frozen=True)
class Bilingual:
    """A server process with a model of many languages, and what Home Assistant learnt of it while that was loaded."""

    port: int
    early: list[Described]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bilingual(home: Probe, base: InstalledModel, tiny_en: InstalledModel) -> AsyncIterator[Bilingual]:
    port = free_port()
    async with process(base, "--model", "base", "--uri", f"tcp://127.0.0.1:{port}") as server:
        await opened(port)
        loading = asyncio.create_task(ready(server))
        early = []
        while not loading.done():
            early.append(await home.describe(port))
        await loading
        yield Bilingual(port, early)


async def opened(port: int) -> None:
    """Waits until somebody listens."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


def words(text: str | None) -> str:
    assert text is not None
    return " ".join(jiwer.RemovePunctuation()(text.replace("’", "'")).lower().split())


# --- describe ---------------------------------------------------------------------------------------------------------


async def test_describe_while_the_model_loads(bilingual: Bilingual) -> None:
    """Home Assistant can be set up before the model is there, and waits for it less than a tenth of a second."""
    assert len(bilingual.early) > 3
    first = bilingual.early[0]
    assert (first.name, first.platforms) == ("wyoming-wlk", ["stt"])
    assert {"de", "en", "fr"} <= set(first.languages)
    seconds = [second for described in bilingual.early for second in described.seconds]
    assert statistics.median(seconds) < DESCRIBE_SECONDS, seconds


async def test_describe_at_full_load(home: Probe, engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """While sixteen utterances are decoded at once `describe` is answered as quickly as ever."""
    async with serving(engine, vad) as server:
        spoken = itertools.islice(itertools.cycle(COMMANDS), 16)
        speaking = [asyncio.create_task(home.speak(server.port, clips[name].pcm)) for name in spoken]
        await utterances(server, 16)
        described = await home.describe(server.port, times=9)
        assert not all(task.done() for task in speaking), "there was no load"
        assert statistics.median(described.seconds) < DESCRIBE_SECONDS, described.seconds
        assert {heard.state for heard in await asyncio.gather(*speaking)} == {"success"}


# --- what is heard ----------------------------------------------------------------------------------------------------


async def test_sixteen_satellites(home: Probe, engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Sixteen satellites speak at once in real time, and each gets what it said itself."""
    async with serving(engine, vad) as server:
        heard = await asyncio.gather(*(home.speak(server.port, clips[name].pcm, pace=1.0) for name in SATELLITES))
    said = [words(clips[name].text) for name in SATELLITES]
    for name, result in zip(SATELLITES, heard, strict=True):
        assert result.state == "success", (name, result)
        nearest = min(said, key=lambda text: jiwer.cer(text, words(result.text)))
        assert nearest == words(clips[name].text), (name, result)
    assert jiwer.wer(said, [words(result.text) for result in heard]) < 0.2, heard


@pytest.mark.parametrize("language", ["de", "de-DE"])
async def test_umlauts(language: str, home: Probe, bilingual: Bilingual, clips: dict[str, Clip]) -> None:
    """German arrives as German, with Home Assistant's codes of languages, too."""
    clip = clips["de_rhasspy-0060"]
    heard = await home.speak(bilingual.port, clip.pcm, language)
    assert heard.state == "success"
    assert heard.text is not None and "saarländisch" in heard.text.lower()
    assert jiwer.wer(words(clip.text), words(heard.text)) <= 0.5, heard


@pytest.mark.parametrize("name", ["nothing", "silence", "pyannote_empty", "gen_hum50_10s"])
async def test_nothing_was_said(name: str, home: Probe, engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Without speech, and without any audio, the text is empty, which Home Assistant calls "no text recognized"."""
    pcm = clips[name].pcm if name in clips else {"nothing": b"", "silence": 3 * SECOND_OF_SILENCE}[name]
    async with serving(engine, vad) as server:
        heard = await home.speak(server.port, pcm)
    assert (heard.state, heard.text) == ("success", "")


async def test_server_endpointing(home: Probe, engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """A transcript that comes long before the end of the audio is the result of the turn."""
    pcm = clips["turn_on_the_lamp"].pcm + 3 * SECOND_OF_SILENCE
    async with serving(engine, vad, endpoint=0.5) as server:
        speaking = asyncio.create_task(home.speak(server.port, pcm, pace=1.0))
        await utterances(server, 1)
        await utterances(server, 0)
        assert not speaking.done(), "it ended with the audio only"
        heard = await speaking
    assert (heard.state, words(heard.text)) == ("success", "turn on the lamp")
    assert heard.spoken == len(pcm) / 32000


async def utterances(server: Server, number: int) -> None:
    """Waits until so many are under way."""
    async with asyncio.timeout(30):
        while server.services.clients != number:
            await asyncio.sleep(0.01)


# --- trouble ----------------------------------------------------------------------------------------------------------


def assert_told(heard: Heard) -> None:
    """Home Assistant knows that it failed, and does not wait for ever."""
    assert (heard.state, heard.text) == ("error", None)


@pytest.mark.parametrize("language", ["xx", "de"])
async def test_languages_that_cannot_be_had(
    language: str, home: Probe, engine: Engine, vad: SileroVad, clips: dict[str, Clip]
) -> None:
    """A language that nobody knows, or that the model does not, is an error; the next utterance is none."""
    pcm = clips["turn_on_the_lamp"].pcm
    async with serving(engine, vad) as server:
        assert_told(await home.speak(server.port, pcm, language))
        assert (await home.speak(server.port, pcm)).state == "success"


async def test_busy(home: Probe, engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """One who comes when the server has as many utterances as it may is told at once; the others notice nothing."""
    pcm = clips["turn_on_the_lamp"].pcm
    async with serving(engine, vad, max_clients=1) as server:
        first = asyncio.create_task(home.speak(server.port, pcm, pace=1.0))
        await utterances(server, 1)
        assert_told(await home.speak(server.port, pcm, pace=1.0))
        assert (await home.describe(server.port)).name == "wyoming-wlk"
        assert words((await first).text) == "turn on the lamp"


async def test_refused_in_mid_stream(home: Probe, engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """An utterance over the limit ends where the limit is."""
    pcm = clips["turn_on_the_lamp"].pcm + 3 * SECOND_OF_SILENCE
    async with serving(engine, vad, max_utterance=1.0) as server:
        heard = await home.speak(server.port, pcm, pace=1.0)
    assert_told(heard)
    assert heard.spoken < len(pcm) / 32000


async def test_a_model_that_cannot_be_loaded(
    home: Probe, engine: Engine, vad: SileroVad, clips: dict[str, Clip]
) -> None:
    """Who spoke while the model was loaded is told when that fails."""
    async with serving(engine, vad, loaded=False) as server:
        speaking = asyncio.create_task(home.speak(server.port, clips["turn_on_the_lamp"].pcm))
        await utterances(server, 1)
        server.speech.set_exception(ModelError("the file is broken"))
        with pytest.raises(ModelError):
            await server.loading
        assert_told(await speaking)


async def test_restart(home: Probe, tiny_en: InstalledModel, clips: dict[str, Clip]) -> None:
    """A server that dies in mid-utterance is an error, one that is stopped lets it end; once it is back all is well."""
    lamp, cold = clips["turn_on_the_lamp"].pcm, clips["how_cold_is_it"].pcm
    port = free_port()
    options = ["--language", "en", "--uri", f"tcp://127.0.0.1:{port}"]
    async with process(tiny_en, *options) as server:
        await ready(server)
        assert words((await home.speak(port, lamp)).text) == "turn on the lamp"
        speaking = asyncio.create_task(home.speak(port, lamp, pace=1.0))
        await asyncio.sleep(0.5)
        server.send_signal(signal.SIGKILL)
        assert_told(await speaking)
        assert_told(await home.speak(port, lamp))  # nobody is there
    async with process(tiny_en, *options) as server:
        await ready(server)
        assert words((await home.speak(port, lamp)).text) == "turn on the lamp"
        speaking = asyncio.create_task(home.speak(port, cold, pace=1.0))
        await asyncio.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        assert words((await speaking).text) == "how cold is it"
