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
from browser import Ingress, ScriptedServer, browsing, picture, words
from conftest import Clip
from playwright.async_api import Page, expect
from scripted import ScriptedDiarizer, ScriptedStages, until
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


@pytest.mark.parametrize(("translation", "count"), [("bergamot", 100), ("whisper", 1)])
async def test_languages_to_choose_from(engine: Engine, vad: SileroVad, translation: str, count: int) -> None:
    """The page offers the languages that the model hears, and those that may be asked of what translates."""
    async with serving(engine, vad, translation=translation) as server, ClientSession(server.url) as client:
        async with client.get("/page/languages.json") as answer:
            offered = await answer.json()
    assert offered["spoken"] == ["en"] and offered["targets"][0] == "en" and len(offered["targets"]) == count


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
        asked: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda line: failures.append(line.text) if line.type == "error" else None)
        page.on("websocket", lambda socket: asked.append(socket.url))
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
        assert asked and not re.search("diarization|target_language|translation", "".join(asked))
        await expect(page.locator("#transcript").locator(".voice, .waiting, .translation")).to_have_count(0)

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


async def wish(page: Page, **wishes: str) -> None:
    """Chooses in the settings."""
    await page.click("#open-settings")
    for name, value in wishes.items():
        await page.select_option(f"#{name}", value)
    await picture(page, "page-wishes")
    await page.click("#close-settings")


async def test_speakers_and_a_translation_of_speech(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path
) -> None:
    """Words wait for their speakers in sight; lines with names and a translation follow, in every format, too."""
    diarizer = ScriptedDiarizer(turn=2.0)
    diarizer.gate.clear()
    async with serving(engine, vad) as server, browsing(tmp_path, clips[CLIP]) as page:
        server.services.stages = ScriptedStages(server.services.config, diarizer)
        await page.goto(server.url)
        await wish(page, diarization="online", target="pt")
        await page.click("#start")
        await expect(page.locator("#transcript .waiting")).to_contain_text("account", timeout=25_000)
        await expect(page.locator("#transcript .firm")).to_have_count(0)
        await expect(page.locator("#transcript .voice")).to_have_text("Somebody")
        diarizer.gate.set()
        lines = page.locator("#transcript li")
        await expect(page.locator("#transcript .voice").first).to_have_text("Speaker 1")
        await expect(lines.nth(1).locator(".voice")).to_have_text("Speaker 2")
        await expect(lines.first.locator(".translation .firm")).to_contain_text("I REALLY")
        await page.click("#start")
        await expect(page.locator("#start")).to_have_attribute("data-state", "idle")
        await expect(page.locator("#transcript").locator(".waiting, .tentative")).to_have_count(0)
        await expect(page.locator("#spoken p").first).to_have_text(re.compile("^Speaker 1: I really"))
        await picture(page, "page-speakers")
        found = {form: await downloaded(page, form) for form in ("txt", "srt", "vtt", "json")}
    segments = json.loads(found["json"])["segments"]
    assert {segment["speaker"] for segment in segments} == {1, 2}
    assert all(segment["translation"] == segment["text"].upper() for segment in segments)
    assert {segment["target_language"] for segment in segments} == {"pt-Latn"}
    assert re.match(r"Speaker 1: I really.*\nI REALLY.*\n\nSpeaker 2: ", found["txt"])
    assert re.match(r"1\n[\d:,]+ --> [\d:,]+\nSpeaker 1: I REALLY", found["srt"]) and "Speaker 2: " in found["srt"]
    assert "<v Speaker 1>I REALLY" in found["vtt"] and "<v Speaker 2>" in found["vtt"]


async def test_a_lost_connection_loses_no_speaker(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path
) -> None:
    """Words that were under way, and those that still waited, come back with their speakers and translations."""
    async with serving(engine, vad) as server:
        server.services.stages = ScriptedStages(server.services.config, ScriptedDiarizer(turn=3.0))
        ingress = Ingress(server.url)
        async with ingress.running() as address, browsing(tmp_path, clips["1688-142285-0006"]) as page:
            await page.goto(address)
            await wish(page, diarization="online", target="pt")
            await page.click("#start")
            await expect(page.locator("#transcript .firm").first).to_be_visible()
            ingress.cut(swallow=True)
            await expect(page.locator("#transcript")).to_contain_text("been")
            await page.click("#start")
            await expect(page.locator("#start")).to_have_attribute("data-state", "idle")
            segments = json.loads(await downloaded(page, "json"))["segments"]
    assert ingress.told[1][0]["resumed"] and any(words(message) for message in ingress.lost)
    told = [segment for messages in ingress.told for message in messages for segment in message.get("segments", [])]
    said = {(word["start"], word["text"]): one["speaker"] for one in told for word in one["words"]}
    shown = [(word["text"], segment["speaker"]) for segment in segments for word in segment["words"]]
    assert shown == [(text, speaker) for (_, text), speaker in said.items()]
    assert all(segment["translation"] == segment["text"].upper() for segment in segments)


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


