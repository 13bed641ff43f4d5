"""How a hypothesis of a partial step ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wyoming_wlk.engine.biasing import NameTree
from wyoming_wlk.engine.cache import KVCache
from wyoming_wlk.engine.checkpoint import Dimensions
from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.hypothesis import Attempt, Beam, Row
from wyoming_wlk.engine.request import StepKind, StepRequest
from wyoming_wlk.engine.search import Search
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.models import InstalledModel

FRAMES = 200


@pytest.fixture
def search(tiny_en: InstalledModel) -> Search:
    dims = Dimensions(80, 1500, 64, 1, 1, 51864, 448, 64, 1, 1)
    cache = KVCache(dims, 1, torch.float32, torch.device("cpu"))
    return Search(Tokenizer(tiny_en.tokenizer, dims.n_vocab), cache, 447)


def row(kind: StepKind = StepKind.PARTIAL, task: str = "transcribe") -> Row:
    """Over four seconds of audio."""
    context = DecoderContext(ClientOptions(task=task), np.zeros(FRAMES * 320, np.float32))
    made = Row(StepRequest(context, kind, 0.0, "client"), (Attempt(),), sequence=0, frames=FRAMES)
    made.slots, made.beams, made.prefix = [0], [Beam(0)], [50257]
    return made


def say(search: Search, to: Row, token: int, frame: int, probability: float = 0.9, second: int = 7) -> None:
    """The likeliest token and the one behind it, looking at a frame."""
    evidence = torch.zeros(1, 1, FRAMES)
    evidence[0, 0, frame] = 1
    search.extend(to, [[(token, math.log(probability)), (second, math.log(0.05))]], evidence)


def test_a_partial_ends_where_the_audio_does(search: Search, tiny_en: InstalledModel) -> None:
    """A token that looks at the last 0.2 s is the last one, though the model has not said so; in a final it is not."""
    partial, final = row(), row(StepKind.FINAL)
    for each in (partial, final):
        say(search, each, 100, 189)
        assert not each.done
        say(search, each, 101, 190)
    assert partial.done and partial.best.tokens == [100, 101]
    assert not final.done


def test_a_translation_ends_where_the_model_says(search: Search, tiny_en: InstalledModel) -> None:
    """It puts words in another order, so that where it looks tells nothing of how much has been said."""
    partial = row(task="translate")
    say(search, partial, 100, 199)
    assert not partial.done
    say(search, partial, Tokenizer(tiny_en.tokenizer, 51864).eot, 10, 0.4)
    assert partial.done


def test_names_count_once(search: Search) -> None:
    """With one beam their bonus has been counted in the choice of the token; the runner-up does not overtake it."""
    partial = row()
    partial.names = NameTree([[7, 8]])
    say(search, partial, 100, 10, probability=0.6, second=7)
    assert partial.beams[0].tokens == [100]


def test_an_unsure_end_long_before_the_audio_ends(search: Search, tiny_en: InstalledModel) -> None:
    """Somebody has spoken on for 1.5 s and more: the likeliest word is taken instead of the end."""
    eot = Tokenizer(tiny_en.tokenizer, 51864).eot
    for frame, probability, goes_on in ((124, 0.4, True), (125, 0.4, False), (124, 0.6, False)):
        partial = row()
        say(search, partial, 100, frame)
        say(search, partial, eot, frame, probability)
        assert partial.done is not goes_on
        if goes_on:
            assert partial.beams[0].tokens == [100, 7]
    final = row(StepKind.FINAL)
    say(search, final, 100, 10)
    say(search, final, eot, 10, 0.4)
    assert final.done
