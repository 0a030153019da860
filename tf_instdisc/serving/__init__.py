"""Exports a trained encoder and its bank as a SavedModel for TF Serving."""
