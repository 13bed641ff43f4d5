// Puts the page together: what the buttons do. Everything else is in the modules beside it.

import { CaptureError, canShare, microphones, obstacle, openMicrophone, openShare } from "./capture.js";
import { randomName } from "./connection.js";
import { FORMATS } from "./formats.js";
import { Plots } from "./plots.js";
import { Settings, Theme, bindFields } from "./settings.js";
import { Source } from "./source.js";
import { Transcript } from "./transcript.js";
import { TranscriptView, languageName, make } from "./view.js";

const find = (id) => document.getElementById(id);
const CLEAR = find("clear").textContent;
const COPY = find("copy").textContent;
const settings = new Settings();
const theme = new Theme(settings.get("theme"));
const transcript = new Transcript();
const sources = new Map();
const used = new Map(); // the sources that have said something, which the transcript names
const view = new TranscriptView(transcript, find("transcript"), find("spoken"), used);
const anyName = `page-${randomName(3)}`;
const remarks = new Set(); // what was remarked since the first source began
let began = null; // when the first source began: the transcript's zero
let token = recalled();

// --- sources ---------------------------------------------------------------------------------------------------------

const page = {
  address(id, rate, extra) {
    const query = new URLSearchParams({
      client_id: `${settings.get("name").trim() || anyName} ${id}`,
      format: "updates",
      encoding: "s16le",
      sample_rate: rate,
      ...settings.query(),
      ...extra,
    });
    if (token) query.set("token", token);
    const url = new URL(`ws/transcription?${query}`, document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    return url;
  },

  message(source, message) {
    if (message.type === "notice") {
      remark(message.text);
      return;
    }
    used.set(source.id, source);
    const said = transcript.apply(source.id, message, source.began - began);
    view.announce(said, message.segments?.some((segment) => segment.ended) ?? message.type === "restart");
    view.update();
    showExport();
  },

  locked() {
    find("token-note").textContent = token ? "The server does not take this one." : "";
    if (!find("token-dialog").open) find("token-dialog").showModal();
  },

  failed(text) {
    notify(text);
  },

  changed(source) {
    if (source.state === "running") began ??= source.began;
    showButtons();
  },
};

function addSource(id, name, colour, button, open) {
  const source = new Source({ id, name, colour }, find("lanes"), page);
  sources.set(id, source);
  button.addEventListener("click", async () => {
    notify("");
    if (idle()) forgetRemarks();
    try {
      await (source.state === "idle" ? source.start(open) : source.stop());
    } catch (error) {
      if (!(error instanceof CaptureError)) throw error;
      notify(error.message);
    }
    showMicrophones(); // names are told once one is allowed
  });
}

function idle() {
  return [...sources.values()].every((source) => source.state === "idle");
}

function showButtons() {
  const words = { idle: "Start", starting: "Starting …", running: "Stop", finishing: "Finishing …" };
  const microphone = sources.get("microphone")?.state ?? "idle";
  find("start").querySelector(".label").textContent = words[microphone];
  find("start").dataset.state = microphone;
  const shared = sources.get("shared")?.state ?? "idle";
  find("share").querySelector(".label").textContent = shared === "idle" ? "Add tab or system audio" : "Stop shared audio";
  find("share").dataset.state = shared;
  find("device").disabled = microphone !== "idle";
  showExport();
}

async function showMicrophones() {
  const list = find("device");
  const found = await microphones();
  const options = found.filter((one) => one.id !== "default" && one.label).map((one) => new Option(one.label, one.id));
  list.replaceChildren(new Option("Default microphone", ""), ...options);
  list.value = settings.get("device");
  if (list.selectedIndex < 0) list.value = "";
}

// --- the transcript --------------------------------------------------------------------------------------------------

function showExport() {
  const empty = !transcript.segments.length;
  find("welcome").hidden = !empty || !idle();
  find("listening").hidden = !empty || idle();
  for (const id of ["copy", "download", "format", "clear"]) find(id).disabled = empty;
}

function exported(format) {
  const names = Object.fromEntries([...used].map(([id, source]) => [id, source.name]));
  return FORMATS[format].write(transcript.segments, names);
}

find("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(exported("txt"));
    if (find("copy").textContent === COPY) flash(find("copy"), "Copied", 1500);
  } catch {
    notify("The browser does not let this page copy. Download the text instead.");
  }
});

