"""A run's directory: the only place that knows the names of its files.

flags.txt       a flagfile that repeats the run
run.json        the settings of which a continued run may change some
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

import contextlib
import dataclasses
import functools
import json
import pathlib
import sys
import zipfile
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from tf_instdisc import checksums
from tf_instdisc.errors import DamagedFileError, StorageError, UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.runs import lock
from tf_instdisc.text import shown_message

_COPY = "Restore it from a copy"
_ACCEPT = "remove checksums.json: the files are then taken as they are"
_TRAIN = (
    "Start the run's instdisc-train command again, which writes it again; "
    "what instdisc-convert or instdisc-update has written, write by these "
    "again. Or restore it from a copy."
)
_BEST = (
    f"{_COPY}; or remove encoder_best.keras and best.json, and the best of the "
    "epochs that come is kept."
)
# What to do if a file is not what was written.
_CURES = {
    "flags.txt": f"{_COPY}, or start the run's instdisc-train command again. "
    f"If you have edited it on purpose, {_ACCEPT}.",
    "run.json": f"{_COPY}. If you have edited it on purpose, {_ACCEPT}.",
    "encoder.keras": _TRAIN,
    "encoder_best.keras": _BEST,
    "best.json": _BEST,
    "bank.npz": _TRAIN,
    "metrics.jsonl": f"{_COPY}; or, to go on without its epochs, remove it "
    "and checksums.json.",
    "instances.json": f"{_COPY}; or remove it and checksums.json: then "
    "instdisc-update does not know which files have changed, and may give the "
    "id of a removed image again.",
    "results.json": "Remove it, and measure with instdisc-evaluate again.",
}


class RunDirectoryError(UsageError):
    """A directory does not hold what it should."""


@dataclasses.dataclass(frozen=True)
class EncodedBy:
    """The encoder that gave a bank's rows, from the whole images.

    Attributes:
        encoder: SHA-256 of `encoder.keras`.
        epochs: Epochs of its training; -1 where that is not known.
        images: Images of the next epoch that it was trained on besides.
    """

    encoder: str
    epochs: int = -1
    images: int = 0


@dataclasses.dataclass(frozen=True)
class Bank:
    """What a finished run is searched by: a row for each image.

    Attributes:
        rows: float32 `[size, embedding_dim]`, of unit length.
        instance_ids: int64 `[size]`, ascending.
        names: str `[size]`, paths or positions in a split.
        labels: int64 `[size]`, negative where there is none.
        class_names: One for each label; empty without labels.
        encoded_by: What encoded the rows; None where they are the training's
            own, as earlier versions wrote them and converted runs have them.
    """

    rows: np.ndarray
    instance_ids: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    encoded_by: EncodedBy | None = None


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Reads and writes the files of one run.

    Attributes:
        path: The directory; `~` is expanded.

    Raises:
        ValueError: If the path is a URL.
    """

    path: pathlib.Path

    def __post_init__(self) -> None:
        path = pathlib.Path(local_path(self.path, "run_dir"))
        object.__setattr__(self, "path", path)

    @property
    def flags(self) -> pathlib.Path:
        return self.path / "flags.txt"

    @property
    def settings(self) -> pathlib.Path:
        return self.path / "run.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> pathlib.Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> pathlib.Path:
        return self.path / "tensorboard"

    @property
    def encoder(self) -> pathlib.Path:
        return self.path / "encoder.keras"

    @property
    def best_encoder(self) -> pathlib.Path:
        return self.path / "encoder_best.keras"

    @property
    def best(self) -> pathlib.Path:
        return self.path / "best.json"

    @property
    def bank(self) -> pathlib.Path:
        return self.path / "bank.npz"

    @property
    def instances(self) -> pathlib.Path:
        return self.path / "instances.json"

    @property
    def report(self) -> pathlib.Path:
        return self.path / "report.html"

    @property
    def checked_images(self) -> pathlib.Path:
        return self.path / "checked_images.npz"

    @property
    def checked_test_images(self) -> pathlib.Path:
        return self.path / "checked_test_images.npz"

    @property
    def labels(self) -> pathlib.Path:
        return self.path / "labels.npz"

    @property
    def results(self) -> pathlib.Path:
        return self.path / "results.json"

    @property
    def features(self) -> pathlib.Path:
        return self.path / "features"

    def save_results(self, results: dict) -> None:
        """Writes what was measured, whole or not at all."""
        checksums.write_text(self.results, json.dumps(results, indent=1) + "\n")

    def load_results(self) -> dict:
        """What was measured; empty before the first evaluation.

        Raises:
            DamagedFileError: If the file is damaged.
        """
        if checksums.is_missing(self.results):
            print(
                f"warning: {self.results} is missing; what it held is to be "
                "measured again.",
                file=sys.stderr,
            )
        return self._read_json(self.results) or {}

    @property
    def detection(self) -> pathlib.Path:
        return self.path / "detection.jsonl"

    def save_settings(self, settings: dict, flags_text: str) -> None:
        """Writes settings and flags; makes the directory of a new run.

        Args:
            settings: For JSON; what decides the outcome of the run.
            flags_text: A flagfile that repeats the run.

        Raises:
            StorageError: If they cannot be written.
        """
        with _writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            # Settings first: with them the directory is a run's.
            text = json.dumps(settings, indent=1) + "\n"
            checksums.write_text(self.settings, text)
            checksums.write_text(self.flags, flags_text)

    def read_flags(self) -> dict[str, str]:
        """The flags of the run by name, as text; a switch is true or false."""
        return parse_flags(self.read_flags_text())

    def read_flags_text(self) -> str:
        """The run's flagfile.

        Raises:
            DamagedFileError: If it is missing, damaged or was edited.
        """
        return checksums.read_text(self.flags, _CURES[self.flags.name])

    def has_damaged_flags(self) -> bool:
        """Whether the flagfile is not what was written."""
        try:
            self.read_flags_text()
        except (OSError, DamagedFileError):
            return True
        return False

    def read_settings(self) -> dict:
        """What is in `run.json`; empty if a run does not have it.

        Raises:
            DamagedFileError: If it is missing or damaged.
        """
        checksums.require_present(self.settings, _CURES[self.settings.name])
        return self._read_json(self.settings) or {}

    def _read_json(self, path: pathlib.Path) -> Any:
        """None if there is no such file."""
        if not path.exists():
            return None
        cure = _CURES[path.name]
        text = checksums.read_text(path, cure)
        with checksums.parsing(path, cure):
            return json.loads(text)

    def set_flag(self, name: str, value: str) -> None:
        """Sets one of the run's flags, whole or not at all."""
        text = with_flag(self.read_flags_text(), name, value)
        checksums.write_text(self.flags, text)

    def save_instances(
        self, removed_ids: np.ndarray, digests: dict[str, str]
    ) -> None:
        """Writes tombstones and the files' digests, whole or not at all."""
        content = {"removed_ids": removed_ids.tolist(), "digests": digests}
        checksums.write_text(self.instances, json.dumps(content))

    def load_instances(self) -> tuple[np.ndarray, dict[str, str]]:
        """Tombstones, int64, and digests; both empty before an update.

        Raises:
            DamagedFileError: If the file is missing or damaged.
        """
        cure = _CURES[self.instances.name]
        checksums.require_present(self.instances, cure)
        content = self._read_json(self.instances)
        if content is None:
            return np.zeros([0], np.int64), {}
        with checksums.parsing(self.instances, cure):
            removed_ids = np.array(content["removed_ids"], np.int64)
            return removed_ids, content["digests"]

    def ids_by_name(self) -> tuple[dict[str, int], int]:
        """Ids of the images, and one more than the highest ever given."""
        bank = self.load_bank()
        removed_ids, _ = self.load_instances()
        highest = max(bank.instance_ids.max(), removed_ids.max(initial=-1))
        names = map(str, bank.names)
        ids = map(int, bank.instance_ids)
        return dict(zip(names, ids, strict=True)), int(highest) + 1

    def append_metrics(self, metrics: dict[str, float]) -> None:
        """Adds one line to the metrics.

        Raises:
            StorageError: If it cannot be written.
        """
        with _writing(self.path):
            lines = [*self.read_metrics(), metrics]
            self._save_lines(self.metrics, lines)

    def read_metrics(self) -> list[dict[str, float]]:
        """One dictionary for each epoch; none in a converted run."""
        cure = _CURES[self.metrics.name]
        checksums.require_present(self.metrics, cure)
        if not self.metrics.exists():
            return []
        text = checksums.read_text(self.metrics, cure)
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            # A process of an earlier version was killed while it wrote.
            lines.pop()
        with checksums.parsing(self.metrics, cure):
            return [json.loads(line) for line in lines]

    def _save_lines(self, path: pathlib.Path, lines: list[dict]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        checksums.write_text(path, text)

    def save_detection(self, lines: list[dict]) -> None:
        """Writes the epochs of detectors anew, whole or not at all."""
        self._save_lines(self.detection, lines)

    def keep_metrics(self, epochs: int) -> None:
        """Removes the metrics of all epochs but the first ones.

        A run that goes on from a checkpoint writes them again.
        """
        lines = self.read_metrics()
        kept = [line for line in lines if line["epoch"] <= epochs]
        if kept != lines:
            self._save_lines(self.metrics, kept)

    def save_encoder(self, encoder) -> None:
        """Writes the encoder, whole or not at all."""
        # Keras is imported by those only who have an encoder.
        from tf_instdisc.method.encoders.portable import make_portable

        with checksums.replacing(self.encoder) as partial:
            make_portable(encoder).save(partial)

    def load_encoder_file(self, path: pathlib.Path):
        """An encoder of the run as it was saved, a Keras model.

        Args:
            path: `encoder` or `best_encoder`.

        Raises:
            DamagedFileError: If the file is damaged.
        """
        import keras

        cure = _CURES[path.name]
        checksums.digest(path, cure)
        try:
            return keras.saving.load_model(path, compile=False)
        except Exception:
            # A run of an earlier version has no digest of it.
            with checksums.parsing(path, cure):
                _require_whole_archive(path)
            raise

    def save_best(self, encoder, epoch: int, knn_top1: float) -> None:
        """Writes the best encoder so far, then what it is."""
        from tf_instdisc.method.encoders.portable import make_portable

        with checksums.replacing(self.best_encoder) as partial:
            make_portable(encoder).save(partial)
        record = {
            "epoch": epoch,
            "knn_top1": knn_top1,
            "sha256": checksums.digest(self.best_encoder, _BEST),
        }
        checksums.write_text(self.best, json.dumps(record) + "\n")

    def load_best(self) -> dict | None:
        """Epoch and kNN top-1 of the best encoder; None if none is whole.

        Raises:
            DamagedFileError: If one of its files is damaged.
        """
        if not self.best.exists() or not self.best_encoder.exists():
            return None
        record = self._read_json(self.best)
        digest = checksums.digest(self.best_encoder, _BEST)
        with checksums.parsing(self.best, _BEST):
            return record if record["sha256"] == digest else None

    def encoder_digest(self) -> str:
        """SHA-256 of the encoder's file.

        Raises:
            DamagedFileError: If the file is damaged.
        """
        return checksums.digest(self.encoder, _CURES[self.encoder.name])

    def save_bank(self, bank: Bank) -> None:
        """Writes the bank, whole or not at all."""
        with checksums.replacing(self.bank) as partial:
            np.savez(
                partial,
                rows=bank.rows,
                instance_ids=bank.instance_ids,
                names=bank.names,
                labels=bank.labels,
                class_names=np.asarray(bank.class_names, dtype=str),
                **_encoded_by_field(bank.encoded_by),
            )

    def load_bank(self) -> Bank:
        """Reads the bank.

        Raises:
            RunDirectoryError: If the run has not finished, or was killed
                while it replaced its results.
        """
        if not self.bank.exists():
            raise RunDirectoryError(
                f"{self.path} holds no bank.npz. If its training was stopped, "
                "the same instdisc-train command with --finish writes one."
            )
        with self._opened_bank() as file:
            fields = {name: file[name] for name in file.files}
            class_names = tuple(str(n) for n in fields.pop("class_names"))
            encoded_by = _encoded_by_of(fields.pop("encoded_by", None))
            bank = Bank(
                class_names=class_names, encoded_by=encoded_by, **fields
            )
        if encoded_by is None:
            _say_rows_are_of_training(self)
        elif (
            self.encoder.exists()
            and encoded_by.encoder != self.encoder_digest()
        ):
            raise RunDirectoryError(
                f"{self.bank} was not encoded by the encoder beside it: a "
                "command was killed while it replaced both. Start the same "
                "command again."
            )
        return bank

    def read_instances(
        self,
    ) -> tuple[np.ndarray, np.ndarray, EncodedBy | None]:
        """Ids, names and origin of the bank's rows, without the rows."""
        with self._opened_bank() as file:
            field = file["encoded_by"] if "encoded_by" in file.files else None
            return file["instance_ids"], file["names"], _encoded_by_of(field)

    @contextlib.contextmanager
    def _opened_bank(self) -> Iterator[Any]:
        cure = _CURES[self.bank.name]
        with (
            checksums.opened(self.bank, cure) as (file, _),
            checksums.parsing(self.bank, cure),
            np.load(file) as fields,
        ):
            yield fields


def _require_whole_archive(path: pathlib.Path) -> None:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)


