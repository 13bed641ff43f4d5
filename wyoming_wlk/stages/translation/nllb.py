"""NLLB-200 for 200 languages, on CTranslate2 or transformers, with nllw's model, tokenizer and table of languages.

nllw's own simultaneous translation is not used: it keeps a client's state and the model in one object that cannot be
saved, translates one client at a time, prints what it does, and knows neither pauses nor the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import nllw
from nllw.languages import LANGUAGES, normalize_language_identifier
from transformers import PreTrainedTokenizerFast

from wyoming_wlk.errors import ModelError, RequestError
from wyoming_wlk.stages.translation.languages import language_tag
from wyoming_wlk.stages.translation.texts import Text, TextTranslator

_MAX_TOKENS = 200
"""Of a translation. A text of few words gets fewer: NLLB is known to repeat itself."""


class _Generator(Protocol):
    """Translates token ids, which begin with the language and end with the end, all rows at once. Special tokens may be
    among the results."""

    def __call__(self, rows: Sequence[list[int]], targets: Sequence[int]) -> list[list[int]]: ...


class Nllb(TextTranslator):
    """One model for all pairs."""

    def __init__(self, folder: Path, device: str = "cpu", threads: int = 1) -> None:
        """A folder of CTranslate2's (with a model.bin) or of transformers', with its tokenizer. `threads` are
        CTranslate2's; transformers takes those of torch. Raises `ModelError` for what is no such folder."""
        load = _on_ctranslate2 if (folder / "model.bin").exists() else _on_transformers
        try:
            self._tokenizer, self._generate = load(folder, device, threads)
        except (OSError, ValueError, RuntimeError, TypeError, KeyError) as err:
            raise ModelError(f"cannot load {folder} as an NLLB model: {err}") from err

    def languages(self, source: str, target: str) -> tuple[str, str]:
        return self._known(source), self._known(target)

    def translate(self, texts: Sequence[Text]) -> Sequence[str | Exception]:
        rows = [self._encode(text) for text in texts]
        targets = [self._id(text.target) for text in texts]
        try:
            translations = self._generate(rows, targets)
        except (RuntimeError, ValueError) as err:
            if len(texts) > 1:
                return [result for text in texts for result in self.translate([text])]
            return [ModelError(f"translation failed: {err}")]
        return [self._decode(row, ids) for row, ids in zip(rows, translations, strict=True)]

    def close(self) -> None:
        """Nothing is held beyond this object."""

    # --- parts --------------------------------------------------------------------------------------------------------

    def _known(self, written: str) -> str:
        code = nllb_code(written)
        if self._id(code) == self._tokenizer.unk_token_id:
            raise RequestError(f"this model does not know the language {written[:100]!r} ({code})")
        return code

    def _id(self, token: str) -> int:
        found: int = self._tokenizer.convert_tokens_to_ids(token)
        return found

    def _encode(self, text: Text) -> list[int]:
        self._tokenizer.src_lang = text.source
        ids: list[int] = self._tokenizer(text.text, truncation=True, max_length=512)["input_ids"]
        return ids

    def _decode(self, row: Sequence[int], ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids[: 3 * len(row) + 10], skip_special_tokens=True)
        return text.strip()


def nllb_code(written: str) -> str:
    """A language as NLLB writes it, ``por_Latn``. Raises `RequestError` for what is no language that NLLB knows."""
    spelling = _spelling(str(normalize_language_identifier(written)))
    if spelling in _SPELLINGS:
        return _SPELLINGS[spelling]
    tag = language_tag(written)
    language = str(tag.language)
    scripts = [code for code in _CODES if language_tag(code).language == language]
    found = [code for code in scripts if code.endswith(f"_{tag.script}")] or scripts
    if not found and language not in _SPELLINGS:
        raise RequestError(f"NLLB does not know the language {written[:100]!r}")
    return found[0] if found else _SPELLINGS[language]


def _spelling(text: str) -> str:
    return text.strip().lower().replace("-", "_")


_CODES = [str(language["nllb"]) for language in LANGUAGES]
_SPELLINGS = {_spelling(written): str(language["nllb"]) for language in LANGUAGES for written in language.values()}
_SPELLINGS |= {"no": "nob_Latn", "ps": "pbt_Arab"}


def _tokenizer(model: nllw.TranslationModel) -> PreTrainedTokenizerFast:
    """One for all languages: it is large, and is told the language of each text."""
    return model.get_tokenizer("eng_Latn")


def _on_ctranslate2(folder: Path, device: str, threads: int) -> tuple[PreTrainedTokenizerFast, _Generator]:
    import ctranslate2

    compute_type = "int8" if device == "cpu" else "float16"
    translator = ctranslate2.Translator(str(folder), device=device, compute_type=compute_type, intra_threads=threads)
    tokenizer = _tokenizer(nllw.TranslationModel(translator, device, model_name=str(folder)))

    def generate(rows: Sequence[list[int]], targets: Sequence[int]) -> list[list[int]]:
        results = translator.translate_batch(
            [tokenizer.convert_ids_to_tokens(row) for row in rows],
            target_prefix=[tokenizer.convert_ids_to_tokens([target]) for target in targets],
            beam_size=1,
            max_decoding_length=_MAX_TOKENS,
        )
        return [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]

    return tokenizer, generate


def _on_transformers(folder: Path, device: str, _: int) -> tuple[PreTrainedTokenizerFast, _Generator]:
    from transformers import AutoModelForSeq2SeqLM

    network = AutoModelForSeq2SeqLM.from_pretrained(str(folder), local_files_only=True).to(device).eval()
    if device != "cpu":
        network = network.half()
    tokenizer = _tokenizer(nllw.TranslationModel(network, device, model_name=str(folder)))
    start = network.config.decoder_start_token_id

    def generate(rows: Sequence[list[int]], targets: Sequence[int]) -> list[list[int]]:
        batch = tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt").to(device)
        # The target's code is given as the beginning, because a batch may have several.
        begun = batch["input_ids"].new_tensor([[start, target] for target in targets])
        found = network.generate(
            **batch, decoder_input_ids=begun, max_length=None, max_new_tokens=_MAX_TOKENS, num_beams=1, do_sample=False
        )
        ids: list[list[int]] = found.tolist()
        return ids

    return tokenizer, generate
