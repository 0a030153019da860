"""The README's Python, run as it stands but for sizes."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_the_readme_trains_from_python(tmp_path):
    section = (ROOT / "README.md").read_text().partition("## From Python\n")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    for whole, small in (
        (
            '"cifar10", "train"',
            f'"instdisc_digits", "train[:96]", "{tmp_path}"',
        ),
        ('"cifar10", "test"', f'"instdisc_digits", "test[:64]", "{tmp_path}"'),
        ("epochs=200", "epochs=2"),
        ("batch_size=128", "batch_size=32"),
        ("(train, 128)", "(train, 32)"),
    ):
        assert whole in code
        code = code.replace(whole, small)
    code += """
import numpy as np

assert "knn_top1" in model.history.history
assert int(model.step) == 6
encoder = keras.saving.load_model("encoder.keras")
assert encoder(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 128)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
