"""The paper's evaluations, with one protocol in each file."""
