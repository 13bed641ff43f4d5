"""The load generator of the benchmarks: which words count from when, what is lost, its plots, and one small crowd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import AUDIO
from serving import serving

from benchmarks import crowds, virtual
from benchmarks.clips import SAMPLE_RATE, Clip, load_clips, normalize
from benchmarks.crowds import Load, crowd
from benchmarks.load_tables import plots, print_loads
from benchmarks.observed import Snapshot, of_services, parse
from benchmarks.plots import Line, Plot
from benchmarks.talkers import COMMANDS, LEAVES, Habit, Sound, Take, Talker, asr_door, session_door, wyoming_door
from benchmarks.words import Delay, SaidWord, Told, delays, first_times, last_voiced, matches, timed
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

SVG = "{http://www.w3.org/2000/svg}"


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "hypothesis", "pairs"),
    [
        ("a b c", "a b c", [(0, 0), (1, 1), (2, 2)]),
        ("a b c", "a x c", [(0, 0), (2, 2)]),
        ("a b c", "a c", [(0, 0), (2, 1)]),
        ("a c", "a b c", [(0, 0), (1, 2)]),
        ("a b", "", []),
        ("", "a", []),
    ],
)
def test_matches(reference: str, hypothesis: str, pairs: list[tuple[int, int]]) -> None:
    """Equal words are paired across insertions, deletions and substitutions."""
    assert matches(reference.split(), hypothesis.split()) == pairs


def test_words_of_a_text_get_the_times_of_those_that_were_heard() -> None:
    """Parts of a word that normalization takes apart end with it; what was not heard has no time."""
    heard = [(" Mr.", 0.5), (" Twenty-one", 1.5), (" goes.", 2.0)]
    ends = [("mister", 0.5), ("twenty", 1.5), ("one", 1.5), ("boys", None)]
    assert timed("mister twenty one boys", heard) == [SaidWord(text, end) for text, end in ends]


@pytest.mark.parametrize(
    ("word", "end"),
    [((0.0, 0.4), 0.4), ((0.3, 1.8), 1.0), ((0.9, 2.2), 2.2), ((1.2, 1.8), 1.8), ((3.15, 3.9), 3.2)],
)
def test_a_pause_is_no_part_of_the_word_before_it(word: tuple[float, float], end: float) -> None:
    """A word ends with the last speech in it; where there is none, alignment is right."""
    assert last_voiced(*word, [(0.1, 1.0), (2.0, 3.0), (3.1, 3.2)]) == end


def test_first_times() -> None:
    """A word counts from the first text that has it at its place, whatever came in between."""
    texts = [(1.0, "a"), (2.0, "a d"), (3.0, "A, b!"), (4.0, "a x c"), (5.0, "a b c")]
    assert first_times("a b c".split(), texts) == [1.0, 3.0, 4.0]


def test_delays() -> None:
    """Settled and first shown times count from the word's end; words without an end, or not heard, do not count."""
    said = [SaidWord("one", 0.5), SaidWord("two", None), SaidWord("three", 1.5), SaidWord("four", 2.0)]
    told = [
        Told(1.0, "", " one too"),
        Told(1.6, "One", " too three"),
        Told(3.0, "One too three"),
        Told(4.0, "One too three five"),
    ]
    assert delays(said, told) == [Delay(0.5, 1.6 - 0.5, 1.0 - 0.5), Delay(1.5, 3.0 - 1.5, 1.6 - 1.5)]
    settled = [Told(message.time, message.committed) for message in told]
    assert [delay.shown for delay in delays(said, settled)] == [None, None]
    assert delays(said, []) == []


# --- figures ----------------------------------------------------------------------------------------------------------


def clip(name: str, text: str, seconds: float = 1.0) -> Clip:
    return Clip(Path(name), np.zeros(int(seconds * SAMPLE_RATE), np.float32), text)


def snapshot(time: float, heard: float | None = None) -> Snapshot:
    metrics = {} if heard is None else {"wlk_audio_seconds_total": heard, "wlk_busy_seconds_total": heard / 10}
    return Snapshot(time, cpu=2 * time, own_cpu=0.1 * time, foreign=0.0, peak_memory=100.0, metrics=metrics)


