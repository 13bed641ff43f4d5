"""Stages: what is made of a client's audio or words beside the transcript itself (who speaks, translations)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpeakerTurn:
    """Somebody speaks, in seconds on the client's clock; turns may overlap. Speakers count from 1."""

    start: float
    end: float
    speaker: int
