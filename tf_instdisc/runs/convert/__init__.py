"""From PyTorch checkpoints to run directories, without PyTorch."""
