"""Audio formats: whatever clients send, as 16 kHz mono float32."""
