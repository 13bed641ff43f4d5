"""Who spoke when: clustering as tables, scripted voices through the whole diarizer, real networks on real speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from conftest import AUDIO, Clip

from benchmarks.speakers import diarization_errors, read_rttm
from wyoming_wlk.errors import RequestError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.diarization.clustering import average_linkage, fill_gaps, inherit_labels, runs
from wyoming_wlk.stages.diarization.install import install_networks
from wyoming_wlk.stages.diarization.networks import FRAME, FRAME_START, POWERSET, WINDOW_FRAMES
from wyoming_wlk.stages.diarization.online import OnlineDiarizer, load_online
from wyoming_wlk.stages.diarization.pieces import new_pieces
from wyoming_wlk.stages.diarization.state import HOP, DiarizationState
from wyoming_wlk.stages.diarization.voices import forget
from wyoming_wlk.stages.diarizer import DiarizationOptions, Heard, Settled, SpeakerTurn

RATE = 16000
TONES = (300.0, 500.0, 900.0, 1600.0, 2800.0)
"""Scripted voices: sine waves, far enough apart that each has mel bins of its own."""


class ToneSegmentation:
    """Plays the segmentation: who hums in each frame. Local speakers are numbered in the order of their pitch."""

    def run(self, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._certain(self._activity(window)) for window in windows]

    def _certain(self, activity: np.ndarray) -> np.ndarray:
        """The probabilities of the powerset's classes: all or nothing."""
        window: np.ndarray = (activity[:, None] == POWERSET).all(axis=2)
        return window.astype(np.float32)

    def _activity(self, window: np.ndarray) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(window, 2 * FRAME)[FRAME_START - FRAME // 2 :: FRAME]
        times = np.arange(2 * FRAME) / RATE
        loud = np.stack([np.abs(frames @ np.exp(2j * np.pi * tone * times)) for tone in TONES], axis=1) > 20
        loud = np.pad(loud, ((0, WINDOW_FRAMES), (0, 0)))[:WINDOW_FRAMES]
        here = np.flatnonzero(loud.any(axis=0))[:3]
        activity = np.zeros((WINDOW_FRAMES, 3), np.float32)
        activity[:, : len(here)] = loud[:, here]
        return activity


class ToneEmbedding:
    """Plays the embedding: a direction for each pitch, with a little of what all voices have in common."""

    name, dimensions = "tones", 192

    def run(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._embed(piece) for piece in pieces]

    def _embed(self, piece: np.ndarray) -> np.ndarray:
        embedding = np.zeros(self.dimensions, np.float32)
        embedding[int(piece.mean(axis=0).argmax())] = 1
        embedding[-1] = 0.2
        return embedding / np.linalg.norm(embedding)


def hum(*parts: tuple[float, Sequence[int]]) -> np.ndarray:
    """Audio of scripted voices: (seconds, who hums)."""
    pieces = []
    for seconds, voices in parts:
        times = np.arange(round(seconds * RATE)) / RATE
        pieces.append(sum((0.1 * np.sin(2 * np.pi * TONES[voice] * times) for voice in voices), 0 * times))
    return np.concatenate(pieces).astype(np.float32)


def begin(diarizer: OnlineDiarizer, latency: float = 5.0, max_speakers: int = 10) -> DiarizationState:
    return diarizer.begin(DiarizationOptions(latency, max_speakers))


def hear(diarizer: OnlineDiarizer, state: DiarizationState, samples: np.ndarray, last: bool = False) -> Settled:
    (settled,) = diarizer.step([Heard(state, samples, last)])
    assert isinstance(settled, Settled), settled
    return settled


def stream(
    diarizer: OnlineDiarizer, state: DiarizationState, samples: np.ndarray, portion: int = 8000, told: float = 0.0
) -> list[SpeakerTurn]:
    """All turns of a clip that comes in portions, checked against the horizons they were told with."""
    turns: list[SpeakerTurn] = []
    for start in range(0, max(1, len(samples)), portion):
        settled = hear(diarizer, state, samples[start : start + portion], last=start + portion >= len(samples))
        assert settled.horizon >= told
        assert all(told <= turn.start < turn.end <= settled.horizon for turn in settled.turns)
        turns += settled.turns
        told = settled.horizon
    return turns


def joined(turns: Sequence[SpeakerTurn]) -> list[tuple[float, float, int]]:
    """Turns as a reader sees them: what goes on at a horizon is one turn; to a tenth of a second."""
    found: list[tuple[float, float, int]] = []
    for speaker in sorted({turn.speaker for turn in turns}):
        for turn in sorted((turn for turn in turns if turn.speaker == speaker), key=lambda turn: turn.start):
            if found and found[-1][2] == speaker and found[-1][1] == turn.start:
                found[-1] = (found[-1][0], turn.end, speaker)
            else:
                found.append((turn.start, turn.end, speaker))
    return sorted((round(start, 1), round(end, 1), speaker) for start, end, speaker in found)


def close(turns: Sequence[SpeakerTurn], expected: Sequence[tuple[float, float, int]]) -> bool:
    """The expected turns, each boundary to a fifth of a second."""
    found = joined(turns)
    return len(found) == len(expected) and all(
        a[2] == b[2] and abs(a[0] - b[0]) < 0.2 and abs(a[1] - b[1]) < 0.2 for a, b in zip(found, expected, strict=True)
    )


@pytest.fixture
def scripted() -> OnlineDiarizer:
    return OnlineDiarizer(ToneSegmentation(), ToneEmbedding())  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def diarizer(store: ModelStore) -> OnlineDiarizer:
    return load_online(*install_networks(store))


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "links", "clusters"),
    [
        ([[1, 0]], {}, [[0]]),
        ([[1, 0], [0, 1], [1, 0]], {}, [[0, 2], [1]]),
        ([[1, 0], [0.6, 0.8], [0, 1]], {}, [[0], [1, 2]]),
        ([[1, 0], [1, 0]], {(0, 1): -0.5}, [[0], [1]]),
        ([[1, 0], [0.4, 0.92]], {(0, 1): 0.2}, [[0, 1]]),
        ([[1, 0], [1, 0], [0.8, 0.6]], {(0, 2): -0.9, (1, 2): -0.9}, [[0, 1], [2]]),
        ([[1, 0], [0, 1], [-1, 0], [0, -1]], {}, [[0], [1], [2], [3]]),
    ],
)
def test_average_linkage(
    vectors: list[list[float]], links: dict[tuple[int, int], float], clusters: list[list[int]]
) -> None:
    """What is alike is merged, the most alike first, and links hold apart or bring together."""
    matrix = np.zeros((len(vectors), len(vectors)))
    for (a, b), value in links.items():
        matrix[a, b] = matrix[b, a] = value
    found = average_linkage(np.array(vectors, float), np.ones(len(vectors)), matrix, 0.55)
    assert [sorted(rows) for rows in found] == clusters


