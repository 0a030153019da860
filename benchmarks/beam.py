"""Throughput of `instdisc embed --runner` with one and with two workers.

Random 96 x 96 JPEGs are embedded by a ResNet-18 for 32 x 32 images. Each
process has one thread for computing, so that a worker is a core. The times of
two sizes are subtracted, which leaves out starting and loading. The last row
is the exact search of `examples/search_shards.py`, with 1,000 queries.
"""

import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks import timing

ROOT = pathlib.Path(__file__).parent.parent
# Limits the threads of TensorFlow, oneDNN and BLAS.
ONE_THREAD = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "PYTHONPATH": str(ROOT),
}
TWO_WORKERS = (
    "--beam_option=--direct_num_workers=2",
    "--beam_option=--direct_running_mode=multi_processing",
)
NUM_QUERIES = 1000


def seconds(command: list[str]) -> float:
    """Returns the wall time of a command."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        check=True,
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def write_images(folder: pathlib.Path, number: int) -> None:
    """Writes smooth random JPEGs."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(number):
        coarse = rng.integers(0, 256, (12, 12, 3), np.uint8)
        image = Image.fromarray(coarse).resize((96, 96), Image.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG")
        (folder / f"{i:06d}.jpg").write_bytes(file.getvalue())


def embed(root: pathlib.Path, number: int, flags: tuple[str, ...]) -> float:
    """Returns the seconds for embedding a number of images."""
    images = root / str(number)
    if not images.exists():
        write_images(images, number)
    suffix = "parquet" if flags else "npz"
    output = root / f"{number}-{len(flags)}.{suffix}"
    return seconds(
        [
            *("-m", "tf_instdisc", "embed", "--run_dir=cifar10-resnet18"),
            *(f"--images={images}", f"--output={output}", *flags),
        ]
    )


def search(root: pathlib.Path, number: int) -> float:
    """Returns the seconds for an exact search of a number of rows."""
    from pyarrow import parquet

    from tf_instdisc.serving.embedding_file import table_of

    rng = np.random.default_rng(0)
    rows = rng.standard_normal([number, 128], np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    output = root / f"rows-{number}"
    output.mkdir()
    size = -(-number // 8)
    for first in range(0, number, size):
        part = rows[first : first + size]
        ids = np.arange(first, first + len(part))
        table = table_of(ids, ids.astype(str), part, "random")
        parquet.write_table(table, output / f"part-{first:09d}.parquet")
    np.savez(root / "queries.npz", embeddings=rows[:NUM_QUERIES])
    script = str(ROOT / "examples" / "search_shards.py")
    files = [str(output), str(root / "queries.npz"), str(root / "found.npz")]
    # Without the flag, Beam tries to download its runner Prism.
    return seconds([script, *files, "--allow_unsafe_triggers"])


def main() -> None:
    """Prints a Markdown table."""
    tiny = timing.parser(__doc__).parse_args().tiny
    small, large = (8, 24) if tiny else (2_000, 10_000)
    num_rows = 4_000 if tiny else 1_000_000
    runner = ("--runner=DirectRunner", f"--images_per_file={small // 4}")
    ways = {
        "one process, no runner": (1, ()),
        "DirectRunner, one worker": (1, runner),
        "DirectRunner, two processes": (2, (*runner, *TWO_WORKERS)),
    }
    print("| | images/s | images/s per core |")
    print("| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place)
        for name, (workers, flags) in ways.items():
            took = embed(root, large, flags) - embed(root, small, flags)
            rate = (large - small) / max(took, 1e-3)
            print(f"| {name} | {rate:,.0f} | {rate / workers:,.0f} |")
        took = search(root, num_rows) - search(root, num_rows // 4)
        rate = 0.75 * num_rows / max(took, 1e-3)
        print(
            f"| exact search of {NUM_QUERIES:,} queries, rows/s | {rate:,.0f} "
            f"| {rate:,.0f} |"
        )


if __name__ == "__main__":
    main()
