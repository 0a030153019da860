"""Reads and writes the files of a run; reports damaged files by name."""

import functools
import json
import pathlib
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_instdisc import checksums, remote
from tf_instdisc.config import RunConfig
from tf_instdisc.errors import UsageError
from tf_instdisc.runs import bank as bank_file
from tf_instdisc.runs import record
from tf_instdisc.runs.bank import Bank, EncodedBy, InstanceHistory
from tf_instdisc.runs.files import BEST_CURE, RunFiles, writing
from tf_instdisc.runs.record import RunRecord

if TYPE_CHECKING:
    import keras


class RunDirectoryError(UsageError):
    """A directory does not contain what it should."""


class RunDirectory(RunFiles):
    """Reads and writes the files of one run.

    Every reader raises DamagedFileError if a file is not what was written.
    """

    # === Settings ===

    def save_record(self, written: RunRecord) -> None:
        """Writes settings and facts; creates the directory of a new run.

        Raises:
            StorageError: If they cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            # This file marks the directory as a run's.
            checksums.write_text(self.settings, written.text())
            checksums.write_text(self.flags, written.config.flagfile())

    def read_record(self) -> RunRecord:
        """Reads settings and facts, also of a run of the first format."""
        checksums.require_present(self.settings, self.cure(self.settings))
        content = self._read_json(self.settings) or {}
        if "format" in content:
            with checksums.parsing(self.settings, self.cure(self.settings)):
                return record.parse(content)
        flagfile = checksums.read_text(self.flags, self.cure(self.flags))
        with checksums.parsing(self.flags, self.cure(self.flags)):
            return record.parse_first_format(content, flagfile)

    def read_config(self) -> RunConfig:
        """Returns the settings of the run."""
        return self.read_record().config

    def set_data(self, **changes: Any) -> None:
        """Changes settings of the run's images, such as their folder."""
        self.save_record(self.read_record().with_data(**changes))

    # === Instances ===

    def save_instances(
        self, removed_ids: np.ndarray, digests: dict[str, str]
    ) -> None:
        """Writes tombstones and digests, atomically."""
        content = {"removed_ids": removed_ids.tolist(), "digests": digests}
        checksums.write_text(self.instances, json.dumps(content))

    def load_instances(self) -> InstanceHistory:
        """Returns what updates have recorded; empty before an update.

        Raises:
            DamagedFileError: If the file is missing or damaged.
        """
        cure = self.cure(self.instances)
        checksums.require_present(self.instances, cure)
        content = self._read_json(self.instances)
        if content is None:
            content = {"removed_ids": [], "digests": {}}
        with checksums.parsing(self.instances, cure):
            return InstanceHistory(
                np.array(content["removed_ids"], np.int64), content["digests"]
            )

    def ids_by_name(self) -> tuple[dict[str, int], int]:
        """Returns the images' ids, and one more than the highest id ever."""
        bank = self.load_bank()
        removed_ids = self.load_instances().removed_ids
        names = map(str, bank.names)
        ids = map(int, bank.instance_ids)
        next_id = bank_file.next_id(bank, removed_ids)
        return dict(zip(names, ids, strict=True)), next_id

    # === Metrics and results ===

    def append_metrics(self, metrics: dict[str, float]) -> None:
        """Appends a line to the metrics.

        Raises:
            StorageError: If it cannot be written.
        """
        with writing(self.path):
            lines = [*self.read_metrics(), metrics]
            self._save_lines(self.metrics, lines)

    def read_metrics(self) -> list[dict[str, float]]:
        """Returns one dictionary per epoch; none for a converted run."""
        cure = self.cure(self.metrics)
        checksums.require_present(self.metrics, cure)
        if not self.metrics.exists():
            return []
        text = checksums.read_text(self.metrics, cure)
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            # A process of an earlier version was killed while writing.
            lines.pop()
        with checksums.parsing(self.metrics, cure):
            return [json.loads(line) for line in lines]

    def _save_lines(self, path: pathlib.Path, lines: list[dict]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        checksums.write_text(path, text)

    def save_detection(self, lines: list[dict]) -> None:
        """Rewrites the epochs of detectors, atomically."""
        self._save_lines(self.detection, lines)

    def keep_metrics(self, epochs: int) -> None:
        """Removes the metrics of all epochs after the first ones.

        A run that continues from a checkpoint writes them again.
        """
        lines = self.read_metrics()
        kept = [line for line in lines if line["epoch"] <= epochs]
        if kept != lines:
            self._save_lines(self.metrics, kept)

    def save_results(self, results: dict) -> None:
        """Writes the measurements, atomically."""
        checksums.write_text(self.results, json.dumps(results, indent=1) + "\n")

    def load_results(self) -> dict:
        """Returns the measurements; empty before the first evaluation.

        Raises:
            DamagedFileError: If the file is damaged.
        """
        if checksums.is_missing(self.results):
            print(
                f"warning: {self.results} is missing; its measurements must "
                "be repeated.",
                file=sys.stderr,
            )
        return self._read_json(self.results) or {}

    # === Encoder ===

    # Keras is only imported when an encoder is read or written.

    def save_encoder(self, encoder: "keras.Model", best: bool = False) -> None:
        """Writes the encoder or that of the best epoch so far, atomically."""
        from tf_instdisc import portable

        path = self.best_encoder if best else self.encoder
        with checksums.replacing(path) as partial:
            portable.write(encoder, partial)

    def load_encoder_file(self, path: pathlib.Path) -> "keras.Model":
        """Loads an encoder of the run as it was saved.

        Args:
            path: `encoder` or `best_encoder`.
        """
        import keras

        checksums.digest(path, self.cure(path))
        try:
            return keras.saving.load_model(path, compile=False)
        except Exception:
            # A run of an earlier version has no digest of the file.
            with (
                checksums.parsing(path, self.cure(path)),
                zipfile.ZipFile(path) as archive,
            ):
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(damaged) from None
            raise

    def save_best(
        self, encoder: "keras.Model", epoch: int, knn_top1: float
    ) -> None:
        """Writes the best encoder so far, then its description."""
        self.save_encoder(encoder, best=True)
        content = {
            "epoch": epoch,
            "knn_top1": knn_top1,
            "sha256": checksums.digest(self.best_encoder, BEST_CURE),
        }
        checksums.write_text(self.best, json.dumps(content) + "\n")

    def load_best(self) -> dict | None:
        """Returns epoch and kNN top-1 of the best encoder, None without one.

        Raises:
            DamagedFileError: If one of its files is damaged.
        """
        if not self.best.exists() or not self.best_encoder.exists():
            return None
        content = self._read_json(self.best)
        digest = checksums.digest(self.best_encoder, BEST_CURE)
        with checksums.parsing(self.best, BEST_CURE):
            return content if content["sha256"] == digest else None

    def encoder_digest(self) -> str:
        """Returns the SHA-256 of the encoder's file.

        Raises:
            DamagedFileError: If the file is damaged.
        """
        return checksums.digest(self.encoder, self.cure(self.encoder))

    # === Memory bank ===

    def save_bank(self, bank: Bank) -> None:
        """Writes the bank, atomically."""
        bank_file.write(self.bank, bank)

    def bank_digest(self) -> str:
        """Returns the SHA-256 of the bank's file, as `encoder_digest`."""
        return checksums.digest(self.bank, self.cure(self.bank))

    def load_bank(self) -> Bank:
        """Reads the bank.

        Raises:
            RunDirectoryError: If there is no bank, or a command was killed
                while it replaced the bank.
        """
        if not self.bank.exists():
            raise RunDirectoryError(
                f"{self.path} holds no bank.npz. If its training was stopped, "
                "the same instdisc-train command with --finish writes one."
            )
        bank = bank_file.read(self.bank, self.cure(self.bank))
        if bank.encoded_by is None:
            _note_rows_of_training(self)
        elif (
            self.encoder.exists()
            and bank.encoded_by.encoder != self.encoder_digest()
        ):
            raise RunDirectoryError(
                f"{self.bank} was not encoded by the encoder beside it: a "
                "command was killed while it replaced both. Start the same "
                "command again."
            )
        return bank

    def read_bank_ids(
        self,
    ) -> tuple[np.ndarray, np.ndarray, EncodedBy | None]:
        """Reads ids, names and origin of the bank's rows, without the rows."""
        return bank_file.read_ids(self.bank, self.cure(self.bank))

    def _read_json(self, path: pathlib.Path) -> Any:
        """Reads a JSON file; returns None if there is no such file."""
        if not path.exists():
            return None
        cure = self.cure(path)
        text = checksums.read_text(path, cure)
        with checksums.parsing(path, cure):
            return json.loads(text)


@functools.cache
def _note_rows_of_training(run: RunDirectory) -> None:
    """Explains once what to do about rows that the encoder did not compute."""
    is_converted = "converted_from" in run.read_record().facts
    if is_converted and run.read_config().data.images is None:
        return
    path = remote.named(str(run.path))
    cure = f"instdisc-update --run_dir={path} --images=FOLDER --reread"
    if not is_converted:
        cure = (
            "Its instdisc-train command with --finish (or, if the run was "
            f"updated, {cure})"
        )
    print(
        f"note: the rows of {path} were left by its training, not encoded "
        f"from the whole images. {cure} encodes them again.",
        file=sys.stderr,
    )
