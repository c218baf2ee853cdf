"""Pure tensor functions from engine outputs and a batch to loss terms."""
