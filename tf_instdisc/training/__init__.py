"""Training a run: strategy, optimizer, checkpoints and callbacks."""
