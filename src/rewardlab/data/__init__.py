"""Readers and checks, chat rendering and masks, row order."""
