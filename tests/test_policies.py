"""What the streaming policies commit, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from wyoming_wlk.engine.policies import Evidence
from wyoming_wlk.engine.policies.alignatt import AlignAtt
from wyoming_wlk.engine.policies.local_agreement import LocalAgreement


def evidence(frames: Sequence[int], probabilities: Sequence[float], previous: Sequence[int]) -> Evidence:
    """Tokens 1, 2, 3 ... over two seconds of audio; half a second of it is too new."""
    return Evidence(list(range(1, len(frames) + 1)), frames, probabilities, 100, 25, previous)


def test_tokens_near_the_end_wait() -> None:
    """AlignAtt commits up to the first token that looks at the last half second."""
    assert AlignAtt().stable(evidence([10, 40, 74, 75, 60], [0.9] * 5, [1, 2, 3, 4, 5])) == 3


def test_a_sure_token_needs_no_second_hypothesis() -> None:
    """From 0.8 on a token is committed the first time; what is less sure must have been there before."""
    assert AlignAtt().stable(evidence([10, 20, 30], [0.9, 0.85, 0.8], [])) == 3
    assert AlignAtt().stable(evidence([10, 20, 30], [0.9, 0.79, 0.9], [])) == 1
    assert AlignAtt().stable(evidence([10, 20, 30], [0.9, 0.79, 0.9], [1, 2])) == 3


def test_an_unsure_token_waits_until_it_lies_back() -> None:
    """Under 0.3 it takes 1.2 s of audio behind a token, whatever the step before said."""
    assert AlignAtt().stable(evidence([39, 50], [0.2, 0.9], [1, 2])) == 2
    assert AlignAtt().stable(evidence([40, 50], [0.2, 0.9], [1, 2])) == 0


def test_local_agreement_takes_what_two_steps_share() -> None:
    """Probabilities and attention do not count."""
    assert LocalAgreement().stable(evidence([99, 99, 99], [0.1] * 3, [1, 2, 9])) == 2
