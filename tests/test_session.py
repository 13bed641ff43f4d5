"""A session: real voice activity, real model, the client's sample clock."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import Clip

from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.engine.request import Word
from wyoming_wlk.engine.statistics import SessionStatistics
from wyoming_wlk.events import Event, Finished, SegmentEnded, TextUpdate
from wyoming_wlk.session import Session, Speech
from wyoming_wlk.utterance import Utterance, UtteranceSettings
from wyoming_wlk.vad import SileroVad, VadSettings

RATE = 16000


def session(engine: Engine, vad: SileroVad, policy: str = "alignatt") -> tuple[Session, list[Event]]:
    events: list[Event] = []

    async def emit(event: Event) -> None:
        events.append(event)

    context = DecoderContext(ClientOptions(policy=policy))
    utterance = Utterance(context, UtteranceSettings(max_window=engine.max_window_seconds), "test")
    speech = Speech(engine, vad, ThreadPoolExecutor(1))
    return Session(speech, utterance, VadSettings(), emit, SessionStatistics()), events


async def hear(engine: Engine, vad: SileroVad, samples: np.ndarray, policy: str = "alignatt") -> list[Event]:
    """All events of one utterance that arrives in chunks of 0.1 s, as fast as it is taken."""
    made, events = session(engine, vad, policy)
    running = asyncio.create_task(made.run())
    for start in range(0, len(samples), 1600):
        await made.feed(samples[start : start + 1600])
        await asyncio.sleep(0)
    made.stop()
    await asyncio.wait_for(running, 60)
    return events


def committed(events: list[Event]) -> list[Word]:
    return [word for event in events if isinstance(event, TextUpdate) for word in event.committed]


def final(events: list[Event]) -> str:
    found = [event.text for event in events if isinstance(event, Finished)]
    assert len(found) == 1
    return found[0]


async def test_times_do_not_drift_over_silence(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Words after long silences stand where they were spoken on the client's clock."""
    clip, quiet = clips["1688-142285-0008"].samples, np.zeros(7 * RATE, np.float32)
    events = await hear(engine, vad, np.concatenate([quiet, clip, quiet, clip, quiet]))
    words = committed(events)
    assert final(events).lower().count("miserable") == 2
    length = len(clip) / RATE
    for begin in (7.0, 14.0 + length):
        inside = [w for w in words if begin - 0.5 <= w.start <= begin + length]
        assert any("miserable" in w.text for w in inside)
    assert all(earlier.start <= later.start for earlier, later in zip(words, words[1:], strict=False))
    assert len(words) == len([w for b in (7.0, 14.0 + length) for w in words if b - 0.5 <= w.start <= b + length + 0.2])


@pytest.mark.parametrize("policy", ["alignatt", "localagreement"])
async def test_both_policies_say_it_early_and_once(
    policy: str, engine: Engine, vad: SileroVad, clips: dict[str, Clip]
) -> None:
    """Words are committed before the end, in order, and joined they are the sentence."""
    clip = clips["1688-142285-0003"]
    made, events = session(engine, vad, policy)
    running = asyncio.create_task(made.run())
    for start in range(0, len(clip.samples), 3200):
        await made.feed(clip.samples[start : start + 3200])
        while made._inbox or made._utterance.backlog > 0.8:  # however slow the machine: a step for each 0.8 s
            await asyncio.sleep(0.01)
    early = committed(events)
    made.stop()
    await asyncio.wait_for(running, 60)
    assert early
    said = "".join(word.text for word in committed(events))
    assert "account of himself" in said
    assert said.split()[-4:] == ["anything", "else", "he", "said."]


async def test_a_long_monologue_faster_than_real_time(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Forty seconds with hardly a pause, sent at once: windows are cut, and nothing is lost or said twice."""
    names = ["1688-142285-0001", "1688-142285-0006", "1688-142285-0007", "1998-15444-0002"]
    events = await hear(engine, vad, np.concatenate([clips[name].samples for name in names]))
    text = final(events).lower()
    for phrase in (
        "margaret",
        "anxiety",
        "such a person",
        "very much afraid",
        "temperature of the body",
        "lips and mouth",
    ):
        assert text.count(phrase) == 1, phrase
    joined = "".join(word.text for word in committed(events)).lower()
    assert joined.count("temperature of the body") == joined.count("such a person") == 1


async def test_a_phrase_said_three_times_is_no_loop(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """What somebody really repeats is kept, and so is what they say after it."""
    phrase, rest = clips["how_cold_is_it"].samples, clips["1688-142285-0003"].samples
    events = await hear(engine, vad, np.concatenate([phrase, phrase, phrase, rest]))
    for text in (final(events).lower(), "".join(word.text for word in committed(events)).lower()):
        assert text.count("how cold is it") == 3, text
        assert "better than anything else he said" in text


async def test_nobody_waits_on_a_session_that_ended(engine: Engine, vad: SileroVad) -> None:
    """Feeding a session whose run has failed returns instead of waiting for ever."""
    made, _ = session(engine, vad)
    running = asyncio.create_task(made.run())
    for _ in range(12):
        await made.feed(np.zeros(RATE, np.float32))
    running.cancel()
    for _ in range(30):
        await asyncio.wait_for(made.feed(np.zeros(RATE, np.float32)), 5)


async def test_cancelling_a_session_frees_the_engine(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """A client that leaves in mid-step takes its request along; the next one is served."""
    made, _ = session(engine, vad)
    running = asyncio.create_task(made.run())
    await made.feed(clips["1688-142285-0006"].samples)
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "lamp" in final(await hear(engine, vad, clips["turn_on_the_lamp"].samples))


async def test_feeding_waits_while_the_session_is_behind(engine: Engine, vad: SileroVad) -> None:
    """Nobody can fill the memory: without `run`, feeding stops at the inbox's limit."""
    made, _ = session(engine, vad)
    fed = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            while True:
                await made.feed(np.zeros(RATE, np.float32))
                fed += 1
    assert 10 <= fed <= 12


async def test_audio_far_ahead_of_real_time_loses_nothing(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip]
) -> None:
    """A client that sends all at once, as one that catches up does, gets every sentence, cut at the same pauses."""
    silence = np.zeros(32000, np.float32)
    names = ("1688-142285-0003", "turn_on_the_lamp", "1688-142285-0005", "is_the_garage_door_closed")
    audio = np.concatenate([part for name in names for part in (clips[name].samples, silence)])
    made, events = session(engine, vad)
    feeding = asyncio.create_task(made.feed(audio))
    running = asyncio.create_task(made.run())
    await feeding
    made.stop()
    await running
    ended = [event for event in events if isinstance(event, SegmentEnded)]
    said = ["".join(word.text for word in event.words).lower() for event in ended]
    assert len(said) == 4
    for heard, expected in zip(said, ("account", "lamp", "accusing", "garage door"), strict=True):
        assert expected in heard
