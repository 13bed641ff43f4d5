"""Names in a prefix tree: what they are worth to a hypothesis, token by token. No model but its vocabulary."""

from __future__ import annotations

from wyoming_wlk.engine import biasing
from wyoming_wlk.engine.biasing import Match, NameTree
from wyoming_wlk.engine.hypothesis import Beam
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.models import InstalledModel

PARTY, TIME, LAMP, SHADE, OTHER = 1, 2, 3, 4, 5
TREE = NameTree([[PARTY, TIME], [LAMP], [LAMP, SHADE]])
BEGIN = TREE.bonuses(Match(), alone=False)[PARTY]
GO_ON = TREE.bonuses(TREE.step(Match(), PARTY), alone=False)[TIME]


def after(*tokens: int, tree: NameTree = TREE) -> Match:
    return tree.match(tokens)


def test_a_name_earns_its_bonus_when_it_is_complete() -> None:
    """Until then it may be lost."""
    assert (after(PARTY).earned, after(PARTY).pending) == (0, BEGIN)
    assert (after(PARTY, TIME).earned, after(PARTY, TIME).pending) == (BEGIN + GO_ON, 0)


def test_a_name_that_breaks_off_gives_its_bonus_back() -> None:
    """A hypothesis that only began like a name is worth what it would be without."""
    assert after(PARTY, OTHER) == after(OTHER) == Match()
    assert after(OTHER, PARTY, PARTY).pending == BEGIN


def test_a_longer_name_begins_like_a_shorter_one() -> None:
    """The shorter one is earned; more is earned with the longer one."""
    assert after(LAMP).earned == BEGIN
    assert after(LAMP, OTHER).earned == BEGIN
    assert after(LAMP, SHADE).earned == BEGIN + GO_ON


def test_names_follow_each_other() -> None:
    """Each earns its own."""
    assert after(PARTY, TIME, OTHER, LAMP).earned == 2 * BEGIN + GO_ON
    assert after(LAMP, LAMP).earned == 2 * BEGIN


def test_the_tokens_that_are_worth_something() -> None:
    """The first ones anywhere, the others behind their first; less to begin where it cannot be given back."""
    assert TREE.bonuses(Match(), alone=False) == {PARTY: BEGIN, LAMP: BEGIN}
    assert TREE.bonuses(after(PARTY), alone=False) == {PARTY: BEGIN, LAMP: BEGIN, TIME: GO_ON}
    assert TREE.bonuses(Match(), alone=True)[PARTY] < BEGIN


def test_no_names() -> None:
    """Nothing is worth anything."""
    nothing = NameTree([])
    assert not nothing and not nothing.bonuses(Match(), alone=False)
    assert after(PARTY, TIME, tree=nothing) == Match()


class Letters:
    """A tokenizer of single characters."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_names_as_the_model_may_write_them() -> None:
    """From the space before them, in any usual case; the tree of the same names is made once."""
    trees = biasing.NameTrees(Letters())  # type: ignore[arg-type]
    tree = trees.tree(("mood Lighting",))
    for written in ("mood Lighting", "mood lighting", "Mood Lighting", "Mood lighting"):
        assert after(*map(ord, f" {written}"), tree=tree).earned > 0
    assert after(*map(ord, "mood lighting"), tree=tree).earned == 0
    assert trees.tree(("mood Lighting",)) is tree


def test_a_very_long_list_is_cut_at_its_end() -> None:
    """What matters most comes first, and stays."""
    names = tuple(f"Lamp number {number}" for number in range(5000))
    tree = biasing.NameTrees(Letters()).tree(names)  # type: ignore[arg-type]
    assert after(*map(ord, " Lamp number 0"), tree=tree).earned > 0
    assert after(*map(ord, " Lamp number 4999"), tree=tree).pending == 0
    assert not biasing.NameTrees(Letters()).tree(("x" * 10_000,))  # type: ignore[arg-type]


def test_names_that_are_none() -> None:
    """Blanks and marks are in all speech: nobody expects them. Blanks around and within a name are one at most."""
    trees = biasing.NameTrees(Letters())  # type: ignore[arg-type]
    assert not trees.tree(("", " ", "\0", ",", "...", "\u200f"))
    tree = trees.tree(("", "  Mood\n Lighting\t"))
    assert after(*map(ord, " Mood Lighting"), tree=tree).earned > 0


def test_words_of_all_speech(tiny_en: InstalledModel, base: InstalledModel) -> None:
    """The commonest words are no names, in whatever case; other words are, and names that hold common words."""
    for model, size in ((tiny_en, 51864), (base, 51865)):
        trees = biasing.NameTrees(Tokenizer(model.tokenizer, size))
        assert not trees.tree(("the", "The", "A", "On", "is", "TO", "and", "it"))
        for name in ("Light", "Office", "TV", "Lamp", "The Lamp", "Is It On", "Küche"):
            assert trees.tree((name,)), name


def test_what_is_cut_off_earns_nothing() -> None:
    """A name that the model says over and over is worth what is left of it."""
    beam = Beam(0, [LAMP] * 6, [-0.1] * 6, match=after(*[LAMP] * 6))
    assert beam.shortened(5, TREE).match == after(LAMP)
