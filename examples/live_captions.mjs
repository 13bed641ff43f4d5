// Streams a WAV file (16 bit, mono) to the server as if it were spoken now, and prints words as they come.
// Needs node 22 or newer: node examples/live_captions.mjs FILE.wav [ws://127.0.0.1:10380]
import { readFileSync } from "node:fs";

const [path, server = "ws://127.0.0.1:10380"] = process.argv.slice(2);
const file = readFileSync(path);
const rate = file.readUInt32LE(24);
const audio = file.subarray(file.indexOf("data") + 8);

const query = new URLSearchParams({ client_id: "example-js", format: "updates", encoding: "s16le", sample_rate: rate });
const socket = new WebSocket(`${server}/ws/transcription?${query}`);

async function speak() {
  const chunk = Math.floor(rate / 10) * 2;
  for (let start = 0; start < audio.length; start += chunk) {
    socket.send(audio.subarray(start, start + chunk));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  socket.send(JSON.stringify({ type: "stop" }));
}

socket.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  if (message.type === "session") speak();
  else if (message.type === "error") console.error(message.error);
  else if (message.type === "transcript_update")
    for (const segment of message.segments) process.stdout.write(segment.text + (segment.ended ? "\n" : ""));
};
socket.onerror = () => console.error(`no connection to ${server}`);
