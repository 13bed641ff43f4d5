"""The architecture: who may import whom."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import wyoming_wlk

ROOT = Path(wyoming_wlk.__file__).parent
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


@cache
def imports(file: str, type_checking: bool = True) -> set[str]:
    """The modules that a file imports, anywhere in it, by full name; those for type checkers only where asked for."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse((ROOT / file).read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting += [*node.orelse, *(node.body if type_checking else [])]
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        waiting += ast.iter_child_nodes(node)
    return found


def importers(module: str, type_checking: bool = True) -> set[str]:
    """The files that import a module or something in it."""
    return {
        file
        for file in FILES
        if any(name == module or name.startswith(module + ".") for name in imports(file, type_checking))
    }


def inside(folder: str) -> set[str]:
    return {file for file in FILES if file.startswith(folder + "/")}


def test_walk() -> None:
    """The walk finds imports at the top, within functions and for type checkers, so that the tests below can fail."""
    assert {"app.py", "cli.py", "engine/model.py", "frontends/wyoming.py"} <= set(FILES)
    assert "wyoming_wlk.config" in imports("cli.py") and "wyoming_wlk.app" in imports("cli.py")
    assert "torch" in imports("engine/hypothesis.py") - imports("engine/hypothesis.py", type_checking=False)


def test_asyncio() -> None:
    """Only the shells around the core know of asyncio."""
    allowed = {"session.py", "services.py", "streams.py", "transcription.py", "app.py", "discovery.py", "cli.py"}
    allowed |= {"engine/engine.py", "audio/input.py", "hosting.py", "home_assistant.py", "tasks.py"}
    allowed |= {"stages/worker.py", "stages/client.py", "stages/speakers.py", "stages/translating.py"}
    assert importers("asyncio") <= allowed | inside("frontends") | inside("clients")


def test_torch() -> None:
    """Only what computes imports torch; the others name its types for type checkers alone."""
    computing = ("model", "mel", "checkpoint", "cache", "linear", "runner")
    computing += ("layers", "encoder", "decoder", "attention", "padded", "passes", "selection", "transfer", "window")
    computing += ("script",)
    allowed = {f"engine/{name}.py" for name in computing}
    allowed |= {"stages/sortformer/network.py"}
    assert importers("torch") <= allowed | {"engine/hypothesis.py", "engine/search.py", "engine/windows.py"}
    assert importers("torch", type_checking=False) <= allowed


def test_engine_stands_alone() -> None:
    """The engine knows nothing of who uses it: no sessions, no clients, no options."""
    for module in ("frontends", "session", "utterance", "timeline", "services", "app", "config", "cli", "discovery"):
        assert not importers(f"wyoming_wlk.{module}") & inside("engine"), module


def test_pure_core() -> None:
    """Rules about speech and text do no I/O, start no tasks and compute no tensors."""
    forbidden = {"asyncio", "torch", "socket", "threading", "subprocess"}
    pure = ("utterance.py", "timeline.py", "subtitles.py")
    for file in (*pure, "engine/scheduler.py", "engine/outcome.py", "frontends/framing.py"):
        assert not {name.split(".")[0] for name in imports(file)} & forbidden, file


def test_nobody_knows_the_frontends() -> None:
    """Frontends are put together by the application; nothing below imports them."""
    assert importers("wyoming_wlk.frontends") <= {"app.py", "cli.py"} | inside("frontends")
