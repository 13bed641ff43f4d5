"""Names that the decoder should expect: a bonus for each token that begins a name or goes on with one.

Shallow fusion with a prefix tree, as in contextual speech recognition (Zhao et al., Interspeech 2019): a hypothesis
gets the bonus as it grows and gives it back where the name breaks off. The search adds it up; here are plain data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wyoming_wlk.engine.tokenizer import Tokenizer

BEAMS = 5
"""Fewer lose a name before its second token has shown that it is one."""

_BEGIN, _BEGIN_ALONE, _GO_ON = 2.5, 1.0, 4.0
"""Nats, for the first token, for the first token where there is one beam (which cannot give it back), and for the
others. Found on synthesised commands; see benchmarks/names.py."""

_MAX_TOKENS = 8000
"""In the tree of one client; names beyond it are left out."""

_COMMON_TOKENS = 1000
"""The vocabulary begins with the commonest: " the", " on", " two"; " light" and " office" come later."""

_KEPT_TREES = 16


@dataclass(eq=False)
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    complete: bool = False


@dataclass(frozen=True)
class Match:
    """How far a hypothesis is in the names that may go on, and the bonus it has earned."""

    nodes: tuple[_Node, ...] = ()
    earned: float = 0.0
    pending: float = 0.0
    """For tokens since the last complete name: lost where no name goes on."""


class NameTree:
    """The names that one client expects."""

    def __init__(self, spellings: Sequence[Sequence[int]]) -> None:
        """`spellings`: each way to write a name, as tokens."""
        self._root = _Node()
        for tokens in spellings:
            node = self._root
            for token in tokens:
                node = node.children.setdefault(token, _Node())
            node.complete = True

    def __bool__(self) -> bool:
        return bool(self._root.children)

    def bonuses(self, match: Match, alone: bool) -> dict[int, float]:
        """What each token that belongs to a name is worth next. `alone`: the hypothesis is the only one."""
        begin = dict.fromkeys(self._root.children, _BEGIN_ALONE if alone else _BEGIN)
        return begin | {token: _GO_ON for node in match.nodes for token in node.children}

    def match(self, tokens: Sequence[int]) -> Match:
        """The match of a hypothesis."""
        match = Match()
        for token in tokens:
            match = self.step(match, token)
        return match

    def step(self, match: Match, token: int) -> Match:
        """The match after one more token of the hypothesis."""
        nodes = [node.children[token] for node in match.nodes if token in node.children]
        earned, pending = match.earned, match.pending
        if nodes:
            pending += _GO_ON
        else:
            pending = _BEGIN if token in self._root.children else 0.0
        if token in self._root.children:
            nodes.append(self._root.children[token])
        if any(node.complete for node in nodes):
            earned, pending = earned + pending, 0.0
        return Match(tuple(node for node in nodes if node.children), earned, pending)


class NameTrees:
    """Makes the trees of all clients, and keeps those used last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._trees: dict[tuple[str, ...], NameTree] = {}

    def tree(self, names: tuple[str, ...]) -> NameTree:
        """`names`: those that matter most come first."""
        tree = self._trees.pop(names, None) or NameTree(self._spellings(names))
        self._trees[names] = tree  # dicts keep their order: the first is the one unused for longest
        if len(self._trees) > _KEPT_TREES:
            del self._trees[next(iter(self._trees))]
        return tree

    def _spellings(self, names: tuple[str, ...]) -> list[list[int]]:
        spellings: list[list[int]] = []
        room = _MAX_TOKENS
        for name in (" ".join(name.split()) for name in names):
            if self._is_in_all_speech(name):
                continue
            for form in dict.fromkeys((name, name.lower(), name.capitalize(), name.title())):
                tokens = self._tokenizer.encode(" " + form)
                room -= len(tokens)
                if room < 0:
                    return spellings
                spellings.append(tokens)
        return spellings

    def _is_in_all_speech(self, name: str) -> bool:
        """A bonus for blanks, commas or "the" would spoil what else is said, and the model knows them best anyway."""
        tokens = self._tokenizer.encode(" " + name.lower())
        return not any(map(str.isalnum, name)) or (len(tokens) == 1 and tokens[0] < _COMMON_TOKENS)