def test_average_linkage_is_weighted() -> None:
    """A heavy cluster is not led away by a light piece; its sum counts with its weight."""
    sums = np.array([[10.0, 0.0], [0.7, 0.7], [0.0, 1.0]])
    found = average_linkage(sums, np.array([10.0, 1.0, 1.0]), np.zeros((3, 3)), 0.55)
    assert found == [[0, 1], [2]]  # 0 and 1: 0.7; then with 2 only 0.06


@pytest.mark.parametrize(
    ("clusters", "labels", "weights", "expected"),
    [
        ([[0], [1]], [-1, -1], [1, 1], [5, 6]),
        ([[0, 1], [2]], [3, -1, -1], [1, 1, 1], [3, 5]),
        ([[0, 1]], [3, 4], [1, 2], [4]),
        ([[0, 1]], [4, 3], [1, 1], [3]),
        ([[0], [1, 2]], [3, 3, 3], [1, 1, 1], [5, 3]),
        ([[0, 1], [2]], [3, 3, 4], [1, 1, 1], [3, 4]),
    ],
)
def test_labels_are_inherited(
    clusters: list[list[int]], labels: list[int], weights: list[float], expected: list[int]
) -> None:
    """A cluster keeps the label of most of its weight, a label goes to one cluster, and new ones count on."""
    found, following = inherit_labels(clusters, np.array(labels), np.array(weights, float), 5)
    assert found == expected and following == max(5, *(label + 1 for label in expected))


