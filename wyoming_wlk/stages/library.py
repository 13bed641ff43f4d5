"""All stages of a server: what a client may have, and the models behind it, each loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wyoming_wlk.config import DIARIZERS, TRANSLATORS, Config
from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.engine.runner import cuda_memory_gb
from wyoming_wlk.errors import RequestError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.client import ClientStage, Emit
from wyoming_wlk.stages.diarization.install import install_networks
from wyoming_wlk.stages.diarization.online import load_online
from wyoming_wlk.stages.diarizer import DiarizationOptions, Diarizer
from wyoming_wlk.stages.sortformer.loading import load_sortformer
from wyoming_wlk.stages.speakers import DiarizationWorker, SpeakerStage
from wyoming_wlk.stages.translating import TextTranslation, TranslationWorker, WhisperTranslation
from wyoming_wlk.stages.translation.languages import language_tag, primary_language
from wyoming_wlk.stages.translation.load import load_bergamot, load_nllb
from wyoming_wlk.stages.translator import Translator
from wyoming_wlk.stages.worker import Worker

_OFF = ("off", "none")
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "0", *_OFF)
"""Norwegian is a language, too: only where no language is meant `no` is one of these."""
_SYNONYMS = {"diart": "online"}
_MAX_NAME = 40


class Stages:
    """Used on one event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config.stages
        self._store = ModelStore(config.model.data_dir, config.model.offline)
        self._diarizers: dict[str, DiarizationWorker] = {
            name: Worker(f"diarization {name}", load, lambda diarizer, heard: diarizer.step(heard))
            for name, load in {"online": self._load_online, "sortformer": self._load_sortformer}.items()
        }
        self._translators: dict[str, TranslationWorker] = {
            name: Worker(f"translation {name}", load, lambda translator, said: translator.step(said))
            for name, load in {"bergamot": self._load_bergamot, "nllb": self._load_nllb}.items()
        }

    # --- what clients want --------------------------------------------------------------------------------------------

    def usual(self, options: ClientOptions) -> ClientOptions:
        """With the stages that the server's own options ask for. Raises `RequestError` for an unknown language."""
        config = self._config
        wishes = {"diarization": config.diarization, "target_language": config.target_language}
        return self.chosen(options, wishes)

    def chosen(self, options: ClientOptions, wishes: Mapping[str, str]) -> ClientOptions:
        """With the stages that a client asks for, `diarization`, `target_language` and `translation`, instead of those
        that are in `options`. Raises `RequestError` for what is not known."""
        diarization = self._diarization(wishes, options.diarization)
        translation = wishes.get("translation", "").lower() or options.translation or self._config.translation
        if translation not in TRANSLATORS:
            raise RequestError(f"translation is none of {', '.join(TRANSLATORS)}: {translation[:_MAX_NAME]!r}")
        target = wishes.get("target_language", "") or options.target_language
        target = "" if target.lower() in ("", *_OFF) else str(language_tag(target))
        if target and translation == "whisper" and primary_language(target) != "en":
            raise RequestError("translation by whisper is into English only")
        return replace(
            options,
            diarization=diarization,
            target_language=target,
            translation=translation if target else "",
        )

    def _diarization(self, wishes: Mapping[str, str], usual: str) -> str:
        wish = (wishes.get("diarization", "") or wishes.get("diarize", "")).lower()
        if not wish:
            return usual
        if wish in _NO:
            return ""
        if wish in _YES:
            wish = usual or (self._config.diarization if self._config.diarization not in _NO else "online")
        if wish not in DIARIZERS:
            raise RequestError(f"diarization is none of {', '.join(DIARIZERS)}, off: {wish[:_MAX_NAME]!r}")
        return _SYNONYMS.get(wish, wish)

    # --- for sessions -------------------------------------------------------------------------------------------------

    def of(
        self, context: DecoderContext, engine: Engine, client: str, emit: Emit, patient: bool
    ) -> tuple[list[ClientStage], Emit]:
        """A client's stages, and who is to be told of its session's events so that `emit` hears of them at last."""
        options = context.options
        stages: list[ClientStage] = []

        def language() -> str | None:
            if options.task == "translate":
                return "en"
            return options.language if options.language != "auto" else context.language

        if options.target_language:
            translation: ClientStage
            if options.translation == "whisper":
                translation = WhisperTranslation(engine, options, client, emit, patient, language)
            else:
                worker = self._translators[options.translation]
                translation = TextTranslation(worker, options.target_language, client, emit, patient, language)
            stages.append(translation)
            emit = translation.take
        if options.diarization:
            wanted = DiarizationOptions(self._config.diarization_latency, self._config.max_speakers)
            diarizer = self._diarizers[options.diarization]
            speakers = SpeakerStage(diarizer, wanted, client, emit, patient, context.stages)
            stages.append(speakers)
            emit = speakers.take
        return stages[::-1], emit

    # --- models -------------------------------------------------------------------------------------------------------

    async def load(self, options: ClientOptions) -> None:
        """Loads what these options need. Raises `ModelError`, and `RequestError` for languages that it cannot do."""
        if options.diarization:
            wanted = DiarizationOptions(self._config.diarization_latency, self._config.max_speakers)
            await self._diarizers[options.diarization].call(lambda diarizer: diarizer.begin(wanted))
        if options.translation in self._translators:
            source = options.language if options.language != "auto" else "en"
            target = options.target_language
            if language_tag(source) != language_tag(target):
                await self._translators[options.translation].call(lambda translator: translator.begin(source, target))

    def close(self) -> None:
        for diarizer in self._diarizers.values():
            diarizer.close()
        for translator in self._translators.values():
            translator.close()

    def _load_online(self) -> Diarizer[Any]:
        segmentation, embedding = self._config.segmentation_model, self._config.embedding_model
        if segmentation is None or embedding is None:
            installed = install_networks(self._store)
            segmentation, embedding = segmentation or installed[0], embedding or installed[1]
        return load_online(segmentation, embedding)

    def _load_sortformer(self) -> Diarizer[Any]:
        return load_sortformer(self._config.sortformer_model, self._store)

    def _load_bergamot(self) -> Translator[Any]:
        return load_bergamot(self._store)

    def _load_nllb(self) -> Translator[Any]:
        return load_nllb(
            self._store,
            self._config.nllb_model,
            self._config.nllb_backend,
            "cuda" if cuda_memory_gb() else "cpu",
        )
