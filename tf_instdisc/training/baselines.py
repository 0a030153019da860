"""The kNN accuracies with which that of the trained encoder is compared."""

import shlex
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_instdisc import remote
from tf_instdisc.runs.embedding import embed, inference
from tf_instdisc.text import shown
from tf_instdisc.training import initial_encoder, knn
from tf_instdisc.training.parts import Work


def measure(
    work: Work, encode: Callable[[tf.Tensor], Any] | None = None
) -> dict[str, list[float]]:
    """Returns the kNN of raw pixels and of the initial encoder, if wanted.

    Args:
        encode: The initial encoder; by default, it is built again.
    """
    test = _test_images(work)
    if test is None:
        return {}
    if encode is None:
        # The model was built after the same seed.
        keras.utils.set_random_seed(work.config.training.seed)
        encode = inference(initial_encoder.initial_encoder(work.config))
    train = work.train_images
    is_trained = initial_encoder.trained_before(work.config) is not None
    name = "initial encoder" if is_trained else "untrained encoder"
    return {
        "raw pixels": work.measure(knn.pixels(train), knn.pixels(test)),
        name: work.measure(embed(encode, train), embed(encode, test)),
    }


def print_missing(work: Work) -> None:
    """Prints how a finished run is compared with the baselines, if wanted."""
    if _test_images(work) is not None:
        path = shlex.quote(shown(remote.named(str(work.run.path))))
        print(
            "note: --baselines are measured while a run is trained. To compare "
            f"this one: instdisc evaluate --run_dir={path} --protocol=knn "
            "--baselines"
        )


def _test_images(work: Work) -> tf.data.Dataset | None:
    """Returns the images for kNN; None if baselines are not wanted."""
    is_wanted = work.config.training.baselines and work.is_chief
    return work.test_images if is_wanted else None