def test_gaps_and_runs() -> None:
    """A short silence within one voice is closed, one between two voices is not."""
    active = np.array([[1, 0], [0, 0], [1, 0], [0, 0], [0, 1], [0, 0], [0, 0], [0, 0], [0, 1]], bool)
    filled = fill_gaps(active, 3)
    assert runs(filled[:, 0]) == [(0, 3)] and runs(filled[:, 1]) == [(4, 5), (8, 9)]
    assert runs(np.zeros(4, bool)) == [] and fill_gaps(active[:0], 3).shape == (0, 2)


@pytest.mark.parametrize(
    ("spoken", "known", "pieces"),
    [
        ([], None, []),
        ([(0, 380, 417)], None, [(380, 417)]),
        ([(0, 0, 417)], None, [(358, 417)]),
        ([(0, 0, 380)], None, []),
        ([(0, 390, 417), (1, 380, 417)], None, []),
        ([(0, 350, 417), (1, 300, 380)], None, [(380, 417)]),
        ([(0, 300, 360), (0, 390, 417)], None, [(390, 417)]),
        ([(0, 350, 417)], (0, 380), [(358, 417)]),
        ([(0, 350, 417)], (0, 390), []),
    ],
)
def test_new_pieces(
    spoken: list[tuple[int, int, int]], known: tuple[int, int] | None, pieces: list[tuple[int, int]]
) -> None:
    """A piece is one voice's newest speech alone, not across a pause, at most 1 s, and at least half new."""
    activity, before = np.zeros((WINDOW_FRAMES, 3), bool), np.zeros(WINDOW_FRAMES, bool)
    for speaker, start, end in spoken:
        activity[start:end, speaker] = True
    if known:
        before[known[0] : known[1]] = True
    assert [runs(mask)[0] for mask in new_pieces(activity, before)] == pieces


@pytest.mark.parametrize(
    ("reference", "hypothesis", "parts"),
    [
        ([(0, 10, "a")], [(0, 10, "x")], (0, 0, 0, 10)),
        ([(0, 10, "a")], [(0, 8, "x")], (2, 0, 0, 10)),
        ([(0, 8, "a")], [(0, 10, "x")], (0, 2, 0, 8)),
        ([(0, 6, "a"), (6, 10, "b")], [(0, 10, "x")], (0, 0, 4, 10)),
        ([(0, 6, "a"), (6, 10, "b")], [(0, 6, "x"), (6, 10, "x"), (6, 10, "y")], (0, 4, 0, 10)),
        ([(0, 10, "a"), (4, 6, "b")], [(0, 10, "x")], (2, 0, 0, 12)),
        ([(0, 5, "a"), (5, 10, "b")], [(0, 5, "y"), (5, 10, "x")], (0, 0, 0, 10)),
    ],
)
def test_diarization_error_rate(
    reference: list[tuple[float, float, str]],
    hypothesis: list[tuple[float, float, str]],
    parts: tuple[float, float, float, float],
) -> None:
    """Each kind of mistake in seconds; names do not matter, overlap does."""
    errors = diarization_errors(reference, hypothesis, 10.0, collar=0)
    assert (errors.missed, errors.false_alarm, errors.confusion, errors.speech) == pytest.approx(parts)
    collared = diarization_errors([(2, 8, "a")], [(1.8, 8.2, "x")], 10.0, collar=0.25)
    assert collared.rate == 0 and collared.speech == pytest.approx(5.5)


