"""The objects below a URL, through fsspec."""

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tf_instdisc import remote_manifest
from tf_instdisc.checksums import sealed
from tf_instdisc.errors import RunError, StorageError, UsageError
from tf_instdisc.paths import is_web
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

_TRIES = 5


class Store:
    """The objects below a URL.

    A FileNotFoundError of its methods means that another process has removed
    an object since it was listed.

    Args:
        url: The URL, without a slash at the end.
    """

    def __init__(self, url: str):
        import fsspec

        self.url = url
        # A server has no listing, only pages with links.
        self.is_web = is_web(url)
        with self._reaching():
            self.fs, root = fsspec.core.url_to_fs(url)
        self.root = root.rstrip("/")

    @contextlib.contextmanager
    def _reaching(self, *, writes: bool = False) -> Iterator[None]:
        """Turns the many errors of networks and credentials into one.

        Raises:
            StorageError: If the block fails.
            FileNotFoundError: If an object that is read is missing.
        """
        try:
            yield
        except (RunError, UsageError):
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not writes:
                raise
            lines = str(error).splitlines() or [""]
            reason = shown(lines[0], UNTRUSTED_LIMIT) or "no reason is given"
            raise StorageError(
                f"{self.url} cannot be read or written: {reason.rstrip('.')} "
                f"({type(error).__name__}). Check the network, the "
                "credentials and the address, then start the same command "
                "again; nothing on this machine is lost."
            ) from error

    def path(self, name: str) -> str:
        """Returns the path of an object in the file system; "" is the root."""
        return f"{self.root}/{name}" if name else self.root

    def objects(self) -> dict[str, dict[str, Any]]:
        """Lists all objects by name; the root itself, if a file, as ""."""
        with self._reaching():
            self.fs.invalidate_cache()
            try:
                if self.is_web:
                    found = {self.root: self.fs.info(self.root)}
                else:
                    found = self.fs.find(self.root, detail=True)
                    # A file that is the root may be listed without details.
                    if found.get(self.root) == {}:
                        found = {self.root: self.fs.info(self.root)}
            except FileNotFoundError:
                return {}
        named = {}
        for path, info in found.items():
            if info.get("type") == "file" and not path.endswith("/"):
                name = path.removeprefix(self.root).removeprefix("/")
                named[remote_manifest.safe(name, self.url)] = info
        return named

    def folders(self) -> list[str]:
        """Lists the names of the folders directly below the URL."""
        with self._reaching():
            self.fs.invalidate_cache()
            try:
                found = self.fs.ls(self.root, detail=True)
            except FileNotFoundError:
                return []
        return [
            remote_manifest.safe(
                info["name"].rstrip("/").rpartition("/")[2], self.url
            )
            for info in found
            if info.get("type") == "directory"
        ]

    def download(
        self, names: Sequence[str], paths: Sequence[pathlib.Path]
    ) -> None:
        """Downloads objects into files whose directory exists."""
        with self._reaching():
            self.fs.get(
                [self.path(name) for name in names],
                [os.fspath(path) for path in paths],
            )

    def upload(
        self, paths: Sequence[pathlib.Path], targets: Sequence[str]
    ) -> None:
        """Uploads files to paths in the file system."""
        if not paths:
            return
        with self._reaching(writes=True):
            for target in targets if not self._has_keys else ():
                self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.fs.put([os.fspath(path) for path in paths], list(targets))

    def create(self, name: str, content: bytes) -> bytes | None:
        """Creates an object unless it exists.

        Returns:
            None, or the content of the object that exists.

        Raises:
            NotImplementedError: If the file system cannot create an object
                on the condition that it does not exist.
            StorageError: If the object exists and cannot be read.
        """
        # The holder of a lock may remove it before it is read.
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                self.fs.invalidate_cache()
                return self.read(name)
            with contextlib.suppress(FileExistsError):
                self._create(self.path(name), content)
                return None
            time.sleep(0.1)
        raise StorageError(
            f"{self.url}/{name} exists and cannot be read. Remove it if no "
            "other process uses it."
        )

    def _create(self, path: str, content: bytes) -> None:
        try:
            if not self._has_keys:
                self.fs.makedirs(self.root, exist_ok=True)
                with self.fs.open(path, "xb") as file:
                    file.write(content)
            else:
                self.fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            raise
        except (NotImplementedError, ValueError, TypeError) as error:
            raise NotImplementedError from error
        except Exception:
            with self._reaching(writes=True):
                raise

    @property
    def _has_keys(self) -> bool:
        """Whether there are no directories to make, as in an object store."""
        from fsspec.asyn import AsyncFileSystem

        # A store would make a missing bucket, whose name may be misspelled.
        return isinstance(self.fs, AsyncFileSystem)

    def read(self, name: str) -> bytes:
        """Returns the content of an object."""
        with self._reaching():
            return self.fs.cat_file(self.path(name))

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects; another process may have removed them."""
        for name in names:
            self.remove_path(self.path(name))

    def remove_path(self, path: str) -> None:
        """Removes a path in the file system if it exists."""
        with self._reaching():
            try:
                self.fs.rm_file(path)
            except FileNotFoundError:
                return
            except Exception:
                # Some file systems raise errors of their own without a file.
                self.fs.invalidate_cache()
                with contextlib.suppress(FileNotFoundError):
                    self.fs.info(path)
                    raise

    # === Manifests ===

    def is_run(self) -> bool:
        """Returns whether there is a manifest."""
        if self.is_web:
            return False
        with self._reaching():
            try:
                found = self.fs.ls(self.root, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return bool(
            remote_manifest.numbers(path.rpartition("/")[2] for path in found)
        )

    def newest(self, objects: Iterable[str]) -> dict[str, Any] | None:
        """Reads the newest complete manifest, None if there is none.

        Returns:
            `id` and `files`: by name, `object`, `size` and
            `sha256` of each.

        Raises:
            StorageError: If there are manifests but all are damaged.
        """
        numbers = sorted(remote_manifest.numbers(objects), reverse=True)
        for number in numbers:
            content = remote_manifest.parsed(
                self.read(remote_manifest.name_of(number))
            )
            if content is not None:
                for name, entry in content["files"].items():
                    remote_manifest.safe(name, self.url)
                    remote_manifest.safe(entry["object"], self.url)
                return content
        if numbers:
            raise StorageError(
                f"{self.url} has no complete manifest. Restore one from a "
                f"copy, or remove {self.url} to start again."
            )
        return None

    def write_manifest(
        self, files: Mapping[str, Any], objects: Iterable[str], identity: str
    ) -> None:
        """Writes the next manifest.

        Args:
            files: As in `newest`.
            objects: All objects; those that were just uploaded may be missing.
            identity: The id of the manifest, which no other one has.
        """
        number = max(remote_manifest.numbers(objects), default=0) + 1
        text = sealed(
            {
                "format": remote_manifest.FORMAT,
                "id": identity,
                "files": files,
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, remote_manifest.name_of(number))
            path.write_text(text)
            self.upload([path], [self.path(path.name)])

    def remove_unused(
        self, files: Mapping[str, Any], objects: Iterable[str]
    ) -> None:
        """Removes what the manifest that was just written does not name.

        Args:
            files: As in `newest`.
            objects: All objects before the manifest was written.
        """
        used = {entry["object"] for entry in files.values()}
        self.remove(
            [
                name
                for name in objects
                if remote_manifest.numbers([name])
                or (name.startswith(remote_manifest.FILES) and name not in used)
            ]
        )
