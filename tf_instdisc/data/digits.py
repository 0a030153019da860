"""The handwritten digits included in scikit-learn, as a TFDS builder.

Importing this module registers `tfds.builder("instdisc_digits")`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class InstdiscDigits(tfds.core.GeneratorBasedBuilder):
    """1,797 digits of 8x8 pixels; nothing is downloaded.

    Source: the test part of the UCI optical recognition of handwritten digits
    dataset (Alpaydin, Kaynak 1998), as in `sklearn.datasets.load_digits`.
    Every fifth image is in `test` (360), the others are in `train` (1,437).
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        return {
            "train": self._generate_examples(test=False),
            "test": self._generate_examples(test=True),
        }

    def _generate_examples(
        self, test: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn import datasets

        digits = datasets.load_digits()
        # scikit-learn stores pixels in 0..16.
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        for i, (image, label) in enumerate(
            zip(images, digits.target, strict=True)
        ):
            if (i % 5 == 0) == test:
                yield i, {"image": image[:, :, None], "label": int(label)}