find("download").addEventListener("click", () => {
  const format = find("format").value;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([exported(format)], { type: `${FORMATS[format].mime};charset=utf-8` }));
  link.download = `transcript-${new Date().toISOString().slice(0, 16).replace(/[:T]/g, "-")}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});

find("clear").addEventListener("click", () => {
  if (find("clear").textContent === CLEAR) {
    flash(find("clear"), "Really clear?", 3000);
    return;
  }
  transcript.clear();
  view.update();
  showExport();
});

function flash(button, text, milliseconds) {
  const label = button.textContent;
  button.textContent = text;
  setTimeout(() => (button.textContent = label), milliseconds);
}

addEventListener("beforeunload", (event) => {
  if (!idle()) event.preventDefault();
});

// --- the server ------------------------------------------------------------------------------------------------------

const plots = new Plots(find("plots"), find("plots-note"), async () => {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(new URL("metrics", document.baseURI), { headers, cache: "no-store" }).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  if (answer.status === 401) {
    page.locked();
    throw new Error("The server asks for its token.");
  }
  if (!answer.ok) throw new Error("This server does not publish its figures.");
  return answer.text();
});

const tabs = [find("tab-transcript"), find("tab-server")];

function choose(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    find(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (tab === find("tab-server")) plots.start();
  else plots.stop();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = tabs[1 - tabs.indexOf(tab)];
    choose(other);
    other.focus();
  });
}

async function showLanguages() {
  const answer = await fetch(new URL("languages.json", import.meta.url)).catch(() => null);
  const { spoken, targets } = answer?.ok ? await answer.json() : { spoken: [], targets: [] };
  offer(find("language"), spoken);
  offer(find("target"), targets);
}

function offer(list, codes) {
  const options = codes.map((code) => new Option(languageName(code), code));
  options.sort((a, b) => a.text.localeCompare(b.text));
  list.append(...options);
  list.value = settings.get(list.name);
  if (list.selectedIndex >= 0) return;
  list.value = "";
  if (codes.length) settings.set(list.name, ""); // this server does not have it
}

// --- token, notices, settings ----------------------------------------------------------------------------------------

function recalled() {
  try {
    return sessionStorage.getItem("wyoming-wlk-token") ?? "";
  } catch {
    return "";
  }
}

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  try {
    sessionStorage.setItem("wyoming-wlk-token", token);
  } catch {
    // it is then asked for again
  }
  find("token-dialog").close();
  for (const source of sources.values()) source.retry();
  if (!find("server-panel").hidden) plots.start();
});

function notify(text) {
  find("notice-text").textContent = text;
  find("notice").hidden = !text;
}

/** What the user may want to know, but need not act on: once, without alarm. */
function remark(text) {
  if (remarks.has(text)) return;
  remarks.add(text);
  find("remark-text").append(make("p", "", text.charAt(0).toUpperCase() + text.slice(1)));
  find("remark").hidden = false;
}

function hideRemarks() {
  find("remark").hidden = true;
  find("remark-text").replaceChildren();
}

function forgetRemarks() {
  hideRemarks();
  remarks.clear();
}

find("notice-close").addEventListener("click", () => notify(""));
find("remark-close").addEventListener("click", hideRemarks);
find("open-settings").addEventListener("click", () => find("settings").showModal());
find("close-settings").addEventListener("click", () => find("settings").close());
find("token-cancel").addEventListener("click", () => {
  find("token-dialog").close();
  plots.stop();
  for (const source of sources.values()) if (source.state !== "idle") source.stop().then(() => source.stop());
});

bindFields(settings, (name) => name === "theme" && theme.show(settings.get("theme")));
addSource("microphone", "Microphone", 0, find("start"), () => openMicrophone(settings.get("device")));
addSource("shared", "Shared audio", 1, find("share"), openShare);
find("share").hidden = !canShare();
navigator.mediaDevices?.addEventListener?.("devicechange", showMicrophones);
const reason = obstacle();
if (reason) notify(reason);
find("start").disabled = find("share").disabled = Boolean(reason);
showButtons();
showMicrophones();
showLanguages();
