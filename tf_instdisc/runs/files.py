"""The names of the files in a run's directory, and what to do about damage.

run.json        settings, and facts about the images (`record.py`)
flags.txt       the settings as a flagfile, for people; nothing reads it
checkpoints/    where a run goes on that was stopped
metrics.jsonl   one JSON object for each epoch
tensorboard/    the same for TensorBoard
encoder.keras   the trained encoder
encoder_best.keras  with --keep_best, the encoder of the best epoch by kNN
best.json       its epoch and kNN accuracy
bank.npz        rows, instance ids, names, labels, class names
report.html     what instdisc-report writes
instances.json  what instdisc-update has removed, and digests of the files
results.json    what instdisc-evaluate has measured
features/       layers' activations that instdisc-evaluate keeps
detection.jsonl one JSON object for each epoch of each detector
checksums.json  SHA-256 of the files above, which are checked when read
lock            who is writing; only while it is there
checked_images.npz       which files of the folder can be decoded
checked_test_images.npz  the same of the test folder
labels.npz      those of a data set whose shards are read in every epoch
"""

import dataclasses
import pathlib
from typing import Any

from tf_instdisc.paths import local_path

_COPY = "Restore it from a copy"
_ACCEPT = "remove checksums.json: the files are then taken as they are"
_TRAIN = (
    "Start the run's instdisc-train command again, which writes it again; "
    "what instdisc-convert or instdisc-update has written, write by these "
    "again. Or restore it from a copy."
)
BEST_CURE = (
    f"{_COPY}; or remove encoder_best.keras and best.json, and the best of the "
    "epochs that come is kept."
)
# What to do if a file is not what was written.
CURES = {
    "flags.txt": f"{_COPY}.",
    "run.json": f"{_COPY}. If you have edited it on purpose, {_ACCEPT}.",
    "encoder.keras": _TRAIN,
    "encoder_best.keras": BEST_CURE,
    "best.json": BEST_CURE,
    "bank.npz": _TRAIN,
    "metrics.jsonl": f"{_COPY}; or, to go on without its epochs, remove it "
    "and checksums.json.",
    "instances.json": f"{_COPY}; or remove it and checksums.json: then "
    "instdisc-update does not know which files have changed, and may give the "
    "id of a removed image again.",
    "results.json": "Remove it, and measure with instdisc-evaluate again.",
}


def _file(name: str) -> Any:
    return property(lambda self: self.path / name)


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """Paths of the files of one run.

    Attributes:
        path: The directory; `~` is expanded.

    Raises:
        UsageError: If the path is a URL.
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
        path = pathlib.Path(local_path(self.path, "run_dir"))
        object.__setattr__(self, "path", path)
