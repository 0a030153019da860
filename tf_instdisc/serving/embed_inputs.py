"""What a pipeline embeds: a folder, a table of paths, records or a TFDS set."""

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import IO

import pyarrow
from pyarrow import csv, parquet

from tf_instdisc.data.folder_listing import image_paths_at
from tf_instdisc.data.record_files import RecordFiles, SplitFiles
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.paths import local_path


@dataclasses.dataclass(frozen=True)
class Folder:
    """The images below a folder; names are relative paths."""

    folder: str

    def names(self) -> Iterator[str]:
        """Lists the images, as `image_paths_at` does."""
        yield from image_paths_at(self.folder)


@dataclasses.dataclass(frozen=True)
class PathTable:
    """The images that a column of a Parquet or CSV file names.

    Attributes:
        table: Path or URL of the file. Relative names belong to its folder.
        column: Name of the column of paths or URLs.
    """

    table: str
    column: str

    @property
    def folder(self) -> str:
        """The folder of the file."""
        return os.path.dirname(self.table)

    def names(self) -> Iterator[str]:
        """Reads the column; an empty field is an empty name.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read, or has no such column of text.
        """
        path = local_path(self.table, "table")
        if not os.path.isfile(path):
            raise MissingFileError(
                f"`table` must exist. Received: table={self.table!r}"
            )
        try:
            with open(path, "rb") as file:
                for batch in self._batches(file):
                    text = batch.column(self.column).cast(pyarrow.string())
                    yield from (name or "" for name in text.to_pylist())
        except (pyarrow.ArrowException, KeyError) as error:
            raise UsageError(
                "`table` must be a Parquet file, or a CSV file with a header, "
                f"with a `column` of paths or URLs. Received: {self.table!r} "
                f"and column={self.column!r} ({error})"
            ) from error

    def _batches(self, file: IO[bytes]) -> Iterator[pyarrow.RecordBatch]:
        if self.table.endswith(".parquet"):
            read = parquet.ParquetFile(file)
            return read.iter_batches(columns=[self.column])
        return iter(
            csv.open_csv(
                file,
                convert_options=csv.ConvertOptions(
                    include_columns=[self.column],
                    column_types={self.column: pyarrow.string()},
                ),
            )
        )


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of a split of a TFDS dataset; arguments of `SplitFiles`."""

    dataset: str
    split: str
    data_dir: str | None
    image_key: str | None

    def open(self) -> SplitFiles:
        """Opens the dataset, once in each process."""
        return _opened(SplitFiles, *dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Records:
    """The images of TFRecord files; arguments of `RecordFiles`."""

    folder: str
    image_key: str | None

    def open(self) -> RecordFiles:
        """Opens the files, once in each process."""
        return _opened(RecordFiles, *dataclasses.astuple(self))


Numbered = Split | Records
"""Images that are read by their positions."""

Images = Folder | PathTable | Numbered

_opened = functools.cache(lambda kind, *arguments: kind(*arguments))
