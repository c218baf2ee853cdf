"""The run folder: recipe, manifest, metrics, rollouts, checkpoints."""
