"""Readers of image file structures: what is decoded, and at what cost."""
