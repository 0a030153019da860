"""Memory, speed and a restart with a dataset in the form of ImageNet.

Writes a dataset with the features, splits and shards of ImageNet, whose JPEGs
are crops of photographs with modified colors. Trains `imagenet_resnet18.flags`
on it at a reduced width with the actual command, kills the process in the
middle of the second epoch, and starts it again.

python -m benchmarks.imagenet_form --photos=FOLDER --work_dir=DIR
"""

import concurrent.futures
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from PIL import Image

from benchmarks import timing

_ROOT = pathlib.Path(__file__).parent.parent
_NAME = "imagenet2012"
_VERSION = "5.1.0"
_NUM_CLASSES = 1000
_QUALITY = 75
_LARGEST = 640  # pixels of the longer side of the photographs that are cropped
_POINTS = 5  # on the memory curve


def _features():
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=_NUM_CLASSES),
            "file_name": tfds.features.Text(),
        }
    )


def _photographs(folder: str | None) -> list[Image.Image]:
    if folder is None:
        coarse = np.random.default_rng(0).integers(
            0, 256, (3, 5, 7, 3), np.uint8
        )
        return [Image.fromarray(c).resize((96, 80)) for c in coarse]
    opened = []
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            image = Image.open(path)
            image.draft("RGB", (_LARGEST, _LARGEST))
            image = image.convert("RGB")
            image.thumbnail((_LARGEST, _LARGEST))
            opened.append(image)
    if not opened:
        raise SystemExit(f"--photos must hold JPEGs. Received: {folder}")
    return opened


def _write_shard(path, photos, first, count, side) -> int:
    """Writes `count` examples from `first` on and returns their size."""
    import tensorflow as tf

    opened = _photographs(photos)
    features = _features()
    num_bytes = 0
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for i in range(first, first + count):
            rng = np.random.default_rng(i)
            label = i % len(opened)
            image = opened[label]
            # ImageNet's images are 500 x 375 on average.
            height, width = np.rint(
                side * rng.uniform(0.6, 1.4, 2) * (0.75, 1)
            ).astype(int)
            box = min(image.height, height), min(image.width, width)
            top = int(rng.integers(image.height - box[0] + 1))
            left = int(rng.integers(image.width - box[1] + 1))
            image = image.crop((left, top, left + box[1], top + box[0]))
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            gamma, gain = rng.uniform(0.6, 1.6, 3), rng.uniform(0.7, 1.0, 3)
            levels = np.linspace(0, 1, 256)[:, None] ** gamma * gain * 255
            image = image.point(np.rint(levels).astype(int).T.ravel().tolist())
            file = io.BytesIO()
            image.save(file, "JPEG", quality=_QUALITY)
            file.seek(0)
            record = features.serialize_example(
                features.encode_example(
                    {
                        "image": file,
                        "label": label % _NUM_CLASSES,
                        "file_name": f"n{label:08}_{i}.JPEG",
                    }
                )
            )
            num_bytes += len(record)
            writer.write(record)
    return num_bytes


def make_set(
    data_dir: pathlib.Path,
    photos: str | None,
    num_images: int,
    num_shards: int,
    side: int,
    jobs: int,
) -> int:
    """Writes the dataset and returns the size of its training images.

    Args:
        data_dir: Directory in which TFDS looks for the dataset.
        photos: Folder of photographs, or `None` for plain colors.
        num_images: Number of training images. There are a hundredth as many
            validation images.
        num_shards: Number of shards of the training images.
        side: Mean width of the images in pixels.
        jobs: Number of writing processes.
    """
    import tensorflow_datasets as tfds

    place = data_dir / _NAME / _VERSION
    place.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=place,
        dataset_name=_NAME,
        filetype_suffix="tfrecord",
    )
    splits = []
    first = 0
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=_spawned()
    ) as pool:
        for split, size, shards in (
            ("train", num_images, num_shards),
            ("validation", max(num_images // 100, 8), 1),
        ):
            lengths = [
                len(part) for part in np.array_split(range(size), shards)
            ]
            starts = first + np.cumsum([0, *lengths[:-1]])
            futures = [
                pool.submit(
                    _write_shard,
                    place / f"{_NAME}-{split}.tfrecord-{i:05}-of-{shards:05}",
                    photos,
                    int(start),
                    length,
                    side,
                )
                for i, (start, length) in enumerate(
                    zip(starts, lengths, strict=True)
                )
            ]
            splits.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=lengths,
                    num_bytes=sum(future.result() for future in futures),
                    filename_template=template.replace(split=split),
                )
            )
            first += size
    tfds.folder_dataset.write_metadata(
        data_dir=place,
        features=_features(),
        split_infos=splits,
        version=_VERSION,
        filename_template=template,
    )
    return splits[0].num_bytes


def _spawned():
    import multiprocessing

    return multiprocessing.get_context("spawn")


