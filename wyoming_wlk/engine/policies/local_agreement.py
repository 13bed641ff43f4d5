"""LocalAgreement-2: commit what two successive hypotheses agree on (Liu et al., Interspeech 2020; for Whisper Macháček
et al., arXiv 2307.14743)."""

from __future__ import annotations

from wyoming_wlk.engine.policies import Evidence


class LocalAgreement:
    """The longest common prefix of the last two hypotheses."""

    def stable(self, evidence: Evidence) -> int:
        length = 0
        for new, old in zip(evidence.tokens, evidence.previous, strict=False):
            if new != old:
                break
            length += 1
        return length
