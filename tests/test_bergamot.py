"""Bergamot for real: the models of the catalogue in the process that runs them, and what it does to its clients."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_translation import spoken

from wyoming_wlk.errors import ModelError, RequestError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.translation.bergamot import Bergamot, mozilla_code
from wyoming_wlk.stages.translation.process import LineProcess
from wyoming_wlk.stages.translation.simultaneous import SimultaneousTranslator
from wyoming_wlk.stages.translation.texts import Text
from wyoming_wlk.stages.translator import Said, Translated


@pytest.fixture(scope="module")
def bergamot(store: ModelStore) -> Iterator[Bergamot]:
    """Knows how to translate from English to Portuguese and back."""
    bergamot = Bergamot(store)
    for pair in (("en", "pt"), ("pt", "en")):
        bergamot.languages(*pair)
    yield bergamot
    bergamot.close()


def test_translates(bergamot: Bergamot) -> None:
    """Both directions say what was said."""
    texts = [Text("en", "pt", "How are you today?"), Text("pt", "en", "Como você está hoje?")]
    assert bergamot.translate(texts) == ["Como você está hoje?", "How are you today?"]


def test_through_english(bergamot: Bergamot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair without a model of its own takes two: here with Portuguese in the place of German."""
    monkeypatch.setitem(bergamot._folders, ("en", "de"), bergamot._folders["en", "pt"])
    assert bergamot.translate([Text("pt", "de", "Como você está hoje?")]) == ["Como você está hoje?"]


def test_stage(bergamot: Bergamot) -> None:
    """Words are translated as they come; batches, restored states and single clients agree."""
    translator = SimultaneousTranslator(bergamot)
    words = spoken(" I met Dr. Smith at three. He was tired, but he came")
    alone, restored, among = (translator.begin("english", "por_Latn") for _ in range(3))
    for word in words:
        one = translator.step([Said(alone, (word,))])[0]
        restored = translator.restore(restored.to_bytes())
        two = translator.step([Said(restored, (word,))])[0]
        other = Said(translator.begin("pt", "en"), tuple(spoken(" Bom dia.")))
        batch = translator.step([other, Said(among, (word,)), other])
        assert one == two == batch[1] and isinstance(one, Translated)
        assert one.stable or one.tentative
    done = translator.step([Said(alone, (), True)])[0]
    assert isinstance(done, Translated) and [t.text for t in done.stable] == [" Ele estava cansado, mas ele veio"]


@pytest.mark.parametrize(
    "text", ["😀 😀", "\u202e\u0301", "a" * 300, "." * 300, "ا" * 300, "1 2 3", "<b>&amp;</b>", "\\n\u2028", "日本"]
)
def test_odd_texts(text: str, bergamot: Bergamot) -> None:
    """Whatever is said, the library answers, and in one line."""
    (answer,) = bergamot.translate([Text("en", "pt", text)])
    assert isinstance(answer, str) and answer == answer.strip() and "\n" not in answer


def test_many_models(bergamot: Bergamot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More models than are kept in memory replace each other, and each is loaded again when it is wanted."""
    for number in range(6):
        (tmp_path / str(number)).symlink_to(bergamot._folders["en", "pt"])
        monkeypatch.setitem(bergamot._folders, ("en", f"x{number}"), str(tmp_path / str(number)))
    texts = [Text("en", f"x{number % 6}", "Good morning.") for number in range(12)]
    assert bergamot.translate(texts) == ["Bom dia."] * 12


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.bin", "lex.bin"])
def test_broken_model(file: str, bergamot: Bergamot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that the library panics on is an error of its own clients, not of those beside them."""
    for path in Path(bergamot._folders["en", "pt"]).iterdir():
        if path.name != file:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / file).write_bytes(b"nonsense" * 100)
    monkeypatch.setitem(bergamot._folders, ("en", "xx"), str(tmp_path))
    texts = [Text("en", "xx", "Good morning."), Text("en", "pt", "Good morning.")]
    bad, good = bergamot.translate(texts)
    assert isinstance(bad, ModelError) and "translation failed" in str(bad)
    assert good == "Bom dia."


