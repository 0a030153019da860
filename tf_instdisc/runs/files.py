"""The names of the files in a run's directory, and remedies for damage.

run.json        settings, and facts about the images (`record.py`)
flags.txt       the settings as a flagfile, for people; read only of runs of
                the first format, and its time by instdisc-update
checkpoints/    what a stopped run continues from
metrics.jsonl   one JSON object for each epoch
tensorboard/    the same for TensorBoard
encoder.keras   the trained encoder
encoder_best.keras  with --keep_best, the encoder of the best epoch by kNN
best.json       its epoch and kNN accuracy
bank.npz        rows, instance ids, names, labels, class names
report.html     the output of instdisc-report
instances.json  what instdisc-update has removed, and digests of the files
results.json    the measurements of instdisc-evaluate
features/       the map of instdisc browse, and activations of layers while
                instdisc-evaluate reads them
detection.jsonl one JSON object for each epoch of each detector
checksums.json  SHA-256 of the files above, which are checked when read
lock            the current writer; exists only while writing
checked_images.npz       which files of the folder can be decoded
checked_test_images.npz  the same for the test folder
labels.npz      labels that were collected from the records of a TFDS dataset
"""

import contextlib
import dataclasses
import pathlib
from typing import Any

from tf_instdisc import atomic
from tf_instdisc.paths import caches, local_path

_COPY = "Restore it from a copy"
_ACCEPT = "remove checksums.json: the files are then accepted as they are"
_TRAIN = (
    "Start the run's instdisc-train command again, or the instdisc-convert or "
    "instdisc-update command that wrote the file. Or restore it from a copy."
)
BEST_CURE = (
    f"{_COPY}; or remove encoder_best.keras and best.json, and the best of the "
    "following epochs is kept."
)
# What to do if a file is not what was written.
_CURES = {
    "flags.txt": f"{_COPY}.",
    "run.json": f"{_COPY}. If you have edited it on purpose, {_ACCEPT}.",
    "encoder.keras": _TRAIN,
    "encoder_best.keras": BEST_CURE,
    "best.json": BEST_CURE,
    "bank.npz": _TRAIN,
    "metrics.jsonl": f"{_COPY}; or, to continue without its epochs, remove it "
    "and checksums.json.",
    "instances.json": f"{_COPY}; or remove it and checksums.json: then "
    "instdisc-update does not know which files have changed, and may reuse "
    "the id of a removed image.",
    "results.json": "Remove it, and measure with instdisc-evaluate again.",
}


def _file(name: str) -> Any:
    return property(lambda self: self.path / name)


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """Paths of the files of one run.

    Attributes:
        path: The directory, of the working copy if a URL is given; `~` is
            expanded.
    """

    path: pathlib.Path

    settings = _file("run.json")
    flags = _file("flags.txt")
    checkpoints = _file("checkpoints")
    metrics = _file("metrics.jsonl")
    tensorboard = _file("tensorboard")
    encoder = _file("encoder.keras")
    best_encoder = _file("encoder_best.keras")
    best = _file("best.json")
    bank = _file("bank.npz")
    instances = _file("instances.json")
    report = _file("report.html")
    checked_images = _file("checked_images.npz")
    checked_test_images = _file("checked_test_images.npz")
    labels = _file("labels.npz")
    results = _file("results.json")
    features = _file("features")
    detection = _file("detection.jsonl")

    def __post_init__(self) -> None:
        path = pathlib.Path(local_path(self.path, "run_dir", "run"))
        object.__setattr__(self, "path", path)

    def holds_results(self) -> bool:
        """Returns whether something was trained, converted or saved."""
        files = (self.encoder, self.best_encoder, self.bank, self.metrics)
        return any(file.exists() for file in files) or any(
            self.checkpoints.glob("checkpoint-*")
        )

    def cure(self, file: pathlib.Path) -> str:
        """Returns what to do if a file of the run is not what was written."""
        if self.path.parent == caches():
            return f"Remove {self.path}; the weights are then unpacked again."
        return _CURES[file.name]


def writing(
    directory: pathlib.Path,
) -> contextlib.AbstractContextManager[None]:
    """Reports a failed write as a StorageError that names the directory."""
    return atomic.reporting(
        str(directory),
        "Make room or make the directory writable, then start the same command "
        "again.",
    )
