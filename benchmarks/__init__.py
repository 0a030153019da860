"""Benchmarks, one per module: `python -m benchmarks.NAME [--tiny]`.

Each benchmark prints a Markdown table of ratios that were measured in one run.
PyTorch and faiss are included in the comparison if they are installed
(`pip install .[bench]`).
"""

import os

# The commands set this as well.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
