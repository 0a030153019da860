"""The paper's evaluations, one protocol a file."""
