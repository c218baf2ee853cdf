"""Loading, saving, and the engine that turns a batch into log-probs and scores."""
