"""The speech model: Whisper itself, its decoding policies, and the scheduling of many clients on it."""