def test_dead_process(bergamot: Bergamot) -> None:
    """When the process is killed, one text is lost, and the next finds a new one."""
    text = Text("en", "pt", "Good morning.")
    assert bergamot.translate([text]) == ["Bom dia."]
    process = bergamot._process._process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)  # meant for the server, and ignored
    assert bergamot.translate([text]) == ["Bom dia."]
    os.kill(process.pid, signal.SIGKILL)
    lost, found = bergamot.translate([text, text])
    assert isinstance(lost, ModelError) and "it has died" in str(lost) and found == "Bom dia."


def test_slow_process(tmp_path: Path) -> None:
    """A program that does not answer is ended."""
    program = tmp_path / "slow.py"
    program.write_text("import sys\nfor line in sys.stdin:\n if 'quick' in line: print('{}', flush=True)\n")
    process = LineProcess(program, timeout=0.3)
    assert process.ask({"text": "quick"}) == {}
    with pytest.raises(ModelError, match=r"slow failed: no answer within 0\.3 s"):
        process.ask({"text": "never"})
    assert process.ask({"text": "quick"}) == {}
    process.close()


@pytest.mark.parametrize("answer", ["nonsense", "", "\\x00"])
def test_nonsense_from_the_process(answer: str, tmp_path: Path) -> None:
    """A program that answers with something else has failed."""
    program = tmp_path / "mad.py"
    program.write_text(f"import sys\nfor line in sys.stdin: print('{answer}', flush=True)\n")
    with pytest.raises(ModelError, match="mad failed"):
        LineProcess(program, timeout=20).ask({})


@pytest.mark.parametrize(
    ("missing", "extra"),
    [
        ("fxtranslate", "bergamot"),
        ("sentencex", "bergamot"),
        ("sentencex", "nllb"),
        ("nllw", "nllb"),
        ("transformers", "nllb"),
    ],
)
def test_not_installed(missing: str, extra: str, tmp_path: Path) -> None:
    """Without the extra the package can be imported, and the error says what to install."""
    program = f"""
        import importlib.util, sys
        from pathlib import Path
        from wyoming_wlk.models import ModelStore
        sys.modules["{missing}"] = None
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name: find(name) if name != "{missing}" else None
        from wyoming_wlk.stages.translation.load import load_{extra}
        from wyoming_wlk.stages.translation.languages import language_tag
        load_{extra}(ModelStore(Path({str(tmp_path)!r}), offline=True))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (
        f"ModelError: the translation backend {extra} is not installed: pip install wyoming-wlk[{extra}]" in done.stderr
    )


def test_offline(tmp_path: Path) -> None:
    """A pair that is not on the disk needs the network."""
    bergamot = Bergamot(ModelStore(tmp_path, offline=True))
    with pytest.raises(ModelError, match="bergamot-en-pt is not on this machine"):
        bergamot.languages("en", "pt")
    with pytest.raises(RequestError, match="unknown language 'klingon'"):
        bergamot.languages("en", "klingon")


def test_a_pair_is_looked_for_once(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksums of a model are not computed for every client."""
    bergamot = Bergamot(store)
    assert bergamot.languages("en", "pt") == ("en", "pt")
    monkeypatch.setattr(store, "fetch", None)  # a call would fail
    assert bergamot.languages("English", "por") == ("en", "pt")


# --- languages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "code"),
    [("German", "de"), ("deu_Latn", "de"), ("zh", "zh-Hans"), ("zh_TW", "zh-Hant"), ("no", "nb"), ("tagalog", "tl")]
    + [("iw", "he"), ("srp_Cyrl", "sr"), ("Nynorsk", "nb")],
)
def test_mozilla_code(written: str, code: str) -> None:
    """Languages are written as in Mozilla's list."""
    assert mozilla_code(written) == code
