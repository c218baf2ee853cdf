"""Code that must not hurt us: killable child processes and a sandbox for generated programs."""
