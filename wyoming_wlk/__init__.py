"""wyoming-wlk: streaming speech-to-text for many clients on one Whisper model."""

__version__ = "0.1.0"
