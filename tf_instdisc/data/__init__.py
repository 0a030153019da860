"""Images with stable instance ids, from disk to augmented batches."""
