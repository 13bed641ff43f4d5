"""NLLB on both libraries, with a tiny random network: which tokens come out means nothing, that they agree does."""

from __future__ import annotations

import logging
import string
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from test_translation import spoken

from wyoming_wlk.errors import ModelError, RequestError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.translation.load import load_nllb
from wyoming_wlk.stages.translation.simultaneous import SimultaneousTranslator
from wyoming_wlk.stages.translation.texts import Text
from wyoming_wlk.stages.translator import Said, Translated

try:
    from ctranslate2.converters import TransformersConverter
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    from wyoming_wlk.stages.translation.nllb import Nllb, nllb_code
except ImportError as err:
    pytest.skip(f"the extra nllb is not installed: {err}", allow_module_level=True)

TEXTS = [
    Text("eng_Latn", "por_Latn", "How do you do, my friends?"),
    Text("por_Latn", "eng_Latn", "Bom dia."),
    Text("eng_Latn", "deu_Latn", "A third one"),
    Text("eng_Latn", "jpn_Jpan", "A third one"),
    Text("deu_Latn", "jpn_Jpan", "A third one"),
]


def write_model(folder: Path) -> None:
    """A network of 100,000 parameters and a tokenizer of single letters and NLLB's languages, for transformers."""
    letters = ["<s>", "<pad>", "</s>", "<unk>", "▁", *string.ascii_letters, *".,!?"]
    tokenizer = NllbTokenizer(vocab={letter: number for number, letter in enumerate(letters)}, merges=[])
    torch.manual_seed(23)
    size = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = M2M100Config(vocab_size=len(tokenizer), max_position_embeddings=512, init_std=1.0, **size, **heads)
    network = M2M100ForConditionalGeneration(config)
    with torch.no_grad():
        network.get_input_embeddings().weight[2] *= 0.5  # the end comes a little later
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network for both libraries."""
    folder = tmp_path_factory.mktemp("nllb")
    write_model(folder / "transformers")
    files = [path.name for path in (folder / "transformers").glob("tokenizer*")]
    TransformersConverter(str(folder / "transformers"), copy_files=files).convert(str(folder / "ctranslate2"))
    return {library: folder / library for library in ("ctranslate2", "transformers")}


@pytest.fixture(scope="module", params=["ctranslate2", "transformers"])
def nllb(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Nllb:
    return Nllb(folders[request.param])


def test_batches(nllb: Nllb) -> None:
    """Texts of several languages at once, long and short, are translated as each is alone."""
    alone = [nllb.translate([text])[0] for text in TEXTS]
    assert list(nllb.translate(TEXTS)) == alone and list(nllb.translate(TEXTS[::-1])) == alone[::-1]
    assert all(isinstance(result, str) for result in alone) and len(set(alone)) == len(TEXTS)


def test_languages_make_a_difference(nllb: Nllb) -> None:
    """The network is told both languages: the same words read differently from and in another."""
    results = nllb.translate(TEXTS[2:])
    assert len(set(results)) == 3


def test_prefix(folders: dict[str, Path]) -> None:
    """What transformers generates is what it generates by its own rule for the target language."""
    nllb = Nllb(folders["transformers"])
    tokenizer = NllbTokenizer.from_pretrained(folders["transformers"], src_lang="eng_Latn")
    network = M2M100ForConditionalGeneration.from_pretrained(folders["transformers"]).eval()
    text = TEXTS[0]
    target = tokenizer.convert_tokens_to_ids(text.target)
    rows = tokenizer(text.text, return_tensors="pt")
    found = network.generate(**rows, forced_bos_token_id=target, max_length=None, max_new_tokens=200, do_sample=False)
    limit = 3 * rows["input_ids"].shape[1] + 10
    assert nllb.translate([text]) == [tokenizer.decode(found[0][:limit], skip_special_tokens=True).strip()]


def test_bounded(nllb: Nllb) -> None:
    """However the network runs on, a translation is not many times as long as its text."""
    texts = [Text("eng_Latn", "por_Latn", "a" * length) for length in range(1, 12)]
    results = [result for result in nllb.translate(texts) if isinstance(result, str)]
    assert len(results) == 11
    assert all(len(result) <= 3 * (len(text.text) + 3) + 10 for text, result in zip(texts, results, strict=True))


def test_stage(nllb: Nllb, capfd: pytest.CaptureFixture[str]) -> None:
    """Words are translated as they come; batches, restored states and single clients agree, and nothing is printed."""
    translator = SimultaneousTranslator(nllb)
    alone, restored, among = (translator.begin("english", "pt") for _ in range(3))
    assert (alone.source, alone.target) == ("eng_Latn", "por_Latn")
    stable: list[str] = []
    for word in spoken(" I met Dr. Smith. He was tired, but he"):
        one = translator.step([Said(alone, (word,))])[0]
        restored = translator.restore(restored.to_bytes())
        two = translator.step([Said(restored, (word,))])[0]
        other = Said(translator.begin("pt", "de"), tuple(spoken(" Bom dia. Eu")))
        batch = translator.step([other, Said(among, (word,))])
        assert isinstance(one, Translated) and one == two == batch[1]
        stable += [translation.text for translation in one.stable]
    assert stable == [" " + str(nllb.translate([Text("eng_Latn", "por_Latn", "I met Dr. Smith.")])[0])]
    done = translator.step([Said(alone, (), True)])[0]
    assert isinstance(done, Translated) and len(done.stable) == 1 and done.tentative == ""
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("text", ["😀", "今日はいい天気", "\u202e\u0301", "a" * 300, "." * 300, "ا" * 300, "�"])
def test_odd_texts(text: str, nllb: Nllb) -> None:
    """Whatever is said, the library answers."""
    (answer,) = nllb.translate([Text("eng_Latn", "por_Latn", text)])
    assert isinstance(answer, str)


def test_one_text_fails(nllb: Nllb, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that the library chokes on takes no other with it."""
    generate, choking = nllb._generate, nllb._encode(TEXTS[1])

    def choke(rows: Sequence[list[int]], targets: Sequence[int]) -> list[list[int]]:
        if choking in rows:
            raise RuntimeError("out of memory")
        return generate(rows, targets)

    monkeypatch.setattr(nllb, "_generate", choke)
    results = nllb.translate(TEXTS[:3])
    assert isinstance(results[1], ModelError) and "translation failed: out of memory" in str(results[1])
    monkeypatch.undo()
    assert [results[0], results[2]] == list(nllb.translate([TEXTS[0], TEXTS[2]]))


