"""RetinaNet on a trained encoder, and its average precision."""
