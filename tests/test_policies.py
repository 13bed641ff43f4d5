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
    """AlignAtt commits up to the first token that looks at the last half second, whatever the step before said."""
    assert AlignAtt().stable(evidence([10, 40, 74, 75, 60], [1.0] * 5, [])) == 3


def test_the_less_sure_a_token_is_the_longer_it_waits() -> None:
    """For a probability p another 1.5 (1 - p)² seconds; those behind it wait as well."""
    for probability, frame in ((1.0, 74), (0.6, 62), (0.3, 38), (0.1, 14)):
        assert AlignAtt().stable(evidence([10, frame, 20], [1.0, probability, 1.0], [])) == 3
        assert AlignAtt().stable(evidence([10, frame + 1, 20], [1.0, probability, 1.0], [])) == 1


def test_local_agreement_takes_what_two_steps_share() -> None:
    """Probabilities and attention do not count."""
    assert LocalAgreement().stable(evidence([99, 99, 99], [0.1] * 3, [1, 2, 9])) == 2