# --- scripted voices --------------------------------------------------------------------------------------------------


def test_turns_of_scripted_voices(scripted: OnlineDiarizer) -> None:
    """Voices are told apart, numbered in the order in which they come, known again, and heard through each other."""
    samples = hum((1, []), (4, [2]), (3, [0]), (1, [0, 2]), (3, [2]), (2, []), (3, [0]))
    expected = [(1, 5, 1), (5, 9, 2), (8, 12, 1), (14, 17, 2)]
    assert close(stream(scripted, begin(scripted), samples), expected)
    assert close(stream(scripted, begin(scripted, latency=1.0), samples), expected)


@pytest.mark.parametrize("latency", [0.6, 1.0, 5.0])
def test_nothing_waits_longer_than_the_latency(scripted: OnlineDiarizer, latency: float) -> None:
    """The horizon follows the audio at less than the latency, and at half a second less after each window."""
    state = begin(scripted, latency)
    for second in range(1, 15):
        settled = hear(scripted, state, hum((1, [second % 3])))
        assert second - settled.horizon <= latency + 0.05 or settled.horizon == 0 and second <= latency
        assert settled.horizon <= second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DiarizationOptions(latency=0.5), "after 0.6 to 30 s, not 0.5"),
        (DiarizationOptions(latency=31), "not 31"),
        (DiarizationOptions(latency=float("nan")), "not nan"),
        (DiarizationOptions(max_speakers=0), "0 speakers"),
    ],
)
def test_options_that_cannot_be_served(scripted: OnlineDiarizer, options: DiarizationOptions, message: str) -> None:
    """A client that wants the impossible is told so before it is heard."""
    with pytest.raises(RequestError, match=message):
        scripted.begin(options)


def test_pauses_of_a_client(scripted: OnlineDiarizer) -> None:
    """All is told at a pause; afterwards the clock goes on, speakers keep their numbers, and no time is told twice."""
    state = begin(scripted)
    said = [((3.3, [2]),), ((0.2, [2]), (2, [0]), (1, [])), (), ((0.4, []), (2.5, [1]), (2, [0])), ((3, [2]),)]
    told, turns, length = 0.0, [], 0
    for parts in said:
        samples = hum(*parts) if parts else np.zeros(0, np.float32)
        length += len(samples)
        turns += stream(scripted, state, samples, portion=7000, told=told)
        told = length / RATE
        assert hear(scripted, state, samples[:0]).horizon == told == hear(scripted, state, samples[:0], True).horizon
    assert close(turns, [(0, 3.3, 1), (3.3, 3.5, 1), (3.5, 5.5, 2), (6.9, 9.4, 3), (9.4, 11.4, 2), (11.4, 14.4, 1)])


def test_labels_survive_minutes(scripted: OnlineDiarizer) -> None:
    """A speaker who comes back after minutes, when none of its pieces is kept any more, has its number."""
    others = [(6.0, [voice]) for voice in (0, 1, 2) * 6]
    state = begin(scripted)
    turns = stream(scripted, state, hum((6, [3]), *others, (60, []), (6, [3])), portion=RATE)
    assert turns[0].speaker == 1 == turns[-1].speaker and {turn.speaker for turn in turns} == {1, 2, 3, 4}
    assert len(state.ends) <= 100 and state.ends.min() > 10 * RATE / FRAME


def test_more_voices_than_wanted(scripted: OnlineDiarizer) -> None:
    """Voices beyond the limit are taken for others, and the client is told so; nobody is left out."""
    state = begin(scripted, max_speakers=3)
    turns = stream(scripted, state, hum(*((3, [voice]) for voice in (0, 1, 2))))
    assert not hear(scripted, state, hum((0.1, []))).crowded
    turns += stream(scripted, state, hum(*((3, [voice]) for voice in (3, 4, 0))), told=9.0)
    assert {turn.speaker for turn in turns} == {1, 2, 3} and hear(scripted, state, hum((0.1, []))).crowded
    assert turns[0].speaker == 1 == turns[-1].speaker
    enough = begin(scripted, max_speakers=5)
    turns = stream(scripted, enough, hum(*((3, [voice]) for voice in (0, 1, 2, 3, 4, 0))))
    assert {turn.speaker for turn in turns} == {1, 2, 3, 4, 5} and not enough.crowded


