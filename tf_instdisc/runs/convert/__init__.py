"""From checkpoints of PyTorch to run directories, without PyTorch."""
