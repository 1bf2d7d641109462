"""Frozen nouns and pure rules: no IO, no clock, no vendor."""