def test_memory_is_bounded(scripted: OnlineDiarizer) -> None:
    """After the first minutes a state does not grow."""
    state = begin(scripted)
    sizes = []
    for _ in range(4):
        hear(scripted, state, hum(*((3, [voice]) for voice in (0, 1, 2, 3) * 5)))
        sizes.append(len(state.to_bytes()))
    assert max(sizes) < 2_000_000 and sizes[3] < sizes[2] + 1000


def test_noises_are_forgotten(scripted: OnlineDiarizer) -> None:
    """Voices that nobody heard of do not pile up; a speaker's memory stays, however light it is."""
    count = 300
    state = begin(scripted)
    state.speakers = [7]
    state.embeddings = np.eye(count, ToneEmbedding.dimensions, dtype=np.float32)
    state.masks = np.zeros((count, WINDOW_FRAMES), bool)
    state.masks[:, 60:] = True
    state.masks[7, 80:] = False
    state.ends, state.labels = np.arange(count) + 1000, np.arange(count)
    state.purities, state.links = np.linspace(0.1, 1, count), np.zeros((count, count))
    forget(state)
    assert len(state.ends) == len(state.links) == len(state.labels) == 100
    assert sorted(state.voices) == [7, *range(180, 200)]


@pytest.mark.parametrize("portion", [1000, 8100, 33333])
def test_portions_and_parking_make_no_difference(scripted: OnlineDiarizer, portion: int) -> None:
    """Audio in any portions, with the state written and read in between, gives the same turns."""
    samples = hum((1, []), (4, [2]), (3, [0]), (2, [0, 2]), (3, [1]), (2, []), (3, [0]))
    whole = stream(scripted, begin(scripted), samples, portion=len(samples))
    state, turns = begin(scripted), []
    for start in range(0, len(samples), portion):
        state = scripted.restore(state.to_bytes())
        last = start + portion >= len(samples)
        turns += hear(scripted, state, samples[start : start + portion], last).turns
    assert joined(turns) == joined(whole)


def test_a_failure_is_that_clients_alone(scripted: OnlineDiarizer) -> None:
    """What goes wrong with one client is its result; the others in the batch get theirs."""
    states = [begin(scripted) for _ in range(3)]
    states[1].windows = states[1].windows[:, :1]
    results = scripted.step([Heard(state, hum((2, [1])), last=True) for state in states])
    assert isinstance(results[1], Exception) and results[0] == results[2]
    assert isinstance(results[0], Settled) and close(results[0].turns, [(0, 2, 1)])


def test_broken_state_is_refused(scripted: OnlineDiarizer) -> None:
    """What is no state, or not of this network, or does not fit together, raises an error that callers expect."""
    state = begin(scripted)
    hear(scripted, state, hum((3, [1]), (3, [2])))
    data = state.to_bytes()
    assert scripted.restore(data).to_bytes() == data
    broken = [b"", b"\x10\0\0\0\0\0\0\0not a safetensor", data[:-1], data.replace(b"latency", b"patience")]
    broken += [data.replace(b"tones", b"bells"), data.replace(b"crowded", b"growded"), data.replace(b'"I64"', b'"F64"')]
    broken.append(data.replace(b"heard", b"herds"))
    for change in ({"labels": state.labels[1:]}, {"sums": np.zeros((0, 5))}, {"heard": None}, {"speakers": 1}):
        other = scripted.restore(data)
        vars(other).update(change)
        broken.append(other.to_bytes())
    for content in broken:
        with pytest.raises(ValueError, match="state of a diarization"):
            scripted.restore(content)


