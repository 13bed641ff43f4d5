"""Transcriptions as text, subtitles and JSON."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from wyoming_wlk.engine.request import Word
from wyoming_wlk.events import StageNotice
from wyoming_wlk.stages.diarizer import SpeakerTurn
from wyoming_wlk.stages.translator import Translation
from wyoming_wlk.subtitles import columns, cues, diarized_json, plain, rttm, short_json, srt, verbose_json, vtt
from wyoming_wlk.transcription import Segment, Transcription


def spoken(text: str, start: float = 0.0, each: float = 0.4, pauses: dict[int, float] | None = None) -> Segment:
    """Words of `each` seconds without a gap, but for pauses (seconds) before words by number."""
    words = []
    for index, part in enumerate(text.split()):
        start += (pauses or {}).get(index, 0.0)
        words.append(Word(round(start, 3), round(start + each, 3), f" {part}", 0.5, (index,)))
        start += each
    return Segment(tuple(words))


def transcription(*segments: Segment, language: str | None = "en") -> Transcription:
    return Transcription(segments, language, 12.345)


def shown(segments: Sequence[Segment]) -> list[str]:
    return [" / ".join(cue.lines) for cue in cues(segments)]


LONG = (
    "The old house stood at the end of the lane, and nobody had lived there for years. One evening a light was seen "
    "in its upper window; the whole village talked of it, but none of them dared to go up and look for themselves "
    "until the postman came"
)


def test_formats() -> None:
    """The same two segments as text, SubRip and WebVTT."""
    found = transcription(spoken("Turn on the lamp."), spoken("A <b> & c.", start=3661.5))
    assert plain(found) == "Turn on the lamp. A <b> & c.\n"
    assert srt(found) == (
        "1\n00:00:00,000 --> 00:00:01,600\nTurn on the lamp.\n\n2\n01:01:01,500 --> 01:01:03,100\nA <b> & c.\n"
    )
    assert vtt(found) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.600\nTurn on the lamp.\n\n"
        "01:01:01.500 --> 01:01:03.100\nA &lt;b&gt; &amp; c.\n"
    )


def test_nothing_said() -> None:
    """Silence is a valid file in every format."""
    found = transcription(language=None)
    assert (plain(found), srt(found), vtt(found)) == ("\n", "", "WEBVTT\n")
    assert verbose_json(found)["language"] == "" and short_json(found)["text"] == ""


def test_cues_can_be_read() -> None:
    """A long segment becomes cues of two short lines, of a few seconds, in order, with every word once."""
    found = cues([spoken(LONG)])
    assert " ".join(line for cue in found for line in cue.lines) == LONG
    for cue in found:
        assert len(cue.lines) <= 2 and all(columns(line) <= 42 for line in cue.lines)
        assert 0 < cue.end - cue.start <= 7
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))


def test_cues_end_where_a_reader_would_pause() -> None:
    """Where there is a choice, a cue ends with a sentence or a clause, not in mid-phrase."""
    ends = [lines[-1] for lines in shown([spoken(LONG)])]
    assert ends.count(".") >= 1 and sum(end in ".,;" for end in ends[:-1]) >= 3


def test_a_title_ends_no_sentence() -> None:
    """A name stays with its title."""
    text = "They could not help watching his face when Mr. Thornton made a long confession of having been a boy"
    assert not [lines for lines in shown([spoken(text)]) if lines.endswith("Mr.")]


def test_a_pause_parts_cues() -> None:
    """Words after seconds of silence are not shown before they are said."""
    assert shown([spoken("Wait for it now", pauses={3: 2.0})]) == ["Wait for it", "now"]


def test_short_words_stay_on_the_screen() -> None:
    """A cue lasts long enough to be read, unless the next one follows at once."""
    alone, pair = cues([spoken("No.", each=0.2)]), cues([spoken("No.", each=0.2), spoken("Yes.", 0.5, 0.2)])
    assert alone[0].end == pytest.approx(0.8) and pair[0].end == pytest.approx(0.5)


def test_dense_scripts() -> None:
    """Characters of double width count double, and words without spaces are not given any."""
    words = tuple(Word(index * 0.2, index * 0.2 + 0.2, character, 0.5) for index, character in enumerate("漢字" * 30))
    found = cues([Segment(words)])
    assert "".join(line for cue in found for line in cue.lines) == "漢字" * 30
    assert all(columns(line) <= 42 for cue in found for line in cue.lines)


def test_one_endless_word() -> None:
    """What cannot be divided is shown as it is."""
    assert shown([Segment((Word(0.0, 20.0, "a" * 200, 0.5),))]) == ["a" * 200]


def test_verbose_json() -> None:
    """OpenAI's shape, with words only where they are wanted, and a translation is English."""
    found = verbose_json(transcription(spoken("Turn on."), language="de"), words=True)
    assert (found["task"], found["language"], found["duration"]) == ("transcribe", "german", 12.345)
    assert found["usage"] == {"type": "duration", "seconds": 13}
    assert found["words"][1] == {"word": "on.", "start": 0.4, "end": 0.8, "probability": 0.5}
    (segment,) = found["segments"]
    assert (segment["id"], segment["start"], segment["end"], segment["text"]) == (0, 0.0, 0.8, " Turn on.")
    assert segment["tokens"] == [0, 1] and segment["avg_logprob"] == pytest.approx(-0.6931, abs=1e-3)
    translated = verbose_json(transcription(language="de"), "translate", segments=False)
    assert translated["language"] == "english" and "segments" not in translated and "words" not in translated


