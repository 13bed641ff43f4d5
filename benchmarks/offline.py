"""Transcribes whole clips with faster-whisper: what the same model does with all of the audio at once.

Runs in the environment of a peer and needs nothing but faster-whisper. stdin: {"model", "files", "beams", "threads"};
stdout: for each number of beams a list of [text, seconds], one per file.
"""

import json
import sys
import time

import numpy as np
from faster_whisper import WhisperModel, decode_audio


def main() -> None:
    job = json.load(sys.stdin)
    model = WhisperModel(job["model"], device="cpu", compute_type="int8", cpu_threads=job["threads"])
    clips = [decode_audio(file) for file in job["files"]]
    results = []
    for beams in job["beams"]:
        transcribe(model, clips[0], beams)  # the first time always takes longer
        results.append([transcribe(model, clip, beams) for clip in clips])
    json.dump(results, sys.stdout)


def transcribe(model: WhisperModel, clip: np.ndarray, beams: int) -> tuple[str, float]:
    began = time.perf_counter()
    text = "".join(segment.text for segment in model.transcribe(clip, language="en", beam_size=beams)[0])
    return text, time.perf_counter() - began


if __name__ == "__main__":
    main()
