"""Each benchmark starts; what it measures stands in BENCHMARKS.md."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name",
    [
        "exact_softmax",
        "grown",
        "head",
        "input",
        "large_bank",
        "neighbors",
        "planted_duplicates",
        "serving",
        "startup",
        "step",
    ],
)
def test_it_prints_a_table_on_a_tiny_size(name):
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--tiny"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line]
    assert len(lines) >= 3
    assert all(line.startswith("| ") for line in lines)
