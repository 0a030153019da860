"""The commands. Only this package uses absl flags, and it imports TensorFlow
only after they are parsed."""