def _encoded_by_field(encoded_by: EncodedBy | None) -> dict[str, Any]:
    if encoded_by is None:
        return {}
    return {"encoded_by": np.array(json.dumps(dataclasses.asdict(encoded_by)))}


def _encoded_by_of(field: np.ndarray | None) -> EncodedBy | None:
    return None if field is None else EncodedBy(**json.loads(str(field)))


@functools.cache
def _say_rows_are_of_training(run: RunDirectory) -> None:
    """Says once what to do about rows that are not the encoder's."""
    is_converted = "converted_from" in run.read_settings()
    if is_converted and "images" not in run.read_flags():
        return
    cure = f"instdisc-update --run_dir={run.path} --images=FOLDER --reread"
    if not is_converted:
        cure = (
            "Its instdisc-train command with --finish, or of a run that was "
            f"updated {cure},"
        )
    print(
        f"note: the rows of {run.path} are those of its training and not of "
        f"the whole images. {cure} encodes them again.",
        file=sys.stderr,
    )


def with_flag(text: str, name: str, value: str) -> str:
    """The text of a flagfile, with one flag set."""
    lines = [
        line
        for line in text.splitlines()
        if line.partition("=")[0] != f"--{name}"
    ]
    return "\n".join([*lines, f"--{name}={value}"]) + "\n"


