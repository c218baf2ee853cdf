"""Judges: anything that compares two answers to one prompt."""
