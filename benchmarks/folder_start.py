"""Time to start a run on a folder of many files, and to restart it.

python -m benchmarks.folder_start --photos=FOLDER

The files are hard links to copies of the photographs. At the first start, each
image is decoded at an eighth of its size, to find those that cannot be read;
"headers" is the time of reading the size of each by Pillow.
"""

import itertools
import os
import pathlib
import shutil
import tempfile
import time

from PIL import Image

from benchmarks import input as images_of
from benchmarks import timing
from tf_instdisc import folder_source


def link(photos: list[str], root: pathlib.Path, number: int) -> list[str]:
    """Fills a folder; returns the paths."""
    copies = root / "copies"
    copies.mkdir()
    for i, path in enumerate(photos):
        shutil.copy(path, copies / f"{i}.jpg")
    originals = itertools.cycle(sorted(copies.iterdir()))
    paths = []
    for i in range(number):
        folder = root / "images" / f"{i // 1000:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(next(originals), folder / f"{i:07d}.jpg")
        paths.append(str(folder / f"{i:07d}.jpg"))
    return paths


def read_headers(paths: list[str]) -> None:
    """Reads the size of each image."""
    for path in paths:
        with Image.open(path) as image:
            assert image.width


def main() -> None:
    """Prints the table."""
    parser = timing.parser(__doc__)
    parser.add_argument(
        "--photos", help="a folder of JPEGs; generated if omitted"
    )
    options = parser.parse_args()
    number = 20 if options.tiny else 100_000
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place)
        (root / "made").mkdir()
        folder = options.photos or str(root / "made")
        paths = link(images_of.jpegs(folder, options.tiny), root, number)
        memory = root / "memory.npz"
        folder = str(root / "images")
        rows = []
        for name, function in {
            "headers": lambda: read_headers(paths),
            "first start": lambda: folder_source(folder, memory=memory),
            "restart": lambda: folder_source(folder, memory=memory),
        }.items():
            clock, cpu = time.perf_counter(), time.process_time()
            function()
            rows.append(
                [
                    f"{name}, {number:,} files",
                    f"{time.perf_counter() - clock:.1f}",
                    f"{time.process_time() - cpu:.1f}",
                ]
            )
    timing.print_table(["", "seconds", "CPU seconds"], rows)


if __name__ == "__main__":
    main()
