"""Benchmarks: one module each, `python -m benchmarks.NAME [--tiny]`.

Each prints a Markdown table of ratios taken in one run. PyTorch and faiss are
compared where they are installed (`pip install .[bench]`).
"""

import os

# As the commands have it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
