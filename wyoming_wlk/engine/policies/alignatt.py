"""AlignAtt: commit tokens whose attention stays clear of the audio's end (Papi et al., arXiv 2305.11408; for Whisper
arXiv 2406.10052)."""

from __future__ import annotations

from wyoming_wlk.engine.policies import Evidence

_DOUBT_FRAMES = 75
"""What a token of probability 0 waits beyond the threshold: 1.5 seconds."""


class AlignAtt:
    """The papers' rule, and of what the model is not sure it waits until more has been heard after it: for a token of
    probability p another 1.5 (1 - p)² seconds."""

    def stable(self, evidence: Evidence) -> int:
        limit = evidence.audio_frames - evidence.frame_threshold
        for index, (frame, probability) in enumerate(zip(evidence.frames, evidence.probabilities, strict=True)):
            if frame >= limit - _DOUBT_FRAMES * (1 - probability) ** 2:
                return index
        return len(evidence.tokens)
