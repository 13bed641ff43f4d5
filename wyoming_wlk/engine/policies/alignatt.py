"""AlignAtt: commit tokens whose attention stays clear of the audio's end (Papi et al., arXiv 2305.11408; for Whisper
arXiv 2406.10052)."""

from __future__ import annotations

from wyoming_wlk.engine.policies import Evidence, agreement

_SURE = 0.8
"""From this probability on a token needs no second hypothesis that has it."""

_UNSURE = 0.3
"""Below this probability the model has a second opinion: such a token waits until more has been heard after it."""

_SETTLED_FRAMES = 60


class AlignAtt:
    """Two guards on top of the papers' rule: the previous step must have had a token of which the model is not sure,
    and one of which it is unsure waits until it lies 1.2 s back."""

    def stable(self, evidence: Evidence) -> int:
        limit = evidence.audio_frames - evidence.frame_threshold
        settled = evidence.audio_frames - _SETTLED_FRAMES
        agreed = agreement(evidence)
        for index, (frame, probability) in enumerate(zip(evidence.frames, evidence.probabilities, strict=True)):
            doubtful = index >= agreed and probability < _SURE
            if frame >= limit or doubtful or (probability < _UNSURE and frame >= settled):
                return index
        return len(evidence.tokens)
