"""VERBS. Load, decide, write, announce. The only layer that runs SQL."""
