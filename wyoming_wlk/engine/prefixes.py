"""What a row's decoder reads before it says anything new: the text before the window and what is committed of it, with
keys and values of what the client's steps before have read already."""

from __future__ import annotations

from collections.abc import Sequence

from wyoming_wlk.engine.attention import DecoderInput
from wyoming_wlk.engine.cache import KVCache
from wyoming_wlk.engine.hypothesis import Row
from wyoming_wlk.engine.passes import Passes
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.engine.window import TextMemory

_PROMPT_STEP = 64
"""Of too long a prompt so many tokens at once are left out, so that what has been read of it stays good for a while."""


class PrefixReader:
    """Prepares rows in the slots of a cache."""

    def __init__(self, tokenizer: Tokenizer, cache: KVCache, passes: Passes, silence: int) -> None:
        """`silence`: the slot whose audio is silence."""
        self._tokenizer, self._cache, self._passes, self._silence = tokenizer, cache, passes, silence

    def prepare(self, rows: Sequence[Row]) -> None:
        """Sets what the rows' first pass has to read, and puts in place what is known before it."""
        for row in rows:
            row.prefix = self._prefix(row)
            row.draft = self._draft(row)
        self._read_prompts(rows)
        for row in rows:
            self._recall(row)
            row.unread = row.prefix[row.known :]

    def keep(self, row: Row) -> None:
        """After a partial step: keeps what it has read and said."""
        if (window := row.request.context.window) is not None:
            window.text = self._remember(row.best.slot, row.prefix + row.best.tokens, row.prompt_length)

    # --- tokens -------------------------------------------------------------------------------------------------------

    def _prefix(self, row: Row) -> list[int]:
        """Previous text, start of transcript, and for a partial step what is committed already."""
        context, options = row.request.context, row.request.context.options
        prompt = self._prompt(options.prompt, context.previous_text)
        start = self._tokenizer.start_sequence(row.language, options.task)
        row.prompt_length = len(prompt)
        return prompt + start + row.committed

    def _prompt(self, static: str, previous: str) -> list[int]:
        room = self._cache.text_limit // 2 - 1
        fixed = self._tokenizer.encode(" " + static.strip())[: room // 2] if static.strip() else []
        recent = self._tokenizer.encode(previous) if previous else []
        surplus = max(0, len(recent) - (room - len(fixed)))
        tokens = fixed + recent[-(-surplus // _PROMPT_STEP) * _PROMPT_STEP :]
        return [self._tokenizer.sot_prev, *tokens] if tokens else []

    def _draft(self, row: Row) -> list[int]:
        """The last hypothesis: checked in one pass, it costs little and saves a pass for each token that still holds.

        But for rounding the outcome is the same without it, so beams, which need every alternative, have none.
        """
        if row.search_width > 1:
            return []
        context = row.request.context
        draft = context.committed + context.tentative if row.final else context.tentative
        return draft[: max(0, min(row.token_limit, self._cache.text_limit - 1 - len(row.prefix)))]

    # --- keys and values ----------------------------------------------------------------------------------------------

    def _read_prompts(self, rows: Sequence[Row]) -> None:
        """Puts the prompts' keys and values in place, and reads what is new of them.

        They are read beside silence, so that they are good for all windows that come behind the same text.
        """
        for row in rows:
            memory = row.request.context.prompt
            row.known = memory.common(row.prefix[: row.prompt_length + 1]) if memory is not None else 0
            self._place(row, memory, 0, row.known)
        if new := [row for row in rows if row.known < row.prompt_length]:
            read = [row.prefix[row.known : row.prompt_length] for row in new]
            self._passes(
                [DecoderInput(self._silence, row.slots[:1], [tokens]) for row, tokens in zip(new, read, strict=True)]
            )
            for row in new:
                row.request.context.prompt = self._remember(row.slots[0], row.prefix[: row.prompt_length], 0)
                row.known = row.prompt_length

    def _recall(self, row: Row) -> None:
        """Puts in place what the last partial step has computed behind the prompt. Before words are committed all of it
        is read anew: there it is told whether there is speech at all."""
        window = row.request.context.window
        if row.committed and window is not None and window.text is not None:
            count = window.text.common(row.prefix[row.prompt_length :])
            self._place(row, window.text, row.prompt_length, count)
            row.known = row.prompt_length + count

    def _remember(self, slot: int, tokens: Sequence[int], begin: int) -> TextMemory:
        """What the slot holds of the tokens from `begin` on."""
        end = min(len(tokens), self._cache.tokens[slot])
        return TextMemory(tokens[begin:end], self._cache.self_kv[:, :, slot, :, begin:end].clone())

    def _place(self, row: Row, memory: TextMemory | None, begin: int, count: int) -> None:
        """Continues the row's slot with the first `count` tokens of a memory."""
        slot, end = row.slots[0], begin + count
        if memory is not None:
            self._cache.self_kv[:, :, slot, :, begin:end] = memory.self_kv[:, :, :, :count]
        self._cache.tokens[slot] = end