def parse_flags(text: str) -> dict[str, str]:
    """Flags of a flagfile by name, as text; the last of a name counts."""
    flags = {}
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        name, has_value, value = line.strip().removeprefix("--").partition("=")
        if has_value:
            flags[name] = value
        elif name.startswith("no"):
            flags[name.removeprefix("no")] = "false"
        elif name:
            flags[name] = "true"
    return flags


def check_usable(path: str) -> None:
    """Raises unless `path` can hold a new run or holds one to continue.

    Raises:
        RunDirectoryError: If the directory holds anything else.
    """
    run = RunDirectory(pathlib.Path(path))
    if run.path.exists() and not run.path.is_dir():
        raise RunDirectoryError(
            f"`run_dir` must be a directory. Received: run_dir={path}, a file."
        )
    place = next(p for p in (run.path, *run.path.parents) if p.exists())
    if not place.is_dir():
        raise RunDirectoryError(
            f"`run_dir` must not lie below a file. Received: run_dir={path}"
        )
    checksums.require_present(run.settings, _CURES[run.settings.name])
    if run.settings.exists() or not run.path.exists():
        return
    if any(not _is_left_over(run, path) for path in run.path.iterdir()):
        raise RunDirectoryError(
            "`run_dir` must be missing, empty, or hold a run to continue. "
            f"Received: run_dir={path}. Choose another directory."
        )


