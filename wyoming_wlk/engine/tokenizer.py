"""Whisper's vocabulary: text to tokens and back, special tokens, and tokens grouped into words.

Text tokens come from the model's ``tokenizer.json``; special tokens are computed from the vocabulary's size, because
their order is fixed and one tokenizer file then serves every model of its family.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as _HubTokenizer

from wyoming_wlk.errors import ModelError
from wyoming_wlk.languages import LANGUAGES, UNSPACED

_ENGLISH_VOCABULARY = 51864
_REPLACEMENT = "\ufffd"
# What Whisper writes for sounds rather than speech; OpenAI suppresses these in transcripts.
_NON_SPEECH = list('"#()*+/:;<=>@[\\]^_`{|}~「」『』') + (
    "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split()
)
_MUSIC = "♩♪♫♬♭♮♯"


class Tokenizer:
    """The tokens of one model. Immutable and shared by all clients."""

    def __init__(self, file: Path, n_vocab: int) -> None:
        """Raises `ModelError` where `file` is no tokenizer of Whisper's."""
        try:
            self._hub = _HubTokenizer.from_str(_repair(file.read_text("utf-8")))
        except Exception as err:  # the library raises bare Exception
            raise ModelError(f"cannot read tokenizer {file}: {err}") from err
        self._hub.encode_special_tokens = True  # "<|endoftext|>" in somebody's prompt is text like any other
        self.multilingual = n_vocab > _ENGLISH_VOCABULARY
        self.eot = 50257 if self.multilingual else 50256
        if self._hub.token_to_id("<|endoftext|>") != self.eot:
            raise ModelError(f"tokenizer {file} does not belong to a model with {n_vocab} tokens")
        self.sot = self.eot + 1
        language_count = n_vocab - 51765 - self.multilingual
        self.languages: tuple[str, ...] = tuple(LANGUAGES)[:language_count] if self.multilingual else ("en",)
        after = self.sot + 1 + language_count
        self.translate, self.transcribe, self.sot_lm, self.sot_prev = after, after + 1, after + 2, after + 3
        self.no_speech, self.no_timestamps, self.timestamp_begin = after + 4, after + 5, after + 6
        self.space = self._single(" ")

    def language_token(self, language: str) -> int:
        return self.sot + 1 + self.languages.index(language)

    def start_sequence(self, language: str, task: str) -> list[int]:
        """What stands before the text: start of transcript and, where the model knows several, language and task."""
        if not self.multilingual:
            return [self.sot, self.no_timestamps]
        task_token = self.translate if task == "translate" else self.transcribe
        return [self.sot, self.language_token(language), task_token, self.no_timestamps]

    def encode(self, text: str) -> list[int]:
        whole = text.encode("utf-8", "replace").decode()  # JSON can bring in half a surrogate pair
        return list(self._hub.encode(whole, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the text tokens among `tokens`; half a UTF-8 character shows as U+FFFD."""
        return str(self._hub.decode([t for t in tokens if t < self.eot], skip_special_tokens=False))

    def complete_length(self, tokens: Sequence[int]) -> int:
        """How many of the leading tokens end on a whole UTF-8 character (at most three tokens hold half of one)."""
        for length in range(len(tokens), max(-1, len(tokens) - 4), -1):
            if not self.decode(tokens[max(0, length - 4) : length]).endswith(_REPLACEMENT):
                return length
        return len(tokens)

    def split_words(self, tokens: Sequence[int], language: str) -> list[list[int]]:
        """Groups tokens into words; concatenated, the groups are `tokens` again.

        A word starts at a space; in languages written without spaces every whole character is one. Punctuation alone
        belongs to the word before it.
        """
        words: list[list[int]] = []
        for group in self._characters(tokens):
            text = self.decode(group)
            bare = text.strip()
            starts = not words or language in UNSPACED or text.startswith(" ")
            if starts and not (words and bare and all(c in _TRAILING for c in bare)):
                words.append(group)
            else:
                words[-1].extend(group)
        return words

    def _characters(self, tokens: Sequence[int]) -> list[list[int]]:
        """The shortest groups of tokens that decode to whole characters."""
        groups: list[list[int]] = []
        group: list[int] = []
        for token in tokens:
            group.append(token)
            if _REPLACEMENT not in self.decode(group) or len(group) == 4:
                groups.append(group)
                group = []
        return [*groups, group] if group else groups

    @cached_property
    def suppressed(self) -> tuple[int, ...]:
        """Tokens that never belong into a transcript: sounds, music, and every special token but end of text."""
        found = set(range(self.sot, self.timestamp_begin))
        found.update(first[0] for text in ("-", "'") if (first := self.encode(" " + text)))
        for symbol in [*_NON_SPEECH, *_MUSIC]:
            for tokens in (self.encode(symbol), self.encode(" " + symbol)):
                if len(tokens) == 1 or symbol in _MUSIC:
                    found.add(tokens[0])
        return tuple(sorted(found))

    def _single(self, text: str) -> int:
        tokens = self.encode(text)
        if len(tokens) != 1:
            raise ModelError(f"the tokenizer has no single token for {text!r}")
        return tokens[0]


def _repair(text: str) -> str:
    """Puts back the first merge rule, which the multilingual tokenizer.json files on the hub lost.

    Without it " the" is encoded as two tokens that the model never saw together, which spoils prompts.
    """
    data = json.loads(text)
    merges, first = data["model"]["merges"], ["Ġ", "t"]
    if first not in merges and " ".join(first) not in merges:
        merges.insert(0, first if isinstance(merges[0], list) else " ".join(first))
    return json.dumps(data)


_TRAILING = frozenset(string.punctuation + "。，！？：；、”’…")
