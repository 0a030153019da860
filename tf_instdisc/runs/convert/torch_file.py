"""PyTorch's two file formats: the pickles of PyTorch 0.4, and the zip file."""

import io
import math
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from tf_instdisc.errors import MissingFileError
from tf_instdisc.runs.convert import pickles
from tf_instdisc.runs.convert.records import (
    DTYPES,
    CheckpointError,
    Storage,
    Tensor,
)
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# For each storage: the start of its numbers, their bytes and any checksum.
_Places = dict[str, tuple[int, int, int | None]]


class TorchFile:
    """A checkpoint whose numbers are read on demand.

    Attributes:
        content: The saved object, as returned by `pickles.read`.
    """

    def __init__(
        self, path: str, mapped: mmap.mmap, content: Any, places: _Places
    ):
        self.content = content
        self._path = path
        self._mapped = mapped
        self._places = places
        # Each number may be read once and checked once.
        self._unread = 2 * len(mapped)

    def read(self, tensor: Tensor) -> np.ndarray:
        """Reads a tensor; all tensors together must fit in the file.

        Raises:
            CheckpointError: If the file does not contain all of it, or if
                tensors that share numbers add up to more than the file holds.
        """
        storage = tensor.storage
        dtype = DTYPES[storage.kind]
        key = shown(storage.key, 50)
        place, size, checksum = self._places.get(storage.key, (0, -1, None))
        if size != storage.size * dtype.itemsize:
            raise CheckpointError(
                f"{self._path} is damaged: storage '{key}' of "
                f"{storage.size:,} numbers has {max(size, 0):,} bytes."
            )
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, dtype)
        self._unread -= math.prod(tensor.shape) * dtype.itemsize
        self._unread -= 0 if checksum is None else size
        if self._unread < 0:
            raise CheckpointError(
                f"{self._path} is damaged: its tensors hold more numbers than "
                "the file."
            )
        if checksum is not None:
            # Only once: tensors may share a storage.
            self._places[storage.key] = (place, size, None)
            with memoryview(self._mapped) as whole:
                found = zlib.crc32(whole[place : place + size])
            if found != checksum:
                raise CheckpointError(
                    f"{self._path} is damaged: storage '{key}' has the wrong "
                    "checksum. Download it again."
                )
        numbers = np.frombuffer(
            self._mapped,
            dtype,
            storage.view_size,
            place + storage.start * dtype.itemsize,
        )
        return np.lib.stride_tricks.as_strided(
            numbers[tensor.offset :],
            tensor.shape,
            [stride * dtype.itemsize for stride in tensor.strides],
            writeable=False,
        ).copy()


@contextmanager
def open_file(path: str) -> Iterator[TorchFile]:
    """Opens a file written by `torch.save`; PyTorch is not needed.

    Args:
        path: The file, of PyTorch 0.1.11 or later, in either format.

    Yields:
        The file. Its tensors can be read until the context is left.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, truncated or not a checkpoint,
            or asks for anything but tensors and the records of `pickles`.
    """
    if not os.path.isfile(path):
        raise MissingFileError(f"The checkpoint {path!r} does not exist.")
    title = shown(path)
    if not os.path.getsize(path):
        raise CheckpointError(f"{title} is empty.")
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        is_zip = mapped[:4] == b"PK\x03\x04"
        parse = _parse_zip if is_zip else _parse_legacy
        content, places = parse(title, file, mapped)
        yield TorchFile(title, mapped, content, places)


def _parse_legacy(
    title: str, _: BinaryIO, mapped: mmap.mmap
) -> tuple[Any, _Places]:
    # Five pickles, followed by the numbers.
    start = io.BytesIO(mapped[: pickles.MAX_PICKLE_BYTES])

    def read(what: str) -> Any:
        return pickles.read(start, f"{title}, {what},")

    magic_number = None
    if mapped[:1] == b"\x80":
        magic_number = read("the beginning")
    if type(magic_number) is not int or magic_number != _MAGIC_NUMBER:
        raise CheckpointError(
            f"{title} was not written by torch.save of PyTorch 0.1.11 or later."
        )
    protocol, system = read("the protocol"), read("the system")
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise CheckpointError(f"{title} is of an unknown protocol.")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(f"{title} must be little-endian. Save it again.")
    storages: dict[str, Storage] = {}
    content = pickles.read(start, title, storages)
    keys = read("the list of storages")
    if not isinstance(keys, list):
        raise CheckpointError(f"{title} is damaged: no list of storages.")
    places: _Places = {}
    place = start.tell()
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise CheckpointError(f"{title} is damaged: an unknown storage.")
        count = int.from_bytes(mapped[place : place + 8], "little")
        size = count * DTYPES[storage.kind].itemsize
        place += 8
        if count != storage.size or place + size > len(mapped):
            raise CheckpointError(
                f"{title} is cut short or damaged: storage '{shown(key, 50)}' "
                f"should have {storage.size:,} numbers. Download it again."
            )
        places[key] = (place, size, None)
        place += size
    return content, places


def _parse_zip(
    title: str, file: BinaryIO, mapped: mmap.mmap
) -> tuple[Any, _Places]:
    try:
        with zipfile.ZipFile(file) as archive:
            return _parse_archive(title, mapped, archive)
    except CheckpointError:
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        reason = shown(str(error), UNTRUSTED_LIMIT)
        raise CheckpointError(
            f"{title} is cut short or damaged: {reason}. Download it again."
        ) from error


def _parse_archive(
    title: str, mapped: mmap.mmap, archive: zipfile.ZipFile
) -> tuple[Any, _Places]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickled = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise CheckpointError(
            f"{title} is a zip file that was not written by torch.save."
        )
    prefix = pickled[0].removesuffix("data.pkl")
    for name, entry in entries.items():
        # PyTorch does not compress; compressed data may expand to any size.
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise CheckpointError(
                f"{title} is damaged: {shown(name, UNTRUSTED_LIMIT)} is "
                "compressed."
            )
        # `zipfile` allocates the size that the directory claims.
        if entry.compress_size != entry.file_size:
            raise CheckpointError(
                f"{title} is damaged: {shown(name, UNTRUSTED_LIMIT)} is "
                "listed with two sizes. Download it again."
            )
    size = entries[pickled[0]].file_size
    if size > min(pickles.MAX_PICKLE_BYTES, len(mapped)):
        raise CheckpointError(f"{title} has a pickle of {size:,} bytes.")
    order = entries.get(f"{prefix}byteorder")
    if order is not None and archive.read(order)[:10] != b"little":
        raise CheckpointError(f"{title} must be little-endian. Save it again.")
    content = pickles.read(io.BytesIO(archive.read(pickled[0])), title)
    places: _Places = {}
    for name, entry in entries.items():
        if name.startswith(f"{prefix}data/"):
            place = _place(mapped, entry)
            if place + entry.file_size > len(mapped):
                raise CheckpointError(
                    f"{title} is cut short in {shown(name, UNTRUSTED_LIMIT)}."
                )
            key = name.removeprefix(f"{prefix}data/")
            places[key] = (place, entry.file_size, entry.CRC)
    return content, places


def _place(mapped: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Returns where an entry's bytes begin: after a header of its own."""
    header = mapped[entry.header_offset : entry.header_offset + 30]
    if header[:4] != b"PK\x03\x04" or len(header) < 30:
        raise zipfile.BadZipFile(f"{entry.filename} has no header")
    name = int.from_bytes(header[26:28], "little")
    extra = int.from_bytes(header[28:30], "little")
    return entry.header_offset + 30 + name + extra
