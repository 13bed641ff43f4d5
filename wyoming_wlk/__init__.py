"""wyoming-wlk: streaming speech-to-text for many clients on one Whisper model."""

import os

__version__ = "0.1.0"

# Libraries that report to their makers unless told not to, before they are imported. Nothing leaves the machine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
