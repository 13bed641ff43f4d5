"""The web page: how it is served, and what it does in a real browser with real speech."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import jiwer
import pytest
from aiohttp import ClientSession
from browser import Ingress, browsing, picture, words
from conftest import Clip
from playwright.async_api import Page, expect
from serving import serving
from websockets.asyncio.client import connect

import wyoming_wlk
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

FILES = sorted(path.name for path in (Path(wyoming_wlk.__file__).parent / "page").iterdir())
CLIP = "1688-142285-0003"
ACCOUNT = re.compile("account of himself.*he said", re.IGNORECASE)


# --- how it is served -------------------------------------------------------------------------------------------------


async def test_everything_is_served_with_its_type_and_a_strict_policy(engine: Engine, vad: SileroVad) -> None:
    """Page and files need no token, run nothing foreign or inline, and are asked for anew after an update."""
    types = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    async with serving(engine, vad, token="secret") as server, ClientSession(server.url) as client:
        for path in ["/", *(f"/page/{name}" for name in FILES if name != "index.html")]:
            async with client.get(path) as answer:
                assert answer.status == 200, path
                assert answer.content_type == types[path.rpartition(".")[2] if path != "/" else "html"]
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src 'self';" in policy
                assert answer.headers["Cache-Control"] == "no-cache"
                etag = answer.headers["ETag"]
            async with client.get(path, headers={"If-None-Match": etag}) as answer:
                assert (answer.status, await answer.read()) == (304, b"")
        async with client.get("/page/languages.json") as answer:
            assert await answer.json() == ["en"]


@pytest.mark.parametrize(
    "path", ["/page/", "/page/no.js", "/page/index.html", "/page/..%2fconfig.py", "/page/../cli.py"]
)
async def test_nothing_else_is_served(engine: Engine, vad: SileroVad, path: str) -> None:
    """Only the page's own files can be fetched from its folder."""
    async with serving(engine, vad) as server, ClientSession() as client, client.get(server.url + path) as answer:
        assert answer.status == 404


def test_only_relative_addresses_and_nothing_foreign() -> None:
    """No file names another server or an address from the root: the page works in any folder and offline."""
    folder = Path(wyoming_wlk.__file__).parent / "page"
    for name in FILES:
        text = (folder / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|(?:href|src)=\"/|(?:fetch|import|from) ?\(?[\"']/", text), name
        assert not re.search(r" on\w+=| style=|<style|innerHTML|eval\(", text), name


# --- in a browser -----------------------------------------------------------------------------------------------------


async def call(page: Page, module: str, expression: str) -> Any:
    """What an expression over the exports of one of the page's modules gives, `m`."""
    script = (
        f"async () => {{ const m = await import(new URL('page/{module}.js', document.baseURI)); return {expression}; }}"
    )
    return await page.evaluate(script)


async def downloaded(page: Page, form: str) -> str:
    await page.select_option("#format", form)
    async with page.expect_download() as download:
        await page.click("#download")
    file = await download.value
    assert re.fullmatch(rf"transcript-[\d-]+\.{form}", file.suggested_filename)
    return Path(await file.path()).read_text("utf-8")


async def test_speech_is_written_and_downloaded(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path
) -> None:
    """Token, start, words while they are said, stop; the text in every format; the server's figures."""
    async with serving(engine, vad, token="secret") as server, browsing(tmp_path, clips[CLIP]) as page:
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda line: failures.append(line.text) if line.type == "error" else None)
        await page.goto(server.url)
        await picture(page, "page-welcome")
        await page.click("#start")
        await page.fill("#token", "secret")
        await page.click("#token-form .primary")
        await expect(page.locator(".lane[data-state=live]")).to_have_count(1)
        await expect(page.locator("#transcript .tentative").first).to_be_visible(timeout=20_000)
        await picture(page, "page-speaking")
        await expect(page.locator("#transcript")).to_contain_text(ACCOUNT)
        await page.click("#start")
        await expect(page.locator("#start")).to_have_attribute("data-state", "idle")
        await expect(page.locator("#transcript .tentative")).to_have_count(0)
        await expect(page.locator("#spoken")).to_contain_text("himself")

        assert ACCOUNT.search(await downloaded(page, "txt"))
        assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\nI really", await downloaded(page, "srt"))
        assert (await downloaded(page, "vtt")).startswith("WEBVTT\n\n00:00:0")
        segments = json.loads(await downloaded(page, "json"))["segments"]
        assert ACCOUNT.search(" ".join(segment["text"] for segment in segments))
        times = [word["start"] for segment in segments for word in segment["words"]]
        # passes of the model place a word a little differently
        assert 0 <= times[0] < times[-1] < 15 and all(b - a > -0.5 for a, b in pairwise(times)), times

        await page.click("#tab-server")
        await expect(page.locator("#plots .card h3").first).to_have_text("Clients")
        await picture(page, "page-server")
        assert not [failure for failure in failures if "metrics" not in failure], failures


