"""Settings of the images and their augmentation."""

import dataclasses
from typing import Any

from tf_instdisc.config.fields import Settings, require_defaults, setting
from tf_instdisc.errors import UsageError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".png", ".gif", ".bmp", ".webp"),
)
"""Suffixes of the files that count as images in a folder, in lower case."""
MAX_PIXELS = 2**27
"""The limit for images in a folder. Larger images are rejected undecoded."""

BAD_IMAGES = ("fail", "skip")
CACHES = ("auto", "memory", "none")
OF_A_DATASET = ("split", "test_split", "data_dir", "image_key", "label_key")


def data_dir_setting() -> Any:
    """Returns the field of the flag --data_dir."""
    return setting(
        None,
        "Directory in which TFDS keeps its data; by default, TFDS chooses it.",
        is_path=True,
    )


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """Images

    ```python
    data = tf_instdisc.DataConfig(
        images="photos", test_images="photos_test", image_size=64
    )
    ```
    """

    dataset: str | None = setting(
        None, "TFDS dataset to train on, such as cifar10."
    )
    split: str = setting("train", "Split of --dataset to train on.")
    test_split: str | None = setting(
        None,
        "Split of --dataset whose images are classified by kNN; by default "
        "test, or validation if there is no test split. Empty for none.",
    )
    image_key: str | None = setting(
        None,
        "Feature of --dataset that holds the images; image by default. A / "
        "separates the levels of nested features.",
    )
    label_key: str | None = setting(
        None,
        "Feature of --dataset that holds the labels: a class, an integer or a "
        "string. By default label, if there is one; empty for no labels.",
    )
    data_dir: str | None = data_dir_setting()
    images: str | None = setting(
        None,
        "Folder of images to train on, instead of --dataset.",
        is_path=True,
    )
    test_images: str | None = setting(
        None,
        "Folder of images that are classified by kNN, with the same class "
        "subfolders as --images.",
        is_path=True,
    )
    bad_images: str = setting(
        "fail",
        "What to do if files in a folder cannot be read as images.",
        choices=BAD_IMAGES,
    )
    cache: str = setting(
        "auto",
        "Whether --dataset is decoded into memory once or read in every "
        "epoch. auto: into memory if all images have the same shape and take "
        "up at most 2 GiB.",
        choices=CACHES,
    )
    shuffle_buffer: int = setting(
        16_384,
        "Size of the shuffle buffer, in encoded images, without a cache.",
        least=1,
    )
    image_size: int = setting(
        32, "Side of the encoder's input, in pixels.", least=8
    )
    train_image_size: int | None = setting(
        None,
        "Side of the training crops; --image_size by default. Objects appear "
        "larger in random crops than in whole images, so three quarters of "
        "--image_size is a good value, and faster (Touvron et al. 2019, arXiv "
        "1906.06423).",
        least=8,
    )
    crop_fraction: float = setting(
        1.0,
        "Center crop in evaluation, as a fraction of the resized shorter "
        "side; 0.875 is common on ImageNet.",
        least=0.1,
        most=1.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset and self.images:
            raise UsageError(
                "Give either `dataset` or `images`. Received: "
                f"dataset={self.dataset} and images={self.images}"
            )
        if self.images:
            require_defaults(self, OF_A_DATASET, "images")
        elif self.test_images:
            raise UsageError(
                "`test_images` requires `images`. Received: "
                f"test_images={self.test_images}, images=None and dataset="
                f"{self.dataset}. Use `test_split` with a `dataset`."
            )

    def require_images(self) -> None:
        """Raises UsageError unless a dataset or a folder is named."""
        if not self.dataset and not self.images:
            raise UsageError(
                "A run needs images. Received: dataset=None and images=None. "
                "Give `dataset` or `images`."
            )


def data_overrides(settings: Settings) -> dict[str, Any]:
    """Returns the settings that override those of a run's images.

    Returns:
        Fields of `DataConfig` by name, without those that are None.
    """
    names = {field.name for field in dataclasses.fields(DataConfig)}
    return {
        name: value
        for name, value in vars(settings).items()
        if name in names and value is not None
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig(Settings):
    """Augmentation

    ```python
    augmentation = tf_instdisc.AugmentationConfig(min_crop_area=0.4, flip=False)
    ```
    """

    min_crop_area: float = setting(
        0.2,
        "Smallest fraction of the image's area that a crop covers.",
        least=0.01,
        most=1,
    )
    brightness: float = setting(
        0.4, "Range of the brightness factor: [1 - x, 1 + x].", least=0
    )
    contrast: float = setting(
        0.4, "Range of the contrast factor: [1 - x, 1 + x].", least=0
    )
    saturation: float = setting(
        0.4, "Range of the saturation factor: [1 - x, 1 + x].", least=0
    )
    hue: float = setting(
        0.4,
        "Rotation of the hue in [-x, x], as a fraction of the color circle.",
        least=0,
        most=0.5,
    )
    grayscale_probability: float = setting(
        0.2, "Probability of conversion to grayscale.", least=0, most=1
    )
    flip: bool = setting(True, "Mirror half of the images.")
