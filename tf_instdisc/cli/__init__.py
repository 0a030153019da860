"""The commands. Only here are there absl flags; nothing imports TensorFlow
before the flags are parsed."""
