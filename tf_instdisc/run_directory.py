"""A run's directory: the only place that knows the names of its files.

flags.txt       a flagfile that repeats the run
metrics.jsonl   one JSON object for each epoch
tensorboard/    the same for TensorBoard
encoder.keras   the trained encoder
bank.npz        rows, instance ids, names, labels, class names
report.html     what instdisc-report writes
instances.json  what instdisc-update has removed, and digests of the files
"""

import dataclasses
import json
import os
import pathlib

import numpy as np


class RunDirectoryError(ValueError):
    """A directory does not hold what it should."""


@dataclasses.dataclass(frozen=True)
class Bank:
    """The memory bank of a finished run.

    Attributes:
        rows: float32 `[size, embedding_dim]`, of unit length.
        instance_ids: int64 `[size]`, ascending.
        names: str `[size]`, paths or positions in a split.
        labels: int64 `[size]`, negative where there is none.
        class_names: One for each label; empty without labels.
    """

    rows: np.ndarray
    instance_ids: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Reads and writes the files of one run."""

    path: pathlib.Path

    @property
    def flags(self) -> pathlib.Path:
        return self.path / "flags.txt"

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
    def bank(self) -> pathlib.Path:
        return self.path / "bank.npz"

    @property
    def instances(self) -> pathlib.Path:
        return self.path / "instances.json"

    @property
    def report(self) -> pathlib.Path:
        return self.path / "report.html"

    def read_flags(self) -> dict[str, str]:
        """The run's flags as text; a switch is `"true"` or `"false"`."""
        flags = {}
        for line in self.flags.read_text(encoding="utf-8").splitlines():
            if not line.startswith("--"):
                continue
            name, equals, value = line[2:].partition("=")
            if not equals:
                value = "false" if name.startswith("no") else "true"
                name = name.removeprefix("no")
            flags[name] = value
        return flags

    def set_flag(self, name: str, value: str) -> None:
        """Sets one of the run's flags, whole or not at all."""
        text = self.flags.read_text(encoding="utf-8")
        lines = [
            line
            for line in text.splitlines()
            if line.partition("=")[0] != f"--{name}"
        ]
        partial = self.path / "flags.partial.txt"
        partial.write_text(
            "\n".join([*lines, f"--{name}={value}"]) + "\n", encoding="utf-8"
        )
        os.replace(partial, self.flags)

    def save_instances(
        self, removed_ids: np.ndarray, digests: dict[str, str]
    ) -> None:
        """Writes tombstones and the files' digests, whole or not at all."""
        partial = self.path / "instances.partial.json"
        content = {"removed_ids": removed_ids.tolist(), "digests": digests}
        partial.write_text(json.dumps(content), encoding="utf-8")
        os.replace(partial, self.instances)

    def load_instances(self) -> tuple[np.ndarray, dict[str, str]]:
        """Tombstones, int64, and digests; both empty before an update."""
        if not self.instances.exists():
            return np.zeros([0], np.int64), {}
        content = json.loads(self.instances.read_text(encoding="utf-8"))
        return np.array(content["removed_ids"], np.int64), content["digests"]

    def append_metrics(self, metrics: dict[str, float]) -> None:
        """Adds one line to the metrics."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """One dictionary for each epoch."""
        with open(self.metrics, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def save_encoder(self, encoder) -> None:
        """Writes the encoder, whole or not at all."""
        partial = self.path / "encoder.partial.keras"
        encoder.save(partial)
        os.replace(partial, self.encoder)

    def save_bank(self, bank: Bank) -> None:
        """Writes the bank, whole or not at all."""
        partial = self.path / "bank.partial.npz"
        np.savez(
            partial,
            rows=bank.rows,
            instance_ids=bank.instance_ids,
            names=bank.names,
            labels=bank.labels,
            class_names=np.asarray(bank.class_names, dtype=str),
        )
        os.replace(partial, self.bank)

    def load_bank(self) -> Bank:
        """Reads the bank.

        Raises:
            RunDirectoryError: If the run has not finished.
        """
        if not self.bank.exists():
            raise RunDirectoryError(
                f"{self.path} holds no bank.npz. Has its run finished?"
            )
        with np.load(self.bank) as file:
            fields = {name: file[name] for name in file.files}
        class_names = tuple(str(n) for n in fields.pop("class_names"))
        return Bank(class_names=class_names, **fields)


def check_vacant(path: str) -> None:
    """Raises unless a new run can be kept at `path`.

    Raises:
        RunDirectoryError: If the directory holds a run, or anything else.
    """
    run = RunDirectory(pathlib.Path(path))
    if run.path.exists() and not run.path.is_dir():
        raise RunDirectoryError(
            f"`run_dir` must be a directory. Received: run_dir={path}, a file."
        )
    if run.flags.exists():
        raise RunDirectoryError(
            f"`run_dir` holds another run, started with {run.flags}. "
            f"Received: run_dir={path}. Choose another directory or remove it."
        )
    if run.path.exists() and any(run.path.iterdir()):
        raise RunDirectoryError(
            "`run_dir` must be missing or empty. "
            f"Received: run_dir={path}. Choose another directory."
        )


def create(path: str, flags_text: str) -> RunDirectory:
    """Makes the directory of a new run.

    Args:
        path: Missing or empty.
        flags_text: A flagfile that repeats the run.

    Returns:
        The directory, with the flags written.

    Raises:
        RunDirectoryError: If the directory holds a run, or anything else.
    """
    check_vacant(path)
    run = RunDirectory(pathlib.Path(path))
    run.path.mkdir(parents=True, exist_ok=True)
    run.flags.write_text(flags_text, encoding="utf-8")
    return run


def load(path: str) -> RunDirectory:
    """Opens the directory of a run.

    Raises:
        RunDirectoryError: If it holds no run.
    """
    run = RunDirectory(pathlib.Path(path))
    if not run.flags.exists():
        raise RunDirectoryError(
            f"`run_dir` must hold a run: {run.flags} is missing."
        )
    return run
