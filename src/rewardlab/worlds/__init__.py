"""Synthetic worlds: prompts, a gold reward the learner never sees, and a labeller that sees it corrupted."""
