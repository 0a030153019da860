"""The memory bank of a finished run: its rows, and the images they encode."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tf_instdisc import checksums


@dataclasses.dataclass(frozen=True)
class EncodedBy:
    """The encoder that computed a bank's rows from the whole images.

    Attributes:
        encoder: SHA-256 of `encoder.keras`.
        epochs: Epochs of its training; -1 if unknown.
        images: Images of the next epoch on which it was also trained.
    """

    encoder: str
    epochs: int = -1
    images: int = 0


@dataclasses.dataclass(frozen=True)
class Bank:
    """The rows by which a finished run is searched, one for each image.

    Attributes:
        rows: float32 `[size, embedding_dim]`, of unit length.
        instance_ids: int64 `[size]`, ascending.
        names: str `[size]`, paths or positions in a split.
        labels: int64 `[size]`, negative for unlabeled images.
        class_names: One for each label; empty without labels.
        encoded_by: The origin of the rows; None for rows left by training, as
            in banks of earlier versions and of converted runs.
    """

    rows: np.ndarray
    instance_ids: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    encoded_by: EncodedBy | None = None

    def take(self, chosen: np.ndarray) -> "Bank":
        """Returns some of the rows, as positions or as bool `[size]`."""
        return dataclasses.replace(
            self,
            rows=self.rows[chosen],
            instance_ids=self.instance_ids[chosen],
            names=self.names[chosen],
            labels=self.labels[chosen],
        )


def sample_rows(num_rows: int, max_rows: int, seed: int = 0) -> np.ndarray:
    """Draws positions of at most `max_rows` rows in ascending order."""
    if num_rows <= max_rows:
        return np.arange(num_rows)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(num_rows, max_rows, replace=False))


def quantize(
    rows: np.ndarray, dtype: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Quantizes rows of unit length.

    Args:
        rows: float32 `[num_rows, dim]`.
        dtype: `"float32"`, `"float16"` or `"int8"`.

    Returns:
        The rows as `dtype` and, for int8, the scale of each row, float32
        `[num_rows]`.
    """
    if dtype != "int8":
        return rows.astype(dtype), None
    largest = np.abs(rows).max(axis=1, keepdims=True)
    levels = np.round(rows * (127 / np.maximum(largest, 1e-12)))
    norms = np.linalg.norm(levels, axis=1)
    scales = 1 / np.maximum(norms, 1)
    return levels.astype(np.int8), scales.astype(np.float32)


class InstanceHistory(NamedTuple):
    """What `instances.json` holds.

    Attributes:
        removed_ids: Ids that are not given again, int64.
        digests: SHA-256 of the files that the rows are of, by name.
    """

    removed_ids: np.ndarray
    digests: dict[str, str]


def next_id(bank: Bank, removed_ids: np.ndarray) -> int:
    """Returns one more than the highest id that any image ever had."""
    return 1 + int(max(bank.instance_ids.max(), removed_ids.max(initial=-1)))


def write(path: pathlib.Path, bank: Bank) -> None:
    """Writes the bank atomically."""
    fields = instances_of(bank)
    if bank.encoded_by is not None:
        origin = json.dumps(dataclasses.asdict(bank.encoded_by))
        fields["encoded_by"] = np.array(origin)
    checksums.write_arrays(path, rows=bank.rows, **fields)


def instances_of(bank: Bank) -> dict[str, np.ndarray]:
    """Returns all of a bank but its rows, as arrays for `with_rows`."""
    return {
        "instance_ids": bank.instance_ids,
        "names": bank.names,
        "labels": bank.labels,
        "class_names": np.asarray(bank.class_names, dtype=str),
    }


def with_rows(
    rows: np.ndarray,
    instances: Mapping[str, np.ndarray],
    encoded_by: EncodedBy | None = None,
) -> Bank:
    """Returns the bank of rows and of what `instances_of` returned."""
    names = ("instance_ids", "names", "labels")
    return Bank(
        rows,
        **{name: instances[name] for name in names},
        class_names=tuple(str(name) for name in instances["class_names"]),
        encoded_by=encoded_by,
    )


def read(path: pathlib.Path, cure: str) -> Bank:
    """Reads the bank.

    Raises:
        DamagedFileError: If the file is not what was written.
    """
    with checksums.arrays(path, cure) as file:
        return with_rows(file["rows"], file, _origin(file))


def read_ids(
    path: pathlib.Path, cure: str
) -> tuple[np.ndarray, np.ndarray, EncodedBy | None]:
    """Reads ids, names and origin of the bank's rows, without the rows."""
    with checksums.arrays(path, cure) as file:
        return file["instance_ids"], file["names"], _origin(file)


def _origin(file: Any) -> EncodedBy | None:
    if "encoded_by" not in file.files:
        return None
    return EncodedBy(**json.loads(str(file["encoded_by"])))