# --- real voices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "latency", "limit"), [("derived_2spk", 1, 0.1), ("dev00", 5, 0.2), ("tst00", 5, 0.55)]
)
def test_error_rate(diarizer: OnlineDiarizer, clips: dict[str, Clip], name: str, latency: float, limit: float) -> None:
    """Two readers, a meeting of two and one of four who interrupt each other, somewhat above what was measured."""
    clip = clips[name]
    turns = stream(diarizer, begin(diarizer, latency), clip.samples)
    heard = [(turn.start, turn.end, str(turn.speaker)) for turn in turns]
    reference = read_rttm(AUDIO / f"{name}.rttm")
    assert diarization_errors(reference, heard, len(clip.samples) / RATE, 0.25).rate < limit


def test_real_speaker_comes_back(diarizer: OnlineDiarizer, clips: dict[str, Clip]) -> None:
    """One reader, another, minutes of silence, and the first again with other words: the first's number."""
    first, other, again = (
        clips[f"{name}"].samples for name in ("1688-142285-0003", "1998-15444-0002", "1688-142285-0005")
    )
    silence = np.zeros(150 * RATE, np.float32)
    turns = stream(diarizer, begin(diarizer), np.concatenate([first, other, silence, again]), portion=5 * RATE)
    assert turns[0].speaker == 1 and {turn.speaker for turn in turns} == {1, 2}
    late = [turn for turn in turns if turn.start > 150]
    assert sum(turn.end - turn.start for turn in late if turn.speaker == 1) > 0.7 * len(again) / RATE


def test_batch_equals_alone(diarizer: OnlineDiarizer, clips: dict[str, Clip]) -> None:
    """Three clients at once, in odd portions and parked at every step, get what each gets alone, exactly."""
    samples = [clips[name].samples[: 11 * RATE] for name in ("dev00", "tst00", "derived_2spk")]
    alone = [stream(diarizer, begin(diarizer, n), s, 4 * RATE) for n, s in zip((5, 1, 2), samples, strict=True)]
    states = [begin(diarizer, latency) for latency in (5, 1, 2)]
    together: list[list[SpeakerTurn]] = [[], [], []]
    for start in range(0, 11 * RATE, 12345):
        states = [diarizer.restore(state.to_bytes()) for state in states]
        portions = [s[start : start + 12345] for s in samples]
        last = start + 12345 >= 11 * RATE
        results = diarizer.step([Heard(state, new, last) for state, new in zip(states, portions, strict=True)])
        for turns, settled in zip(together, results, strict=True):
            assert isinstance(settled, Settled)
            turns += settled.turns
    for one, among in zip(alone, together, strict=True):
        assert one and sum(t.end - t.start for t in one) == pytest.approx(sum(t.end - t.start for t in among))
        assert joined(one) == joined(among)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.1, 1.0])
def test_little_audio(diarizer: OnlineDiarizer, clips: dict[str, Clip], seconds: float) -> None:
    """A stream of hardly anything ends without an error; a second of speech has a speaker."""
    state = begin(diarizer)
    samples = clips["1688-142285-0003"].samples[RATE : RATE + round(seconds * RATE)]
    assert hear(diarizer, state, samples) == Settled((), 0.0)
    final = hear(diarizer, state, samples[:0], last=True)
    assert final.horizon == len(samples) / RATE
    assert [turn.speaker for turn in final.turns] == ([1] if seconds == 1 else [])


@pytest.mark.parametrize("name", ["gen_hum50_10s", "stp_background_noise", "pyannote_empty"])
def test_nobody_speaks(diarizer: OnlineDiarizer, clips: dict[str, Clip], name: str) -> None:
    """Hum, background noise and silence have no speakers."""
    state = begin(diarizer)
    assert stream(diarizer, state, clips[name].samples) == [] and not state.speakers
    assert 0 <= state.heard * FRAME - len(clips[name].samples) < HOP * FRAME
