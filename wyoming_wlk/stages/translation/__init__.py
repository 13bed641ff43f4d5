"""Translators: committed words of one language into text of another."""