def test_speakers() -> None:
    """A line, a name or a voice for each speaker, in every format; whoever is not known is somebody."""
    spoken_by = [(1, "Are you there?"), (1, "Hello?"), (2, "Yes."), (None, "Hm.")]
    segments = [
        replace(spoken(text, start=3.0 * number), speaker=speaker) for number, (speaker, text) in enumerate(spoken_by)
    ]
    found = transcription(*segments)
    assert plain(found) == "Speaker 1: Are you there? Hello?\nSpeaker 2: Yes.\nSomebody: Hm.\n"
    assert [block.split("\n")[2] for block in srt(found).split("\n\n")] == [
        "Speaker 1: Are you there?",
        "Hello?",
        "Speaker 2: Yes.",
        "Hm.",
    ]
    assert "<v Speaker 2>Yes.\n" in vtt(found) and "\nHm.\n" in vtt(found)
    assert [segment.get("speaker") for segment in verbose_json(found)["segments"]] == [1, 1, 2, None]
    letters = [segment["speaker"] for segment in diarized_json(transcription(*segments[:3]))["segments"]]
    assert letters == ["A", "A", "B"]


def test_translations() -> None:
    """JSON has both texts and what there is to say about them; to be read is the translation, where there is one."""
    segments = [replace(spoken("Guten Tag."), translations=(Translation(0.0, 0.8, " Good day."),)), spoken("Ja.", 2.0)]
    notices = (StageNotice("translation", "it is too far behind", failed=True),)
    found = Transcription(tuple(segments), "de", 3.0, notices=notices)
    assert plain(found) == "Good day. Ja.\n"
    for json in (short_json(found), verbose_json(found)):
        assert (json["text"], json["translation"]) == ("Guten Tag. Ja.", "Good day.")
        assert json["notices"] == ["it is too far behind"]
    assert [segment.get("translation") for segment in diarized_json(found)["segments"]] == [" Good day.", None]
    assert diarized_json(found)["notices"] == ["it is too far behind"]
    assert not {"translation", "notices"} & short_json(transcription(spoken("Ja."))).keys()


def test_rttm() -> None:
    """A line for each turn, with a name that is one word."""
    turns = [SpeakerTurn(0.5, 2.25, 1), SpeakerTurn(2.0, 3.0, 2)]
    assert rttm(turns, "my talk") == (
        "SPEAKER my_talk 1 0.500 1.750 <NA> <NA> speaker_1 <NA> <NA>\n"
        "SPEAKER my_talk 1 2.000 1.000 <NA> <NA> speaker_2 <NA> <NA>\n"
    )
    assert rttm([], "x") == ""