async def test_a_lost_connection_loses_and_repeats_nothing(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path
) -> None:
    """Behind a proxy in a folder that swallows words and audio and then hangs up: the page goes on where it was."""
    clip = clips["1688-142285-0006"]
    async with serving(engine, vad) as server:
        ingress = Ingress(server.url)
        async with ingress.running() as address, browsing(tmp_path, clip) as page:
            await page.goto(address)
            await page.click("#start")
            await expect(page.locator("#transcript")).to_contain_text("think", ignore_case=True)
            ingress.cut(swallow=True)
            await expect(page.locator("#transcript")).to_contain_text("telling us", ignore_case=True)
            await page.click("#start")
            await expect(page.locator("#start")).to_have_attribute("data-state", "idle")
            segments = json.loads(await downloaded(page, "json"))["segments"]

    first, second = ingress.heard
    session = ingress.told[1][0]
    assert session["resumed"] and session["seq"] < ingress.told[0][-1]["seq"]
    assert 0 < 2 * session["received_samples"] < len(first), "audio was under way"
    assert second.startswith(first[2 * session["received_samples"] :]), "it is sent again from where the server is"
    assert any(words(message) for message in ingress.lost), "words were under way, too"
    said = {(word["start"], word["text"]): None for told in ingress.told for message in told for word in words(message)}
    assert [word["text"] for segment in segments for word in segment["words"]] == [text for _, text in said]
    assert error_rate(clip, segments) < 0.2, [segment["text"] for segment in segments]


async def test_a_restarted_server_is_told_the_rest(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path
) -> None:
    """A server that knows nothing of the stream hears again what had not become words."""
    async with serving(engine, vad) as server, serving(engine, vad) as other:
        ingress = Ingress(server.url)
        async with ingress.running() as address, browsing(tmp_path, clips[CLIP]) as page:
            await page.goto(address)
            await page.click("#start")
            await expect(page.locator("#transcript .firm")).to_contain_text("like")
            ingress.target = other.url
            ingress.cut(swallow=False)
            await expect(page.locator("#transcript")).to_contain_text("said")
            await page.click("#start")
            await expect(page.locator("#start")).to_have_attribute("data-state", "idle")
            text = await downloaded(page, "txt")
    (first, second), session = ingress.heard, ingress.told[1][0]
    assert not session["resumed"]
    said = max(word["end"] for message in ingress.told[0] for word in words(message))
    rest = first[2 * round(said * session["sample_rate"]) :]
    assert second.startswith(rest), "what follows the last committed word is said again"
    assert len(re.findall("said", text)) == 1, text


def error_rate(clip: Clip, segments: list[dict[str, Any]]) -> float:
    texts = clip.text, " ".join(segment["text"] for segment in segments)
    plain = [re.sub(r"[^\w' ]", "", text.lower()).replace("mister", "mr") for text in texts]
    return float(jiwer.wer(*plain))


