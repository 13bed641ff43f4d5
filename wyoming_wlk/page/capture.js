// Sound from a microphone, or from a tab or the system, as pieces of s16 samples. Knows nothing of who wants them.

const PIECE_SECONDS = 0.05;

/** Why there is no sound, in words for the user. */
export class CaptureError extends Error {}

/** What stands against any capture at all, or null. */
export function obstacle() {
  if (!globalThis.isSecureContext) {
    return "Browsers give the microphone only to pages that come over https or from localhost. Open this page by https.";
  }
  if (!navigator.mediaDevices?.getUserMedia || !globalThis.AudioWorkletNode) {
    return "This browser is too old to record sound here.";
  }
  return null;
}

/** The microphones, as {id, label}. Labels are empty until the user has allowed one. */
export async function microphones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices
    .filter((device) => device.kind === "audioinput" && device.deviceId)
    .map((device) => ({ id: device.deviceId, label: device.label }));
}

/** Whether this browser can share a tab's or the system's sound. */
export function canShare() {
  return Boolean(navigator.mediaDevices?.getDisplayMedia);
}

/** Raises CaptureError. */
export async function openMicrophone(deviceId) {
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  if (deviceId) audio.deviceId = { ideal: deviceId };
  return start(() => navigator.mediaDevices.getUserMedia({ audio }), {
    NotAllowedError: "The microphone was not allowed. Allow it beside the address of this page, then start again.",
    NotFoundError: "There is no microphone.",
    NotReadableError: "Another program uses the microphone.",
  });
}

/** Raises CaptureError. */
export async function openShare() {
  // Without video browsers offer nothing to share.
  const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  return start(() => navigator.mediaDevices.getDisplayMedia({ video: true, audio }), {
    NotAllowedError: "Nothing was shared.",
    NotFoundError: "There is nothing to share.",
  });
}

async function start(open, reasons) {
  let stream;
  try {
    stream = await open();
  } catch (error) {
    throw new CaptureError(reasons[error.name] ?? `The sound cannot be recorded: ${error.message || error.name}`);
  }
  if (!stream.getAudioTracks().length) {
    for (const track of stream.getTracks()) track.stop();
    throw new CaptureError("What was shared has no sound. Choose a tab, and tick “share audio”.");
  }
  const context = new AudioContext();
  try {
    await context.audioWorklet.addModule(new URL("./worklet.js", import.meta.url));
    await context.resume();
  } catch (error) {
    for (const track of stream.getTracks()) track.stop();
    await context.close();
    throw new CaptureError(`The sound cannot be recorded: ${error.message}`);
  }
  return new Capture(stream, context);
}

/** A running capture. `onpiece(samples, peak)` and `onended()` are set by whoever wants to know. */
export class Capture {
  #context;
  #node;
  #tracks;

  constructor(stream, context) {
    this.onpiece = this.onended = () => {};
    this.rate = context.sampleRate;
    this.label = stream.getAudioTracks()[0].label;
    this.#context = context;
    this.#tracks = stream.getTracks();
    for (const track of this.#tracks) track.onended = () => this.onended();
    const processorOptions = { size: Math.round(this.rate * PIECE_SECONDS) };
    this.#node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0, processorOptions });
    this.#node.port.onmessage = ({ data }) => this.onpiece(data.samples, data.peak);
    context.createMediaStreamSource(new MediaStream(stream.getAudioTracks())).connect(this.#node);
    // A phone that was locked, or a call, suspends the context.
    document.addEventListener("visibilitychange", this.#wake);
  }

  /** Stops; the last samples have come when this returns. */
  async stop() {
    document.removeEventListener("visibilitychange", this.#wake);
    if (this.#context.state === "running") {
      await new Promise((resolve) => {
        this.#node.port.onmessage = ({ data }) => {
          if (data.samples.length) this.onpiece(data.samples, data.peak);
          if (data.ended) resolve();
        };
        this.#node.port.postMessage("stop");
      });
    }
    for (const track of this.#tracks) {
      track.onended = null;
      track.stop();
    }
    await this.#context.close();
  }

  #wake = () => {
    if (!document.hidden && this.#context.state !== "closed") this.#context.resume();
  };
}
