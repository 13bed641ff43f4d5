"""Sortformer without NeMo: a scripted network shows chunks, contexts, turns, pauses and states."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wyoming_wlk.errors import ModelError, RequestError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.diarizer import DiarizationOptions, Heard, Settled
from wyoming_wlk.stages.sortformer.chunks import FRAME, MEL_HOP, SAMPLE_RATE, SETTINGS, Chunks, Window, chunks_for
from wyoming_wlk.stages.sortformer.diarizer import SortformerDiarizer
from wyoming_wlk.stages.sortformer.loading import V2_1, find_model, hub_entry, load_sortformer
from wyoming_wlk.stages.sortformer.state import SortformerState
from wyoming_wlk.stages.sortformer.turns import activity

CHANNELS = 4
Turn = tuple[float, float, int]


class ScriptedNetwork:
    """Plays the model: the first sample of a frame says, in 16ths, which channels speak in it; silence is 0.

    It remembers how many frames it was given, and notes the windows.
    """

    channels = CHANNELS

    def __init__(self) -> None:
        self.windows: list[list[Window]] = []

    def begin(self) -> dict[str, np.ndarray]:
        empty = np.zeros((1, 0, 8), np.float32)
        return {"spkcache": empty, "fifo": empty, "n_sil_frames": np.zeros(1, np.int64)}

    def run(self, windows: Sequence[Window]) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        self.windows.append(list(windows))
        return [(self._hear(window), self._remember(window)) for window in windows]

    def _hear(self, window: Window) -> np.ndarray:
        first = window.skip * MEL_HOP + window.left * FRAME
        said = np.rint(window.audio[first::FRAME][: window.length] * 16).astype(int)
        speaks = said[:, None] >> np.arange(CHANNELS) & 1
        assert len(speaks) == window.length
        return np.where(speaks, 0.9, 0.1)

    def _remember(self, window: Window) -> dict[str, np.ndarray]:
        predictions = np.zeros((1, 1, CHANNELS), np.float32)
        count = window.memory["n_sil_frames"] + window.length
        return window.memory | {"n_sil_frames": count, "fifo_preds": predictions}


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


@pytest.fixture
def diarizer(network: ScriptedNetwork) -> SortformerDiarizer:
    return SortformerDiarizer(network)


def script(*parts: tuple[int, Sequence[int]]) -> np.ndarray:
    """Audio of (frames, the channels that speak in them)."""
    levels = [np.full(frames * FRAME, sum(2**channel for channel in who) / 16, np.float32) for frames, who in parts]
    return np.concatenate(levels)


def options(latency: float = 1.04, max_speakers: int = 10) -> DiarizationOptions:
    return DiarizationOptions(latency=latency, max_speakers=max_speakers)


def hear(
    diarizer: SortformerDiarizer, state: SortformerState, samples: np.ndarray, portion: int = 10**9, last: bool = True
) -> list[Settled]:
    """What a client is told of audio that comes in portions of samples, checked against its horizons."""
    told = state.told / SAMPLE_RATE
    found = []
    for start in range(0, len(samples), portion):
        part = samples[start : start + portion]
        (settled,) = diarizer.step([Heard(state, part, last and start + portion >= len(samples))])
        assert isinstance(settled, Settled) and settled.horizon >= told
        assert all(told <= turn.start < turn.end <= settled.horizon for turn in settled.turns)
        told = settled.horizon
        found.append(settled)
    return found


def turns(settled: Sequence[Settled]) -> list[Turn]:
    """As (first frame, behind the last, speaker), with those as one that were only parted by a horizon."""
    found: list[Turn] = []
    every = [turn for told in settled for turn in told.turns]
    for turn in sorted(every, key=lambda turn: (turn.speaker, turn.start)):
        start, end = turn.start * SAMPLE_RATE / FRAME, turn.end * SAMPLE_RATE / FRAME
        if found and found[-1][1:] == (start, turn.speaker):
            start = found.pop()[0]
        found.append((start, end, turn.speaker))
    return sorted(found)


# --- chunks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "expected"),
    [(100, 30.4), (30.4, 30.4), (30.39, 10), (10, 10), (5, 1.04), (1.04, 1.04), (1, 0.32), (0.32, 0.32)],
)
def test_settings(latency: float, expected: float) -> None:
    """A client gets the most accurate setting that keeps within its latency."""
    assert chunks_for(latency).milliseconds == 1000 * expected


@pytest.mark.parametrize("wish", [options(0.3), options(0), options(math.nan), options(max_speakers=0)])
def test_unservable(diarizer: SortformerDiarizer, wish: DiarizationOptions) -> None:
    """Options that the model cannot serve are refused."""
    with pytest.raises(RequestError):
        diarizer.begin(wish)


@pytest.mark.parametrize("chunks", SETTINGS)
@pytest.mark.parametrize("portion", [999, 16000, 10**9])
def test_context_arithmetic(
    diarizer: SortformerDiarizer, network: ScriptedNetwork, chunks: Chunks, portion: int
) -> None:
    """30 s are 375 frames, each heard once; every chunk has its contexts as far as there is audio."""
    state = diarizer.begin(options(chunks.milliseconds / 1000))
    hear(diarizer, state, script((375, [])), portion)
    windows = [window for (window,) in network.windows]
    assert sum(window.length for window in windows) == 375
    position = 0
    for window in windows:
        assert window.left == min(1, position)
        assert window.length == min(chunks.length, 375 - position)
        assert window.mel == 8 * (window.left + min(chunks.length + chunks.right, 375 - position))
        position += window.length
    assert int(windows[-1].memory["n_sil_frames"][0]) + windows[-1].length == 375


@pytest.mark.parametrize("chunks", SETTINGS)
def test_latency(diarizer: SortformerDiarizer, chunks: Chunks) -> None:
    """Nobody waits longer than the setting says, but for the 2.5 ms that a mel frame reaches ahead."""
    latency = chunks.milliseconds / 1000
    state = diarizer.begin(options(latency))
    for number, settled in enumerate(hear(diarizer, state, script((800, [])), 160, last=False), 1):
        assert settled.horizon > number / 100 - latency - 0.0126


def test_bounded(diarizer: SortformerDiarizer) -> None:
    """A state keeps no more audio than the next window needs."""
    state = diarizer.begin(options(1.04))
    hear(diarizer, state, script((2000, [0])), last=False)
    assert len(state.audio) <= (1 + 6 + 7 + 1) * FRAME


# --- turns ------------------------------------------------------------------------------------------------------------


def test_silence(diarizer: SortformerDiarizer) -> None:
    """Where nobody is likely to speak, there is no speaker."""
    settled = hear(diarizer, diarizer.begin(options()), script((100, [])), 5000)
    assert turns(settled) == [] and settled[-1].horizon == 8


@pytest.mark.parametrize("latency", [30.4, 10, 1.04, 0.32])
@pytest.mark.parametrize("portion", [1000, 16000, 10**9])
def test_turns(diarizer: SortformerDiarizer, latency: float, portion: int) -> None:
    """Speakers are counted as they appear; two who speak at once both have turns."""
    audio = script((10, []), (20, [2]), (5, [2, 0]), (30, [0]), (10, []), (50, [2]), (7, [1]))
    settled = hear(diarizer, diarizer.begin(options(latency)), audio, portion)
    assert turns(settled) == [(10, 35, 1), (30, 65, 2), (75, 125, 1), (125, 132, 3)]
    assert not settled[-1].crowded


def test_thresholds() -> None:
    """Speech begins above one probability and ends below a lower one, also from one chunk to the next."""
    probabilities = np.array([[0.6, 0.3], [0.65, 0.2], [0.6, 0.1], [0.5, 0.7], [0.6, 0.57]])
    assert activity(probabilities, [False, False]).tolist() == [
        [False, False],
        [True, False],
        [True, False],
        [False, True],
        [False, True],
    ]
    assert activity(probabilities[:1], [True, True]).tolist() == [[True, False]]


def test_turn_goes_on(diarizer: SortformerDiarizer) -> None:
    """A turn that is not over at the horizon ends there, and the next one begins there."""
    state = diarizer.begin(options(0.32))
    first, second = hear(diarizer, state, script((8, [0])), 4 * FRAME + 40, last=False)
    assert (first.turns[0].end, first.horizon) == (0.24, 0.24)
    assert (second.turns[0].start, second.turns[0].end, second.horizon) == (0.24, 0.48, 0.48)


@pytest.mark.parametrize("portion", [1000, 10**9])
def test_crowd(diarizer: SortformerDiarizer, portion: int) -> None:
    """Voices beyond the wanted number are taken for who spoke most until then, and the client is told."""
    state = diarizer.begin(options(max_speakers=2))
    before = hear(diarizer, state, script((10, [0]), (20, [1])), portion)
    assert not before[-1].crowded
    audio = script((10, [3]), (40, [0]), (10, []), (10, [2]), (5, [3, 1]), (5, []))
    after = hear(diarizer, state, audio, portion)
    assert turns(before) == [(0, 10, 1), (10, 30, 2)]
    assert turns(after) == [(30, 40, 2), (40, 80, 1), (90, 100, 1), (100, 105, 2)]
    assert after[-1].crowded


# --- pauses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", [30.4, 10, 1.04, 0.32])
@pytest.mark.parametrize("extra", [0, 1, 700])
def test_pause(diarizer: SortformerDiarizer, latency: float, extra: int) -> None:
    """What was heard is settled to its last sample; the clock goes on, and speakers keep their numbers."""
    state = diarizer.begin(options(latency))
    audio, pause = script((20, [1]), (31, [0]), (30, [1]), (4, [2])), 50 * FRAME + extra
    early = hear(diarizer, state, audio[:pause], 3000)
    later = hear(diarizer, state, audio[pause:], 3000)
    assert early[-1].horizon == pause / SAMPLE_RATE and later[-1].horizon == len(audio) / SAMPLE_RATE
    assert turns(early) == [(0, 20, 1), (20, pause / FRAME if extra >= MEL_HOP else 50, 2)]
    assert turns(later) == [(pause / FRAME, 51, 2), (51, 81, 1), (81, 85, 3)]


def test_pauses_cost_nothing(diarizer: SortformerDiarizer) -> None:
    """With a pause after every few frames, later chunks and the memory are as without any."""
    audio = script(*[(5, [number % 4]) for number in range(40)])
    often, never = diarizer.begin(options()), diarizer.begin(options())
    for start in range(0, len(audio), 7777):
        hear(diarizer, often, audio[start : start + 7777])
    hear(diarizer, never, audio, 7777, last=False)
    assert often.frame == never.frame and often.memory["n_sil_frames"] == never.memory["n_sil_frames"]


@pytest.mark.parametrize("samples", [0, 1, 159])
def test_hardly_anything(diarizer: SortformerDiarizer, samples: int) -> None:
    """Less audio than a mel frame is settled as well."""
    (settled,) = diarizer.step([Heard(diarizer.begin(options()), np.ones(samples, np.float32), last=True)])
    assert settled == Settled((), samples / SAMPLE_RATE)


# --- many clients -----------------------------------------------------------------------------------------------------


def test_stacked(diarizer: SortformerDiarizer, network: ScriptedNetwork) -> None:
    """Clients whose chunks are due share a pass, whatever their settings, and get what each gets alone."""
    audios = [script((40, [0]), (30, [1])), script((90, [3])), script((5, []), (40, [2, 1]))]
    wishes = [options(1.04), options(0.32), options(10)]
    alone = [turns(hear(diarizer, diarizer.begin(w), audio)) for w, audio in zip(wishes, audios, strict=True)]
    passes = len(network.windows)
    items = [Heard(diarizer.begin(w), audio, last=True) for w, audio in zip(wishes, audios, strict=True)]
    together = [turns([settled]) for settled in diarizer.step(items) if isinstance(settled, Settled)]
    assert together == alone
    assert len(network.windows) - passes < passes
    assert max(len(windows) for windows in network.windows) == 3


# --- states -----------------------------------------------------------------------------------------------------------


def test_parked(diarizer: SortformerDiarizer) -> None:
    """A client whose state leaves the process after each step is told the same."""
    audio = script((30, [2]), (20, [0]), (20, [0, 1]), (8, []), (25, [3]))
    state = diarizer.begin(options(max_speakers=3))
    expected = hear(diarizer, state, audio, 9999)
    data, told = diarizer.begin(options(max_speakers=3)).to_bytes(), []
    for start in range(0, len(audio), 9999):
        parked = diarizer.restore(data)
        told += hear(diarizer, parked, audio[start : start + 9999], last=start + 9999 >= len(audio))
        data = parked.to_bytes()
    assert told == expected and expected[-1].crowded
    assert diarizer.restore(data).options == state.options


def test_foreign_states(diarizer: SortformerDiarizer) -> None:
    """What `to_bytes` did not write, or wrote for another model, is no state."""
    state = diarizer.begin(options())
    hear(diarizer, state, script((60, [0])))
    good = state.to_bytes()
    assert diarizer.restore(good).told == state.told
    changed = [
        replace(state, options=options(0.1)),
        replace(state, active=[True]),
        replace(state, frame=-1),
        replace(state, origin=state.origin + 160),
        replace(state, audio=state.audio.astype(np.float64)),
        replace(state, memory={}),
        replace(state, memory=state.memory | {"fifo": np.zeros((1, 3, 9), np.float32)}),
        replace(state, memory=state.memory | {"fifo": np.zeros((1, 999, 8), np.float32)}),
        replace(state, memory=state.memory | {"fifo_preds": np.zeros((1, 3, 5), np.float32)}),
    ]
    broken = [b"", b"nonsense", good[:-1], good[:100], b"\x02" + bytes(7) + b"[]"]
    for data in [*broken, *(other.to_bytes() for other in changed)]:
        with pytest.raises(ValueError):
            diarizer.restore(data)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NeMo it is said how to install it, before anything is fetched."""
    monkeypatch.setitem(sys.modules, "nemo", None)
    with pytest.raises(ModelError, match=r"not installed: pip install wyoming-wlk\[sortformer\]"):
        load_sortformer(V2_1, ModelStore(tmp_path))


def test_names() -> None:
    """A name on the hub says which file to fetch; a known one is pinned."""
    entry = hub_entry(V2_1)
    assert entry.repository == V2_1 and entry.hub_files == tuple(entry.sha256)
    assert entry.hub_files == ("diar_streaming_sortformer_4spk-v2.1.nemo",)
    other = hub_entry("nvidia/other")
    assert (other.name, other.hub_files, other.sha256) == ("nvidia--other", ("other.nemo",), {})


def test_models_that_cannot_be_had(tmp_path: Path) -> None:
    """A model that is nowhere, or not here while the server is offline, is an error."""
    store = ModelStore(tmp_path, offline=True)
    for name in ("sortformer", str(tmp_path / "missing.nemo"), "a/b/c", "/b", "a/"):
        with pytest.raises(ModelError, match="neither a .nemo file nor a name on the hub"):
            find_model(name, store)
    with pytest.raises(ModelError, match="not on this machine, and the server is offline"):
        find_model(V2_1, store)