async def test_obstacles_are_told(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """No permission, a page that came over plain http: the user is told what to do."""
    async with serving(engine, vad) as server, browsing(tmp_path, allow=False) as page:
        await page.goto(server.url)
        await page.click("#start")
        await expect(page.locator("#notice")).to_contain_text("was not allowed")
        await expect(page.locator("#start")).to_have_attribute("data-state", "idle")
        await page.goto(server.url.replace("127.0.0.1", "page.test"))
        await expect(page.locator("#notice")).to_contain_text("only to pages that come over https")
        await expect(page.locator("#start")).to_be_disabled()


async def test_refusals_are_told(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """A name in use, and a server that is full, which is tried again."""
    async with serving(engine, vad, max_clients=2) as server, browsing(tmp_path) as page:
        socket = server.url.replace("http", "ws") + "/ws/transcription?client_id="
        status = page.locator(".lane:visible .status")
        await page.goto(server.url)
        async with connect(f"{socket}desk%20microphone"):
            await page.click("#open-settings")
            await page.fill("#name", "desk")
            await picture(page, "page-settings")
            await page.click("#close-settings")
            await page.click("#start")
            await expect(page.locator("#notice")).to_contain_text("This name is in use")
            await expect(page.locator("#start")).to_have_attribute("data-state", "idle")
            async with connect(f"{socket}other"):
                await page.click("#start")
                await expect(status).to_contain_text("The server is busy")
        await expect(page.locator(".lane[data-state=live]")).to_have_count(1)
        await expect(page.locator("#notice")).to_be_hidden()


SEGMENTS = [
    {"words": [(0.5, " It"), (0.9, " is"), (1.4, " late."), (1.9, " We")], "tentative": " should"},
    {"id": 1, "ended": True, "final_text": "It's late.", "kept": 1, "words": []},
    {
        "id": 2,
        "words": [(2.3, " should"), (2.6, " go.")],
        "ended": True,
        "final_text": "We should go.",
        "kept": 0,
    },
    {"id": 3, "words": [(12.0, " <Wait>")], "tentative": " for"},
]


async def test_transcript_and_formats(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """Final text replaces the early one, words behind a cut go to the next segment, pale words are not exported."""
    async with serving(engine, vad) as server, browsing(tmp_path) as page:
        await page.goto(server.url)
        build = """async (updates) => {
            const load = (name) => import(new URL(`page/${name}.js`, document.baseURI));
            const { Transcript, paragraphs } = await load("transcript");
            const { FORMATS } = await load("formats");
            const transcript = new Transcript();
            for (const one of updates) {
                const { words, tentative = "", ...rest } = one;
                const id = rest.id ?? 1;
                const segment = {
                    ...rest, key: `k${id}`, nextKey: `k${id + 1}`, speaker: null, language: null, translation: "",
                    words: words.map(([start, text]) => ({ start, end: start + 0.3, text })),
                    buffer: { transcription: tentative, diarization: "", translation: "" },
                };
                transcript.apply("mic", { type: "transcript_update", segments: [segment] }, 0);
            }
            const written = {};
            const names = { mic: "Mic" };
            for (const name of Object.keys(FORMATS)) written[name] = FORMATS[name].write(transcript.segments, names);
            written.silences = paragraphs(transcript.segments).map((paragraph) => paragraph.silence);
            return written;
        }"""
        found = await page.evaluate(build, SEGMENTS)
        metrics = 'wlk_clients 2.0\n# HELP x\nwlk_step_seconds{quantile="0.5"} 0.25\nwlk_words_total 7\nup 1\n'
        plotted = await call(page, "plots", f"m.plotted(m.parseMetrics({json.dumps(metrics)}))")
        clock = await call(page, "backlog", "(() => { const c = new m.Clock(); c.skip(100, 150); return "
                           "[c.toSource(40), c.toSource(110), c.toStream(160), c.toStream(40)]; })()")  # fmt: skip
    assert found["txt"] == "It's late. We should go.\n\n<Wait>\n"
    assert found["srt"].split("\n\n")[1] == "2\n00:00:01,900 --> 00:00:02,900\nWe should go."
    assert "<v Mic>&lt;Wait&gt;" in found["vtt"] and found["vtt"].count("-->") == 3
    assert [len(segment["words"]) for segment in json.loads(found["json"])["segments"]] == [3, 3, 1]
    assert [round(silence, 1) for silence in found["silences"]] == [0, 9.1]
    assert [(one["name"], one["value"]) for one in plotted] == [("wlk_clients", 2), ("wlk_step_seconds", 0.25)]
    assert clock == [40, 160, 110, 40]
