"""Readers of image files' structure: what is decoded, and at what cost."""
