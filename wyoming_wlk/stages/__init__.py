"""Stages: what is made of a client's audio or words beside the transcript itself (who speaks, translations)."""
