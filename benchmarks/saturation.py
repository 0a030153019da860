"""Saturation of NCE in runs of instdisc-reproduce.

NCE compares P(i|v) with the probability m / n of m noise samples. As
h(i, v) = n P / (n P + m) approaches 1, the gradient of the positive, 1 - h,
vanishes, so m limits how far a run can get. The table contains n P(i|v) of
training crops at the end of each run, and the resulting h.

    python -m benchmarks.saturation --runs_dir=runs/reproduce/cifar10_sweep \\
      --data_dir=...
"""

import argparse
import pathlib

import numpy as np
import tensorflow as tf

from benchmarks import timing
from tf_instdisc.config.run import at_train_size
from tf_instdisc.data import pipeline
from tf_instdisc.data.augment import Augmentation
from tf_instdisc.data.tfds_source import tfds_source
from tf_instdisc.method.encoders import encoder_of
from tf_instdisc.runs import checkpoints, opening
from tf_instdisc.runs.load import load_encoder

_BATCH = 250
_BATCHES = 16


def noise_ratios(path: pathlib.Path, data_dir: str | None) -> np.ndarray:
    """Computes n P(i|v) of training crops, with Z as their mean as in NCE.

    Args:
        path: Directory of a run.
        data_dir: Data directory of TFDS.

    Returns:
        float64 `[images]`. A uniform guess has the value 1.
    """
    run = opening.load(str(path))
    config = run.read_config()
    saved, _ = checkpoints.find_newest(run.checkpoints)
    state = tf.train.load_checkpoint(str(saved.path / "state"))
    bank = state.get_tensor("memory_bank/.ATTRIBUTES/VARIABLE_VALUE")
    bank = bank.astype(np.float32)
    config = at_train_size(config)
    size = config.data.image_size
    encoder = encoder_of(config)
    encoder.set_weights(load_encoder(path).get_weights())
    source = tfds_source(config.data.dataset, config.data.split, data_dir)
    crops = pipeline.training_dataset(
        source, Augmentation(image_size=size), _BATCH, epochs=1
    )
    positives, sums = [], []
    for images, ids in crops.take(_BATCHES):
        # Use batch statistics, as in training.
        embeddings = encoder(images, training=True).numpy()
        logits = embeddings.astype(np.float64) @ bank.T
        logits /= config.method.temperature
        positives.append(logits[np.arange(len(logits)), ids.numpy()])
        sums.append(np.exp(logits).sum(axis=1))
    normalizer = np.concatenate(sums).mean()
    return len(bank) * np.exp(np.concatenate(positives)) / normalizer


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs_dir", required=True)
    parser.add_argument("--data_dir")
    options = parser.parse_args()
    rows = []
    for name in ("base", "nce-4096", "nce-512", "nce-10", "nce-1"):
        path = pathlib.Path(options.runs_dir, name, "seed0")
        if not path.exists():
            continue
        ratios = noise_ratios(path, options.data_dir)
        mean_h = ""
        if name != "base":
            num_negatives = int(name.removeprefix("nce-"))
            mean_h = f"{np.mean(ratios / (ratios + num_negatives)):.3f}"
        rows.append([name, f"{np.median(ratios):.1f}", mean_h])
    timing.print_table(["run", "median of n P(i given v)", "mean h"], rows)


if __name__ == "__main__":
    main()
