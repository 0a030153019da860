"""The cost of `instdisc-update` compared with encoding only the new images.

    python -m benchmarks.grown [--images=FOLDER]

One eleventh of the images is new, so that 10% are added. The encoder is an
untrained ResNet-18 at 128 pixels. Without a folder, 550 JPEGs of 500x375 are
generated.
"""

import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image

from benchmarks import timing
from tf_instdisc import build_encoder
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data.folder import image_paths
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.images import RunImages
from tf_instdisc.runs.update import folder_digests, update_bank

_NO_IDS = np.zeros([0], np.int64)


def main() -> None:
    """Prints the table."""
    parser = timing.parser(__doc__)
    parser.add_argument("--images", help="a folder of images")
    parser.add_argument("--repeats", type=int, default=5)
    parsed = parser.parse_args()
    size, width = (16, 4) if parsed.tiny else (128, 64)
    encoder = build_encoder(image_size=size, width=width, stem="imagenet")
    with tempfile.TemporaryDirectory() as made:
        folder = parsed.images
        if folder is None:
            folder = made
            _make_images(made, 22 if parsed.tiny else 550)
        names = image_paths(folder)
        is_new = np.arange(len(names)) % 11 == 10
        bank = _bank(np.array(names), encoder.output_shape[1])
        old = _part(bank, ~is_new)
        config = RunConfig(data=DataConfig(images=folder, image_size=size))
        digests = folder_digests(folder, old.names, time.time())
        ways = {
            "encode the new images": lambda: _encode(
                RunImages(bank, config), np.flatnonzero(is_new), encoder
            ),
            "update": lambda: update_bank(
                old, _NO_IDS, digests, folder, config, encoder
            ),
            "read and hash all files": lambda: folder_digests(
                folder, bank.names, time.time()
            ),
        }
        seconds = timing.compare(ways, 1 if parsed.tiny else parsed.repeats)
    unit = seconds["encode the new images"].cpu
    timing.print_table(
        [f"{is_new.sum()} new of {len(names)} images", "CPU seconds", "ratio"],
        [
            [n, f"{s.cpu:.2f}", f"{s.cpu / unit:.2f}"]
            for n, s in seconds.items()
        ],
    )


def _make_images(folder: str, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, [12, 16, 3], np.uint8))
        photo = small.resize((500, 375), Image.BICUBIC)
        photo.save(pathlib.Path(folder, f"{i:04}.jpg"), quality=90)


def _bank(names: np.ndarray, dim: int) -> Bank:
    rows = np.ones([len(names), dim], np.float32) / dim**0.5
    return Bank(rows, np.arange(len(names)), names, np.full(len(names), -1))


def _part(bank: Bank, chosen: np.ndarray) -> Bank:
    fields = (bank.rows, bank.instance_ids, bank.names, bank.labels)
    return Bank(*(field[chosen] for field in fields))


def _encode(images: RunImages, positions: np.ndarray, encoder) -> None:
    for _, batch in images.batches(positions, images.image_size):
        encoder.predict_on_batch(batch)


if __name__ == "__main__":
    main()
