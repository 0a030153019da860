"""The longest Python blocks of README and docs, run with smaller sizes."""

import os
import subprocess
import sys

import pytest

from tests import documents
from tests.documents import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


def run_code(code, folder):
    """Runs Python in a process of its own, which must succeed."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_guide_trains_with_fit(tmp_path):
    code = documents.replaced(
        documents.block("docs/guides/keras.md", "KNNMonitor"),
        {
            '"cifar10", "train"': (
                f'"instdisc_digits", "train[:96]", "{tmp_path}"'
            ),
            '"cifar10", "test"': (
                f'"instdisc_digits", "test[:64]", "{tmp_path}"'
            ),
            "epochs=200": "epochs=2",
            "batch_size=128": "batch_size=32",
            "(train, 128)": "(train, 32)",
        },
    )
    code += """
import numpy as np

assert "knn_top1" in model.history.history
assert int(model.step) == 6
encoder = keras.saving.load_model("encoder.keras")
assert encoder(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 128)
"""
    run_code(code, tmp_path)


def test_the_readme_runs_a_whole_life_cycle(tmp_path):
    code = documents.replaced(
        documents.block("README.md", "RunConfig"),
        {
            'dataset="cifar10", train_image_size=24': (
                'dataset="instdisc_digits", split="train[:96]", '
                f'test_split="test[:64]", data_dir="{tmp_path}", image_size=8'
            ),
            'objective="softmax")': (
                'objective="softmax"), '
                "encoder=tf_instdisc.EncoderConfig(width=1)"
            ),
            "epochs=30": "epochs=1, batch_size=32",
            '"knn", "linear"': "knn=tf_instdisc.KNNOptions(num_neighbors=5)",
            'bank_dtype="int8"': 'bank_dtype="int8", batch_sizes=(1,)',
        },
    )
    code += """
import numpy as np

assert run.path.joinpath("report.html").exists()
assert run.directory.load_results()["measurements"]
again = tf_instdisc.Run("runs/cifar10")
assert again.config == config
assert len(again.metrics) == 1
rows = again.load_bank().rows
assert rows.shape == (96, 128)
assert again.load_encoder()(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 128)

# It is finished: the same call does nothing, and more epochs go on.
assert tf_instdisc.train(config, "runs/cifar10").path == run.path
assert len(again.metrics) == 1

# And a model of one's own.
source = tf_instdisc.array_source(np.zeros((6, 8, 8, 3), np.uint8))
model = tf_instdisc.InstanceDiscrimination(
    again.load_encoder(), 6, objective="softmax", temperature=0.2
)
model.compile(optimizer="sgd")
model.fit(tf_instdisc.training_dataset(
    source, tf_instdisc.Augmentation(8), 3, epochs=1), steps_per_epoch=2)
mine = tf_instdisc.save_run(model, source, "runs/mine")
assert mine.config.method.temperature == 0.2
assert mine.config.data.image_size == 8
np.testing.assert_allclose(
    mine.load_bank().rows,
    mine.load_encoder()(np.zeros((6, 8, 8, 3), np.uint8)),
    atol=1e-5,
)
"""
    run_code(code, tmp_path)
    assert (tmp_path / "models/cifar10/1/saved_model.pb").exists()