def load(takes: Sequence[Take], heard: float | None = None) -> Load:
    """Measured from 10 to 20 s."""
    around = [snapshot(time, None if heard is None else heard * time / 20) for time in (0.0, 10.0, 20.0, 20.0)]
    return Load("a server", 2, takes, *around)


def test_a_take_is_told_against_all_its_sounds() -> None:
    """Words of a later clip end that much later; silence and halves are sent, and nobody waits for their words."""
    first = Sound.of(clip("1", "one", 1.05), [SaidWord("one", 0.5)])
    second = Sound.of(clip("2", "two three"), [SaidWord("two", 0.25), SaidWord("three", None)])
    take = Take([first, Sound.silence(2.0), second], told=[Told(4.0, " One two."), Told(5.0, " One two. Three.")])
    assert take.seconds == pytest.approx(4.05)
    assert [len(chunk) for chunk in first.chunks] == [3200] * 10 + [1600]
    assert (take.text, take.committed) == ("one two three", " One two. Three.")
    assert [delay.end for delay in take.delays()] == pytest.approx([0.5, 3.3])
    assert [delay.committed for delay in take.delays()] == pytest.approx([3.5, 0.7])
    assert (second.half().seconds, second.half().clip, second.half().words) == (0.5, None, ())


def test_what_counts_and_what_is_lost() -> None:
    """Words count where they are spoken while it is measured; errors, silence for an answer and lost audio do not
    pass for one another, and who leaves is owed no answer."""
    sound = Sound.of(clip("1", "one two"), [SaidWord("one", 0.25), SaidWord("two", 0.75)])
    told = [Told(1.0, "one"), Told(2.0, "one two")]
    good = Take([sound], began=9.5, sent=1.0, told=told, transcript="one too")
    late = replace(good, began=30.0)
    broken = Take([sound], began=12.0, sent=0.5, error="closed")
    silent = Take([sound], began=13.0, sent=1.0, transcript="")
    gone = Take([sound.half()], leaves=True, began=14.0, sent=0.5)
    found = load([good, late, broken, silent, gone], heard=3.75)
    assert found.delays == [Delay(0.75, 1.25, None)]
    assert [delay.committed for delay in found.first_words] == [0.75, 0.75]
    assert found.counted == 4 / 8
    assert (found.failed, found.unanswered) == (1, 1)
    assert found.lost_audio == pytest.approx(0.25)
    assert found.share("wlk_busy_seconds_total") == pytest.approx(3.75 / 10 / 2 / 10)
    offline = {Path("1"): "one three"}
    assert found.errors_of_chunks(offline) == (0.5, 0.5)
    assert found.errors_of_transcripts(offline) == pytest.approx((4 / 6, 0.5))


def test_tables_of_a_server_that_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not known is a dash, in tables whose rows are as long as their headers."""
    print_loads([load([])], {}, "nobody speaks")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 9
    for header, line, row in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert header.count("|") == line.count("|") == row.count("|")
        assert row.startswith("| a server | 2 |") and "nan" not in row and "–" in row


def test_metrics_are_read_with_their_quantiles() -> None:
    """A quantile is found by its name, a total under Prometheus' name for it."""
    text = 'wlk_x{quantile="0.5"} 1.5\nwlk_x{quantile="0.95"} 2\n# TYPE wlk_y counter\nwlk_y_total 3\n'
    assert parse(text) == {"wlk_x:0.5": 1.5, "wlk_x:0.95": 2.0, "wlk_y_total": 3.0}


# --- plots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logarithmic", [True, False])
@pytest.mark.parametrize(
    "points", [[(1, 0.4), (24, 17.0)], [(1, 3.0)], [(1, 0.0), (2, 0.0), (3, 0.02)], [(1, 0.0)], [(1, 5.0), (2, 5.0)]]
)
def test_plots_are_svg_with_every_point_inside(points: list[tuple[float, float]], logarithmic: bool) -> None:
    """The text is XML, also with awkward names, and higher values are drawn higher."""
    plot = Plot("a < b & c", "x", "y", [Line("one", "g", points), Line("two", "g", points[:1])], logarithmic)
    root = ElementTree.fromstring(plot.svg())
    circles = [circle.attrib for circle in root.iter(f"{SVG}circle")][: len(points)]
    heights = [float(circle["cy"]) for circle in circles]
    assert all(0 < height < 360 for height in heights) and all(0 < float(c["cx"]) < 720 for c in circles)
    assert heights == sorted(heights, reverse=True)
    assert [("stroke-dasharray" in line.attrib) for line in root.iter(f"{SVG}polyline")] == [False, True]


