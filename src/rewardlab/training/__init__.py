"""The loop, and the algorithms that fill its batches."""
