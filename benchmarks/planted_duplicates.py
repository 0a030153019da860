"""Precision and recall of near-duplicates that are planted among images.

    python -m benchmarks.planted_duplicates --run_dir=RUN [--images=FOLDER]

Every fifth image is stored four more times: enlarged by 1.5, as a JPEG of
quality 50, mirrored, and with 2.5% cut off at each side. Any two copies of an
image form a pair to be found. The images are those of a folder, or of the test
split of the TFDS dataset of the run.
"""

import itertools
import os
import pathlib
import tempfile
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image, ImageOps

from benchmarks import timing
from tf_instdisc import build_encoder, load_encoder
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data.folder import image_paths
from tf_instdisc.data.tfds_source import tfds_source
from tf_instdisc.retrieval.duplicates import find_duplicates
from tf_instdisc.runs import opening
from tf_instdisc.runs.encoding import encode_folder

KINDS = ("enlarged", "JPEG", "mirrored", "cut")


def main() -> None:
    """Prints the table."""
    parser = timing.parser(__doc__)
    parser.add_argument("--run_dir", help="a finished run")
    parser.add_argument("--images", help="a folder of images")
    parser.add_argument(
        "--count", type=int, default=1000, help="maximum number of images"
    )
    parser.add_argument("--thresholds", default="0.90,0.95,0.97,0.98,0.99")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if parsed.tiny:
            config = RunConfig(data=DataConfig(image_size=16))
            encoder = build_encoder(image_size=16, width=4)
            originals = _smooth_images(20)
        else:
            config = opening.load(parsed.run_dir).read_config()
            encoder = load_encoder(parsed.run_dir)
            originals = _images(parsed.images, config.data)
        plant(itertools.islice(originals, parsed.count), folder)
        images = encode_folder(folder, config, encoder)
        names = [str(name).removesuffix(".png") for name in images.bank.names]
        owners, kinds = np.array([name.split("_") for name in names]).T
        rows = []
        for text in ("", *parsed.thresholds.split(",")):
            found = find_duplicates(images, float(text) if text else None)
            largest = max(map(len, found.groups), default=0)
            scores = _scores(found.pairs, owners, kinds)
            rows.append([text or "default", *scores, str(largest)])
    head = ["threshold", "precision", "recall", *KINDS, "largest group"]
    timing.print_table(head, rows)


def plant(images: Iterator[Image.Image], folder: str) -> None:
    """Stores images, and copies of every fifth one, as `NUMBER_KIND.png`."""
    for number, image in enumerate(images):

        def save(kind, picture, number=number, **arguments):
            # TensorFlow detects the format from the content, not the suffix.
            path = pathlib.Path(folder, f"{number:06}_{kind}.png")
            kind_of_file = arguments.pop("format", "PNG")
            picture.save(path, kind_of_file, compress_level=1, **arguments)

        width, height = image.size
        save("original", image)
        if number % 5:
            continue
        larger = (width * 3 // 2, height * 3 // 2)
        save("enlarged", image.resize(larger, Image.BICUBIC))
        save("JPEG", image, format="JPEG", quality=50)
        save("mirrored", ImageOps.mirror(image))
        left, top = max(1, round(width / 40)), max(1, round(height / 40))
        save("cut", image.crop((left, top, width - left, height - top)))


def _images(folder: str | None, data: DataConfig) -> Iterator[Image.Image]:
    if folder:
        for name in image_paths(folder):
            yield Image.open(pathlib.Path(folder, name)).convert("RGB")
        return
    source = tfds_source(data.dataset, data.test_split or "test", data.data_dir)
    for example in source.examples(None).as_numpy_iterator():
        yield Image.fromarray(np.squeeze(example["image"])).convert("RGB")


def _smooth_images(count: int) -> Iterator[Image.Image]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, [4, 4, 3], np.uint8))
        yield small.resize((48, 48), Image.BICUBIC)


def _scores(pairs, owners, kinds) -> list[str]:
    """Returns precision, recall, and the recall of each kind of copy."""
    is_right = owners[pairs.first] == owners[pairs.second]
    sizes = np.unique(owners, return_counts=True)[1]
    found = {
        frozenset((kinds[i], kinds[j], owners[i]))
        for i, j in zip(
            pairs.first[is_right], pairs.second[is_right], strict=True
        )
    }
    planted = np.unique(owners[kinds == "mirrored"])
    recalls = [
        np.mean([{kind, "original", owner} in found for owner in planted])
        for kind in KINDS
    ]
    precision = is_right.mean() if len(is_right) else float("nan")
    recall = is_right.sum() / (sizes * (sizes - 1) // 2).sum()
    return [f"{value:.3f}" for value in (precision, recall, *recalls)]


if __name__ == "__main__":
    main()
