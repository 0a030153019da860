"""The manifest of a run at a URL, and the names of its objects.

A run at a URL is a manifest, `instdisc-000012.json`, and the objects that it
names, in `files/`. Nothing is ever overwritten: the name of an object contains
its digest, and each state of the run has a manifest with a number of its own.
The newest complete manifest is the run, and all other objects are leftovers.
Changes are therefore atomic on every file system, even if it has no rename.
"""

import datetime
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tf_instdisc.checksums import unsealed
from tf_instdisc.errors import UsageError
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

FORMAT = 1
FILES = "files/"
_NAME = re.compile(r"instdisc-(\d+)\.json")

# The file systems of fsspec call the same thing by different names.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "sha", "hex")
_TIMES = (
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "mtime",
    "modificationTime",
    "modify",
    "created",
)
_MODIFIED = ("LastModified", "last_modified", "mtime", "created")


def object_name(name: str, sha256: str) -> str:
    """Returns the name of the object with a file's content."""
    folder, slash, file = name.rpartition("/")
    stem, suffix = os.path.splitext(file)
    return f"{FILES}{folder}{slash}{stem}-{sha256[:16]}{suffix}"


def name_of(number: int) -> str:
    """Returns the name of a manifest."""
    return f"instdisc-{number:06d}.json"


def numbers(objects: Iterable[str]) -> list[int]:
    """Returns the numbers of the manifests among objects."""
    found = map(_NAME.fullmatch, objects)
    return [int(match[1]) for match in found if match]


def parsed(text: bytes) -> dict[str, Any] | None:
    """Returns a manifest; None if its writer was killed."""
    try:
        content = unsealed(text)
        known = content["format"]
    except (ValueError, KeyError):
        return None
    if known > FORMAT:
        raise UsageError(
            f"The manifest of a run must have format {FORMAT} or less. "
            f"Received: format={known}. Use a later version of tf_instdisc."
        )
    return content


def safe(name: str, url: str) -> str:
    """Returns a relative name, if it stays within the copy."""
    parts = name.split("/")
    if name and ({"", ".", ".."} & {*parts} or "\0" in name or "\\" in name):
        raise UsageError(
            "Names of objects must be those of files. Received: "
            f"{shown(name, UNTRUSTED_LIMIT)!r} in {url}. Rename it."
        )
    return name


def version_of(info: Mapping[str, Any]) -> str:
    """Returns text that changes when an object is replaced."""
    keys: tuple[str, ...] = ("size", *_VERSIONS)
    if not any(key in info for key in _VERSIONS):
        keys = ("size", *_TIMES)
    return " ".join(str(info[key]) for key in keys if key in info)


def modified(info: Mapping[str, Any]) -> float | None:
    """Returns when an object was written, in seconds as in `os.stat`."""
    for key in _MODIFIED:
        value: Any = info.get(key)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
