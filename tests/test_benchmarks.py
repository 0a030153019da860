"""Each benchmark starts; what it measures stands in BENCHMARKS.md."""

import pathlib
import subprocess
import sys

import pytest

from benchmarks import growth, h100
from tf_instdisc import build_encoder

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name",
    [
        "exact_softmax",
        "grown",
        "growth",
        "h100",
        "head",
        "imagenet_form",
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


def test_the_paper_plan_counts_what_is_known_of_resnet50():
    # torchvision lists 4.09 billion multiply-adds at 224 pixels, and
    # 25,557,032 weights with a classifier of 1000 classes.
    encoder = build_encoder("resnet50", image_size=224, embedding_dim=1000)
    layers = h100.count_layers(encoder)
    assert layers.weights == 25_557_032
    assert layers.multiply_adds == pytest.approx(4.09e9, rel=2e-3)
    # 7x7x3 sums for each of 112 x 112 x 64 outputs.
    assert layers.first_multiply_adds == 112 * 112 * 64 * 7 * 7 * 3


def test_a_part_takes_the_longer_of_memory_and_arithmetic():
    part = h100.Part("a part", 3.35e9, 67e9, "float32")
    assert part.seconds == pytest.approx(1e-3)
    assert h100.Part("a part", 6.7e9, 67e9, "float32").bound_by == "memory"
    assert h100.Part("a part", 1e9, 67e9, "float32").bound_by == "arithmetic"


@pytest.mark.parametrize(
    ("law", "y"),
    [
        ("constant", [3.0, 3.0, 3.0]),
        ("a + b x", [5.0, 41.0, 401.0]),
    ],
)
def test_a_law_meets_points_that_obey_it(law, y):
    assert growth.expected(law, [1, 10, 100], y) == pytest.approx(y)