CONTRAST = """(theme) => {
    document.documentElement.dataset.theme = theme;
    const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const light = (colour) => {
        pixel.fillStyle = colour;
        pixel.fillRect(0, 0, 1, 1);
        const parts = [...pixel.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
        const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const paper = light(getComputedStyle(document.documentElement).backgroundColor);
    const found = [...document.querySelectorAll(".voice, .said span, .calm p")].map((one) => {
        const colour = light(getComputedStyle(one).color);
        return Math.max(colour, paper) / Math.min(colour, paper);
    });
    return [found.length, Math.min(...found)];
}"""


async def test_lines_of_speakers(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """Each speaker has a name and a colour, uncertain text its place and look, a translation its language."""
    script = ScriptedServer()
    async with serving(engine, vad) as server, browsing(tmp_path) as page:
        await script.listen(page)
        await page.goto(server.url)
        await page.click("#start")
        await expect(page.locator(".lane[data-state=live]")).to_have_count(1)
        for number in range(1, 9):
            translation = {"translation": " Olá.", "translated": True}
            script.segment(number, (number, " Hello."), text="Hello.", speaker=number, **translation)
        script.segment(9, (11, " Now"), speaker=None, diarization=" and", transcription=" the", translating=" Agora")
        lines = page.locator("#transcript li")
        await expect(lines.last.locator(".said > p").first).to_have_text("Now and the")
        await expect(lines.last.locator(".firm + .waiting + .tentative")).to_have_text("the")
        await expect(lines.last.locator(".translation > .tentative:only-child")).to_have_text("Agora")
        assert await lines.locator(".voice").all_text_contents() == [*(f"Speaker {i}" for i in range(1, 9)), "Somebody"]
        colours = await lines.locator(".voice").evaluate_all("all => all.map(one => getComputedStyle(one).color)")
        assert len(set(colours)) == 9
        await expect(lines.first.locator(".translation")).to_have_attribute("lang", "pt-Latn")
        for theme in ("light", "dark"):
            await page.wait_for_timeout(200)
            count, contrast = await page.evaluate(CONTRAST, theme)
            assert count == 9 + 16 + 4 and contrast >= 4.5, theme
            await picture(page, f"page-speakers-{theme}")
        await page.set_viewport_size({"width": 320, "height": 640})
        assert await page.evaluate("document.documentElement.scrollWidth") == 320
        await picture(page, "page-speakers-phone")


async def test_speakers_after_a_lost_connection(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """Within a stream speakers keep their numbers; those of another stream are not taken for them."""
    script = ScriptedServer()
    async with serving(engine, vad) as server, browsing(tmp_path) as page:
        await script.listen(page)
        await page.goto(server.url)
        await page.click("#start")
        await expect(page.locator(".lane[data-state=live]")).to_have_count(1)
        script.segment(1, (1, " One."), text="One.", speaker=2, translation=" Um.", translated=True)
        script.segment(2, (4, " Two"), speaker=1, diarization=" three")
        await expect(page.locator("#transcript .waiting")).to_have_text("three")
        for resumes, number, speaker, text in [(True, 2, 1, " four"), (False, 1, 1, " Five")]:
            script.resumes, lost = resumes, script.sockets[-1]
            await lost.close()
            await until(lambda lost=lost: script.sockets[-1] is not lost)
            script.segment(number, (7 if resumes else 11, text), speaker=speaker)
            await expect(page.locator("#transcript li").last).to_contain_text(text)
        heard = await page.locator("#transcript .voice, #transcript .said > p:not(.translation)").all_text_contents()
        await expect(page.locator("#transcript .waiting")).to_have_count(0)
    assert heard == ["Speaker 2", "One.", "Speaker 1", "Two four", "Speaker 3", "Five"]


async def test_what_this_server_does_not_have_is_not_asked_for(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """A language that was chosen before is forgotten where it is not offered any more; the other wishes stay."""
    script = ScriptedServer()
    async with serving(engine, vad, translation="whisper") as server, browsing(tmp_path) as page:
        await script.listen(page)
        await page.goto(server.url)
        kept = json.dumps({"target_language": "pt", "diarization": "off"})
        await page.evaluate(f"localStorage.setItem('wyoming-wlk', {json.dumps(kept)})")
        await page.reload()
        await expect(page.locator("#target option")).to_have_text(["As the server is set up", "None", "English"])
        await page.click("#start")
        await expect(page.locator(".lane[data-state=live]")).to_have_count(1)
        asked = script.sockets[0].url
        assert "diarization=off" in asked and "target_language" not in asked
        await expect(page.locator("#target")).to_have_value("")


async def test_remarks_of_the_stages(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """What a stage cannot do is said once and without alarm, and stays away when it was read."""
    script = ScriptedServer()
    async with serving(engine, vad) as server, browsing(tmp_path) as page:
        await script.listen(page)
        await page.goto(server.url)
        await page.click("#start")
        await expect(page.locator(".lane[data-state=live]")).to_have_count(1)
        for _ in range(2):
            script.tell(type="notice", stage="translation", text="no translation from en to cy", failed=True)
        remark = page.get_by_role("status").filter(has=page.locator("#remark"))
        await expect(remark).to_have_text("No translation from en to cy")
        await expect(page.get_by_role("alert")).to_have_count(0)
        await page.click("#remark-close")
        script.tell(type="notice", stage="translation", text="no translation from en to cy", failed=True)
        script.segment(1, (1, " On"), speaker=1)
        await expect(page.locator("#transcript")).to_contain_text("On")
        await expect(page.locator("#remark")).to_be_hidden()


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


BUILD = """async (updates) => {
    const load = (name) => import(new URL(`page/${name}.js`, document.baseURI));
    const { Transcript, paragraphs } = await load("transcript");
    const { FORMATS } = await load("formats");
    const transcript = new Transcript();
    for (const one of updates) {
        const { words, tentative = "", source = "mic", ...rest } = one;
        const id = rest.id ?? 1;
        const segment = {
            speaker: null, language: null, translation: "", diarized: false, target: null,
            ...rest, stream: source, key: `k${id}`, nextKey: `k${id + 1}`,
            words: words.map(([start, text]) => ({ start, end: start + 0.3, text })),
            buffer: { transcription: tentative, diarization: "", translation: "" },
        };
        transcript.apply(source, { type: "transcript_update", segments: [segment] }, 0);
    }
    const written = {};
    const names = { mic: "Mic", tab: "Tab" };
    for (const name of Object.keys(FORMATS)) written[name] = FORMATS[name].write(transcript.segments, names);
    written.silences = paragraphs(transcript.segments).map((paragraph) => paragraph.silence);
    return written;
}"""


async def test_transcript_and_formats(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """Final text replaces the early one, words behind a cut go to the next segment, pale words are not exported."""
    async with serving(engine, vad) as server, browsing(tmp_path) as page:
        await page.goto(server.url)
        found = await page.evaluate(BUILD, SEGMENTS)
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


TOLD = {"diarized": True, "target": "zh-Hans"}
OF_SPEAKERS: list[dict[str, Any]] = [
    {"words": [(1, " Hm.")], **TOLD},
    {"id": 2, "words": [(2, " Good"), (2.4, " morning.")], "speaker": 1, "translation": "早上好。", **TOLD},
    {"id": 2, "words": [], "translated": True, **TOLD},
    {"id": 3, "words": [(3, " Not"), (3.4, " yet")], "speaker": 1, "translation": "还", **TOLD},
    {"id": 9, "words": [(4, " Hello")], "source": "tab"},
]


async def test_formats_with_speakers(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """Speakers are named; subtitles are in the other language where there is all of it, texts have both."""
    async with serving(engine, vad) as server, browsing(tmp_path) as page:
        await page.goto(server.url)
        alone = await page.evaluate(BUILD, OF_SPEAKERS[:-1])
        found = await page.evaluate(BUILD, OF_SPEAKERS)
    assert alone["txt"] == "Somebody: Hm.\n\nSpeaker 1: Good morning. Not yet\n早上好。还\n"
    assert re.findall("(?m)^[^\\d\\n].*", alone["srt"]) == ["Somebody: Hm.", "Speaker 1: 早上好。", "Not yet"]
    assert re.findall("<v.*", alone["vtt"]) == ["<v Somebody>Hm.", "<v Speaker 1>早上好。", "<v Speaker 1>Not yet"]
    assert re.findall("(?m)^[^\\d\\n].*", found["srt"])[1:] == ["Mic, speaker 1: 早上好。", "Not yet", "Hello"]
    assert "Mic, speaker 1: Good morning. Not yet" in found["txt"] and "\nTab: Hello" in found["txt"]
    segments = json.loads(found["json"])["segments"]
    assert [segment.get("target_language") for segment in segments] == ["zh-Hans"] * 3 + [None]
    assert [segment["translation"] for segment in segments] == ["", "早上好。", "还", ""]