def test_plots_of_loads() -> None:
    """Each server has its lines, as has the offline peer."""
    sound = Sound.of(clip("1", "one"), [SaidWord("one", 0.5)])
    one = load([Take([sound], began=10.0, told=[Told(1.0, "one")])])
    drawn = plots([one, replace(one, clients=4), replace(one, name="a peer")], {Path("1"): "none"})
    assert drawn.keys() == {"word-delay.svg", "word-error-rate.svg"}
    delays_of, errors_of = (ElementTree.fromstring(svg) for svg in drawn.values())
    assert len(list(delays_of.iter(f"{SVG}polyline"))) == 4
    assert len(list(errors_of.iter(f"{SVG}polyline"))) == 3


# --- crowds -----------------------------------------------------------------------------------------------------------


def sounds(kind: str, limit: int) -> list[Sound]:
    """Recorded clips whose words are said to end evenly."""
    found = load_clips(AUDIO, kind, "en")[:limit]
    spread = [(clip, normalize(clip.text).split()) for clip in sorted(found, key=lambda clip: len(clip.samples))]
    return [
        Sound.of(
            clip,
            [SaidWord(word, (i + 1) / len(words) * len(clip.samples) / SAMPLE_RATE) for i, word in enumerate(words)],
        )
        for clip, words in spread
    ]


async def test_a_small_crowd_over_real_sockets(engine: Engine, vad: SileroVad, monkeypatch: pytest.MonkeyPatch) -> None:
    """One client of each door, and one that leaves through each: all words come, and the server heard all audio."""
    monkeypatch.setattr(crowds, "RAMP_SECONDS", 0.2)
    async with serving(engine, vad) as server:
        await server.loading
        doors = [
            (asr_door(f"ws{server.url.removeprefix('http')}/asr?audio=pcm"), True),
            (wyoming_door(server.uri), False),
        ]
        talkers = [Talker(*door, habit) for door in doors for habit in (Habit(), LEAVES)]
        found = await crowd("ours", talkers, {"short": sounds("short", 2)[:1]}, 2.0, of_services(server.services))
        assert server.services.clients == 0
    assert (found.failed, found.unanswered) == (0, 0)
    assert found.lost_audio == pytest.approx(0.0, abs=0.001)
    stream, utterance = found.finished
    assert all(take.final is not None for take in found.finished)
    assert stream.transcript is None and utterance.transcript
    assert found.errors_of_chunks({})[0] < 0.2 and found.errors_of_transcripts({})[0] < 0.2
    assert all(delay.shown is not None and delay.shown <= delay.committed for delay in stream.delays())
    assert all(delay.shown is None for delay in utterance.delays())
    assert len(found.takes) > len(found.finished) and all(0 < take.sent < take.seconds + 0.1 for take in found.takes)


def test_a_crowd_in_virtual_time(engine: Engine, vad: SileroVad) -> None:
    """Sessions without sockets give the same figures: streams, and commands between which a client is away."""

    async def main(clock: virtual.Clock) -> Load:
        async with serving(engine, vad) as server:
            await server.loading
            door = session_door(server.services)
            talkers = [Talker(door, True), Talker(door, False, COMMANDS), Talker(door, False, LEAVES)]
            kinds = {kind: sounds(kind, 3) for kind in ("short", "command")}
            return await crowd("ours", talkers, kinds, 5.0, of_services(server.services))

    found = virtual.run(main)
    assert (found.failed, found.unanswered) == (0, 0)
    assert found.lost_audio == pytest.approx(0.0, abs=0.001)
    assert found.after.time - found.before.time == pytest.approx(5.0, abs=1.0)
    stream = max(found.finished, key=lambda take: take.seconds)
    assert stream.seconds > 15 and len(stream.clips) >= 3
    assert len(found.finished) > 3 and found.delays
    assert found.after.metrics["wlk_batch_size:0.5"] >= 1 and found.share("wlk_decoder_seconds_total") > 0