def _is_left_over(run: RunDirectory, path: pathlib.Path) -> bool:
    """Whether a process that was killed as it began has left this file."""
    if path == run.flags:
        # Earlier versions wrote the flags first.
        return pathlib.Path(run.read_flags().get("run_dir", "")) == run.path
    return (
        path.name in (lock.FILE, checksums.FILE)
        or path in (run.checked_images, run.checked_test_images)
        or path.name.startswith(".partial-")
        or path.name.endswith(".partial")
    )


def open_run(
    path: str, settings: dict, changeable: Collection[str], flags_text: str
) -> RunDirectory:
    """Makes the directory of a new run, or opens it to continue.

    Args:
        path: Missing, empty, or a run's.
        settings: For JSON; what decides the outcome of the run.
        changeable: Names of settings that a continued run may change.
        flags_text: A flagfile that repeats the run.

    Returns:
        The directory, with flags and settings written.

    Raises:
        RunDirectoryError: If the directory holds something else, or a run
            with other settings.
        StorageError: If it cannot be written.
    """
    run = check_settings(path, settings, changeable)
    run.save_settings(settings, flags_text)
    return run


def check_settings(
    path: str, settings: dict, changeable: Collection[str]
) -> RunDirectory:
    """Does of `open_run` what writes nothing."""
    check_usable(path)
    run = RunDirectory(pathlib.Path(path))
    if run.settings.exists():
        new = json.loads(json.dumps(settings))
        _compare(path, run.read_settings(), new, changeable)
    return run


def _compare(path, old, new, changeable):
    """Says which settings changed; raises if one of them must not."""
    changed, refused = [], []
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            known = changed if name in changeable else refused
            known.append(f"  {name}: {old.get(name)} -> {new.get(name)}")
    if refused:
        raise RunDirectoryError(
            f"`run_dir` holds a run with other settings. Received: "
            f"run_dir={path}, with\n" + "\n".join(refused) + "\nSet them "
            "back to continue the run, or choose another directory."
        )
    if changed:
        lines = ["The run goes on with changed settings:", *changed]
        print(shown_message("\n".join(lines)))


@contextlib.contextmanager
def _writing(directory: pathlib.Path) -> Iterator[None]:
    """Says of which directory a write failed, and what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{directory} cannot be written: {error.strerror or error}. Make "
            "room or make the directory writable, then start the same "
            "command again."
        ) from error


def load(path: str) -> RunDirectory:
    """Opens the directory of a run.

    Raises:
        RunDirectoryError: If it holds no run.
    """
    run = RunDirectory(pathlib.Path(path))
    checksums.require_present(run.flags, _CURES[run.flags.name])
    if not run.flags.exists():
        raise RunDirectoryError(
            f"`run_dir` must hold a run: {run.flags} is missing."
        )
    return run
