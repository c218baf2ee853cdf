"""One file per kind of stage: its settings, and how to run it. The recipe lists them."""
