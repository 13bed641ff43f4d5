"""What Wyoming has no message for: speakers and translations, as a `user-event` behind the transcript."""

from __future__ import annotations

from typing import Any

from wyoming.event import Event as Message
from wyoming.user_event import UserEvent

from wyoming_wlk.captions import joined
from wyoming_wlk.engine.context import ClientOptions
from wyoming_wlk.events import Event, SegmentEnded, StageNotice, TranslationUpdate
from wyoming_wlk.segments import SegmentNumbers

NAME = "wyoming-wlk"
"""Of the user-event."""


class Extras:
    """Of one utterance."""

    def __init__(self) -> None:
        self._numbers = SegmentNumbers()
        self._segments: dict[int, dict[str, Any]] = {}
        self._notices: list[str] = []

    async def take(self, event: Event) -> None:
        """What comes out of the stages."""
        number = self._numbers.take(event)
        if isinstance(event, SegmentEnded):
            self._segment(number).update(
                start=round(event.words[0].start, 3),
                end=round(event.words[-1].end, 3),
                text=joined(event.words).strip(),
                speaker=event.speaker,
            )
        elif isinstance(event, TranslationUpdate) and event.stable:
            segment = self._segment(event.segment)
            segment["translation"] += "".join(part.text for part in event.stable)
        elif isinstance(event, StageNotice):
            self._notices.append(event.text)

    def message(self, options: ClientOptions, context: dict[str, Any] | None) -> Message:
        """Segments in order: of one speaker each where the client asked for speakers, translated where it asked."""
        segments = [self._segments[number] for number in sorted(self._segments)]
        for segment in segments:
            segment["translation"] = segment["translation"].strip()
        data: dict[str, Any] = {"segments": segments, "notices": self._notices}
        if options.target_language:
            data["target_language"] = options.target_language
        return UserEvent(NAME, data, context).event()

    def _segment(self, number: int) -> dict[str, Any]:
        return self._segments.setdefault(number, {"translation": ""})