# --- models and languages ---------------------------------------------------------------------------------------------


def test_local_folder(folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder is a model of the library that it was written for; nothing is fetched."""
    store = ModelStore(tmp_path, offline=True)
    with caplog.at_level(logging.WARNING):
        translators = [load_nllb(store, str(folder)) for folder in folders.values()]
    words = tuple(spoken(" Good day."))
    results = [translator.step([Said(translator.begin("en", "pt"), words)])[0] for translator in translators]
    assert all(isinstance(result, Translated) and result.stable for result in results)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["model.bin", "config.json", "tokenizer.json", None])
def test_no_model(file: str | None, tmp_path: Path) -> None:
    """A folder without a model is an error that names it."""
    if file:
        (tmp_path / file).write_bytes(b"{}")
    with pytest.raises(ModelError, match=f"cannot load {tmp_path} as an NLLB model"):
        Nllb(tmp_path)


def test_named_models(tmp_path: Path) -> None:
    """Sizes name models of the catalogue; what is none is an error that says what there is."""
    store = ModelStore(tmp_path, offline=True)
    for library in ("ctranslate2", "transformers"):
        for size in ("600M", "1.3b"):
            with pytest.raises(ModelError, match=f"nllb-{size.lower()}-{library} is not on this machine"):
                load_nllb(store, size, library)
    with pytest.raises(ModelError, match="unknown NLLB model '7B': it may be 600M, 1.3B or a folder"):
        load_nllb(store, "7B")


@pytest.mark.parametrize(
    ("written", "code"),
    [
        *((written, "por_Latn") for written in ("Portuguese", "PT", "por", "pt-BR", "por_Latn", "POR_latn")),
        *((written, "zho_Hant") for written in ("zh-TW", "zh-Hant", "zho_Hant", "Chinese (Traditional)")),
        *((written, "zho_Hans") for written in ("zh", "chinese", "cmn")),
        *((written, "nob_Latn") for written in ("no", "nb", "nor", "norwegian")),
        *((written, "pbt_Arab") for written in ("ps", "pashto", "pus")),
        *((written, "kor_Hang") for written in ("ko", "kor", "Korean")),
        ("Tunisian Arabic", "aeb_Arab"),
        ("ar", "arb_Arab"),
        ("iw", "heb_Hebr"),
        ("jw", "jav_Latn"),
        ("tl", "tgl_Latn"),
        ("fil", "tgl_Latn"),
        ("que", "quy_Latn"),
        ("myanmar", "mya_Mymr"),
        ("kas_Deva", "kas_Deva"),
        ("ks-Deva", "kas_Deva"),
        ("yue", "yue_Hant"),
    ],
)
def test_languages(written: str, code: str) -> None:
    """Names and codes of every kind are the language as NLLB writes it."""
    assert nllb_code(written) == code


def test_unknown_languages(nllb: Nllb) -> None:
    """What is no language, what NLLB was not taught, and what nllw lists but no tokenizer knows, is refused."""
    for written, reason in [
        ("klingon", "unknown language 'klingon': write"),
        ("auto", "unknown language 'auto'"),
        ("la", "NLLB does not know the language 'la'"),
        ("min_Arab", "this model does not know the language 'min_Arab'"),
    ]:
        for pair in ((written, "en"), ("en", written)):
            with pytest.raises(RequestError, match=reason):
                nllb.languages(*pair)