class _Training:
    """A process of `instdisc-train` whose memory is sampled over time."""

    def __init__(self, command):
        self.started = time.time()
        self.memory: list[tuple[float, int]] = []
        self._process = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._threads = [
            threading.Thread(target=self._watch, daemon=True),
            threading.Thread(target=self._read, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _watch(self):
        status = pathlib.Path(f"/proc/{self._process.pid}/status")
        while self._process.poll() is None:
            try:
                lines = status.read_text().splitlines()
            except OSError:
                return  # The process has ended.
            for line in lines:
                if line.startswith("VmRSS:"):
                    sample = time.time(), int(line.split()[1]) * 1024
                    self.memory.append(sample)
            time.sleep(0.5)

    def _read(self):
        assert self._process.stdout is not None
        self._lines.extend(self._process.stdout)

    def wait_for(self, is_there) -> float:
        """Waits until `is_there()` is true and returns the time."""
        while not is_there():
            if self._process.poll() is not None:
                sys.exit("".join(self._lines[-20:]))
            time.sleep(0.1)
        return time.time()

    def kill(self):
        """Kills the process as the kernel does when memory runs out."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def measure(data_dir, run_dir, width, batch_size, image_size) -> list:
    """Trains one epoch, kills the process in the second, and restarts it."""

    def command(minutes):
        return [
            sys.executable,
            *("-m", "tf_instdisc", "train"),
            "--flagfile=flags/imagenet_resnet18.flags",
            f"--data_dir={data_dir}",
            f"--run_dir={run_dir}",
            f"--width={width}",
            f"--batch_size={batch_size}",
            f"--image_size={image_size}",
            "--epochs=3",
            f"--checkpoint_minutes={minutes}",
        ]

    metrics = run_dir / "metrics.jsonl"
    checkpoints = run_dir / "checkpoints"

    def newest():
        found = sorted(checkpoints.glob("checkpoint-*"))
        return found[-1].name if found else ""

    training = _Training(command(1))
    ended = training.wait_for(
        lambda: metrics.exists() and metrics.read_text().endswith("\n")
    )
    epoch = json.loads(metrics.read_text().splitlines()[0])
    facts = json.loads((run_dir / "run.json").read_text())["facts"]
    num_images = facts["num_instances"]
    seconds = num_images / epoch["images_per_second"]
    first_step = ended - seconds
    # The checkpoint at the end of an epoch is written after its metrics.
    at_end = newest()
    training.wait_for(lambda: newest() > at_end)
    training.wait_for(lambda: time.time() > ended + seconds / 2)
    training.kill()
    left = newest()

    again = _Training(command(0))
    restarted = again.wait_for(lambda: newest() > left)
    again.kill()

    rows = [
        ("images/s", f"{epoch['images_per_second']:.1f}"),
        ("input_wait", f"{epoch['input_wait']:.3f}"),
        ("epoch, seconds", f"{seconds:.0f}"),
        (
            "start to the first step, seconds",
            f"{first_step - training.started:.0f}",
        ),
        (
            "restart in mid-epoch to the first new step, saved, seconds",
            f"{restarted - again.started:.0f}",
        ),
    ]
    for i in range(_POINTS):
        begin = first_step + seconds * i / _POINTS
        end = first_step + seconds * (i + 1) / _POINTS
        part = [size for when, size in training.memory if begin <= when <= end]
        if part:
            rows.append(
                (
                    f"memory, part {i + 1} of {_POINTS} of the epoch, mean and "
                    "highest, GiB",
                    f"{np.mean(part) / 2**30:.2f}, {max(part) / 2**30:.2f}",
                )
            )
    highest = max(size for _, size in training.memory)
    rows.append(("memory, highest of the run, GiB", f"{highest / 2**30:.2f}"))
    return rows


def main() -> None:
    """Prints the table."""
    parser = timing.parser(__doc__)
    parser.add_argument(
        "--photos",
        default=os.environ.get("INSTDISC_PHOTOS"),
        help="folder of photographs; by default $INSTDISC_PHOTOS",
    )
    parser.add_argument(
        "--work_dir", help="a directory that is kept and reused"
    )
    parser.add_argument("--num_images", type=int, default=100_000)
    parser.add_argument("--num_shards", type=int, default=64)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    tiny = arguments.tiny
    if tiny:
        arguments.photos, arguments.num_images = None, 64
        arguments.num_shards, arguments.width = 3, 2
        arguments.batch_size, arguments.jobs = 8, 1
    elif not arguments.photos:
        parser.error("--photos=FOLDER is needed")
    work_dir = pathlib.Path(arguments.work_dir or tempfile.mkdtemp())
    data_dir, run_dir = work_dir / "tfds", work_dir / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    rows = []
    if not (data_dir / _NAME / _VERSION / "dataset_info.json").exists():
        shutil.rmtree(data_dir, ignore_errors=True)
        begun = time.time()
        num_bytes = make_set(
            data_dir,
            arguments.photos,
            arguments.num_images,
            arguments.num_shards,
            side=60 if tiny else 500,
            jobs=arguments.jobs,
        )
        rows += [
            ("training images, GiB", f"{num_bytes / 2**30:.3f}"),
            ("writing them, seconds", f"{time.time() - begun:.0f}"),
        ]
    rows += measure(
        data_dir,
        run_dir,
        arguments.width,
        arguments.batch_size,
        image_size=32 if tiny else 224,
    )
    title = f"{arguments.num_images:,} images, width {arguments.width}"
    timing.print_table([title, ""], [list(row) for row in rows])
    if not arguments.work_dir:
        shutil.rmtree(work_dir)


if __name__ == "__main__":
    main()
