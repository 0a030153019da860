"""Working copies of URLs: manifests, kills, locks and mirrored folders."""

import concurrent.futures
import fcntl
import ftplib
import http.server
import json
import os
import pathlib
import shutil
import socket
import threading
import time
import uuid

import fsspec
import pytest

from tests.buckets import gs_server, machine, objects, s3_server
from tf_instdisc import atomic, paths, remote, remote_store
from tf_instdisc.checksums import sealed
from tf_instdisc.errors import (
    LockedError,
    MissingExtraError,
    StorageError,
    UsageError,
)
from tf_instdisc.remote_copy import Copy
from tf_instdisc.remote_manifest import version_of
from tf_instdisc.remote_store import Store
from tf_instdisc.runs import checkpoints, lock, shipped

pytestmark = pytest.mark.slow

OTHER_HOST = {"host": "other", "process": 1, "command": "instdisc-train"}


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def google_bucket():
    with gs_server() as url:
        yield url


@pytest.fixture(params=("memory", "file", "s3", "gs"))
def url(request, tmp_path):
    """An address below which there is nothing yet."""
    base = {"memory": "memory://place", "file": f"file://{tmp_path}/place"}
    if request.param == "s3":
        base["s3"] = request.getfixturevalue("bucket")
    if request.param == "gs":
        base["gs"] = request.getfixturevalue("google_bucket")
    return f"{base[request.param]}/{uuid.uuid4().hex}/run"


@pytest.fixture
def on(tmp_path):
    """`with on("a")`: as on the machine `a`."""
    return lambda name: machine(tmp_path / "machines" / name)


def read(folder):
    """Texts of a directory's files by name; None if it is missing."""
    folder = pathlib.Path(folder)
    if not folder.exists():
        return None
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != lock.FILE
    }


def write(folder, files):
    """Makes a directory hold files, replaced as the package does."""
    folder = pathlib.Path(folder)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        name = path.relative_to(folder).as_posix()
        if name not in files and name != lock.FILE:
            path.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            atomic.write_text(path, text)


def fill(url, files):
    """Writes objects as another program does."""
    fs, root = fsspec.core.url_to_fs(url)
    for name, text in files.items():
        path = f"{root}/{name}"
        if url.startswith("file:"):
            fs.makedirs(os.path.dirname(path), exist_ok=True)
        fs.pipe_file(path, text.encode())


def save(url, files):
    with lock.holding(url):
        write(paths.local_path(url), files)


OLD = {"run.json": "{}", "a/b.txt": "old", "gone.txt": "gone"}
NEW = {"run.json": "{}", "a/b.txt": "new", "added.keras": "added"}


def test_another_machine_reads_what_was_written(url, on):
    with on("a"):
        assert read(paths.local_path(url)) is None
        save(url, OLD)
        save(url, NEW)
    with on("b"):
        assert read(paths.local_path(url)) == NEW
        save(url, OLD)
    with on("a"):
        assert read(paths.local_path(url)) == OLD
    # Nothing else is left, neither old objects nor the lock.
    names = [name.rpartition("/")[2] for name in objects(url)]
    assert len(names) == 4, names
    assert "instdisc-000003.json" in names


def test_an_unchanged_run_is_not_written_again(url, on):
    with on("a"):
        save(url, OLD)
        before = objects(url)
        save(url, OLD)
        with lock.holding(url):
            copy = pathlib.Path(paths.local_path(url))
            (copy / "features").mkdir()
            (copy / "features/cache.npy").write_text("stays here")
            (copy / ".partial-x").write_text("stays here")
        assert objects(url) == before


def test_checkpoints_are_downloaded_only_when_they_are_needed(url, on):
    name = "checkpoints/checkpoint-000001/state.index"
    with on("a"):
        text = {"progress": {"epochs": 1}, "files": {}}
        text = sealed(text)
        manifest = {"checkpoints/checkpoint-000001/manifest.json": text}
        save(url, {**OLD, **manifest, name: "state"})
    with on("b"):
        copy = pathlib.Path(paths.local_path(url))
        assert read(copy) == {**OLD, **manifest}
        assert checkpoints.newest_progress(copy / "checkpoints")
        # They stay at the URL when a command without them writes.
        with lock.holding(url):
            atomic.write_text(copy / "results.json", "[]")
        remote.refresh(copy, whole=True)
        assert (copy / name).read_text() == "state"
    with on("c"):
        copy = paths.local_path(url)
        remote.refresh(copy, whole=True)
        everything = {**OLD, **manifest, name: "state", "results.json": "[]"}
        assert read(copy) == everything


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def killed_at(monkeypatch):
    """`killed_at(n)`: from the nth change at a URL on, every operation fails.

    Of the object that is then written, the first half is there, unless it is
    S3, where an object appears when it is complete.
    """
    put_file, rm_file = {}, {}

    def killed_at(fs, last):
        count = 0

        def step():
            nonlocal count
            count += 1
            if count > last:
                raise Killed

        def put(sources, targets):
            for source, target in zip(sources, targets, strict=True):
                try:
                    step()
                except Killed:
                    if fs.protocol[0] != "s3" and count == last + 1:
                        content = pathlib.Path(source).read_bytes()
                        fs.pipe_file(target, content[: len(content) // 2])
                    raise
                put_file[fs]([source], [target])

        def remove(path):
            step()
            rm_file[fs](path)

        put_file.setdefault(fs, fs.put)
        rm_file.setdefault(fs, fs.rm_file)
        monkeypatch.setattr(fs, "put", put)
        monkeypatch.setattr(fs, "rm_file", remove)
        return lambda: count

    return killed_at


@pytest.mark.exhaustive_variants("s3")
def test_a_kill_leaves_the_old_or_the_new_run(url, on, killed_at):
    fs, _ = fsspec.core.url_to_fs(url)
    number = 0
    while True:
        address = f"{url}{number}"
        killed_at(fs, 1000)
        with on("a"):
            save(address, OLD)
            done = killed_at(fs, number)
            try:
                save(address, NEW)
            except Killed:
                killed_at(fs, 1000)
            else:
                break
            with on(f"reader{number}"):
                found = read(paths.local_path(address))
                assert found in (OLD, NEW), number
            # The same machine continues with what it has. A removal that was
            # not written has no effect.
            with lock.holding(address):
                found = read(paths.local_path(address))
                assert found in (NEW, {**OLD, **NEW}), number
            # The next change removes what the kill has left.
            save(address, OLD)
            assert len(objects(address)) == len(OLD) + 1
        number += 1
    # Two files, a manifest, and what is removed: at least a file and another
    # manifest, and the lock.
    assert done() >= 6


def test_a_newer_copy_is_kept_unless_the_run_went_on_elsewhere(url, on):
    newer = {**NEW, "local.txt": "not pushed"}
    with on("a"):
        save(url, OLD)
        # As if the process had been killed before it could push.
        write(paths.local_path(url), newer)
        remote._copies.clear()
        assert read(paths.local_path(url)) == {**OLD, **newer}
    with on("b"):
        assert read(paths.local_path(url)) == OLD
        save(url, {"run.json": "elsewhere"})
    with on("a"):
        assert read(paths.local_path(url)) == {"run.json": "elsewhere"}
        write(paths.local_path(url), newer)
        remote._copies.clear()
        save(url, newer)
    with on("b"):
        assert read(paths.local_path(url)) == newer


def test_the_copy_outlives_the_run(url, on):
    fs, root = fsspec.core.url_to_fs(url)
    with on("a"):
        save(url, OLD)
        copy = pathlib.Path(paths.local_path(url))
        write(copy, NEW)
        fs.rm(root, recursive=True)
        remote._copies.clear()
        with pytest.raises(StorageError, match="no longer holds") as raised:
            paths.local_path(url)
        # Such as one without the bucket, which another endpoint lacks.
        assert read(copy) == NEW
        folder = copy.parent.parent
        assert f"{folder}. Check" in str(raised.value)
        shutil.rmtree(folder)
        assert not read(paths.local_path(url))


def test_a_file_that_the_cache_has_lost_stays_at_the_url(url, on):
    checkpoint = {"checkpoints/1/state": "state"}
    with on("a"):
        save(url, {**OLD, **checkpoint})
        copy = pathlib.Path(paths.local_path(url))
        for name in ("a/b.txt", *checkpoint):
            (copy / name).unlink()
        remote._copies.clear()
        assert read(paths.local_path(url)) == OLD
        with lock.holding(url):
            write(copy, {**OLD, "added.txt": "added"})
    with on("b"):
        copy = paths.local_path(url)
        remote.refresh(copy, whole=True)
        assert read(copy) == {**OLD, **checkpoint, "added.txt": "added"}


def test_removing_a_missing_object_is_no_error_whatever_is_raised(
    tmp_path, monkeypatch
):
    store = Store(f"file://{tmp_path}/place")
    store.create("here", b"content")
    rm_file = store.fs.rm_file

    def refuse(path):
        if not store.fs.exists(path):
            raise ftplib.error_perm("550 No such file")
        rm_file(path)

    monkeypatch.setattr(store.fs, "rm_file", refuse)
    store.remove(["gone", "here"])
    assert not store.objects()


def test_a_removal_that_fails_is_an_error(tmp_path, monkeypatch):
    store = Store(f"file://{tmp_path}/place")
    store.create("here", b"content")

    def fail(path):
        raise EOFError("the connection was closed")

    monkeypatch.setattr(store.fs, "rm_file", fail)
    with pytest.raises(StorageError, match="connection was closed"):
        store.remove(["here"])
    # Now it is unknown whether the object exists.
    monkeypatch.setattr(store.fs, "info", fail)
    with pytest.raises(StorageError, match="connection was closed"):
        store.remove(["gone"])


def test_two_writers_are_noticed_even_without_a_lock(url, on):
    def write_while_another_does():
        with lock.holding(url):
            write(paths.local_path(url), NEW)
            fs, root = fsspec.core.url_to_fs(url)
            fs.rm_file(f"{root}/lock")
            with on("b"):
                save(url, {"run.json": "elsewhere"})

    with on("a"):
        save(url, OLD)
        with pytest.raises(StorageError, match="by another process"):
            write_while_another_does()
    with on("c"):
        assert read(paths.local_path(url)) == {"run.json": "elsewhere"}


def test_a_manifest_that_another_writer_removes_meanwhile(on, monkeypatch):
    url = f"memory://place/{uuid.uuid4().hex}"
    fs, _ = fsspec.core.url_to_fs(url)

    def fail(path):
        raise FileNotFoundError(path)

    with on("a"):
        save(url, OLD)
        with lock.holding(url), monkeypatch.context() as patch:
            patch.setattr(fs, "cat_file", fail)
            with pytest.raises(StorageError, match="by another process"):
                remote.push(paths.local_path(url))


def test_a_run_that_another_program_has_copied(url, on):
    fill(url, OLD)
    with on("a"):
        assert read(paths.local_path(url)) == OLD
        save(url, NEW)
    with on("b"):
        assert read(paths.local_path(url)) == NEW


def test_a_failed_removal_only_warns(url, on, monkeypatch, capsys):
    fs, _ = fsspec.core.url_to_fs(url)

    def fail(path):
        raise PermissionError(f"not allowed: {path}")

    with on("a"):
        save(url, OLD)
        with lock.holding(url):
            write(paths.local_path(url), NEW)
            with monkeypatch.context() as patch:
                patch.setattr(fs, "rm_file", fail)
                remote.push(paths.local_path(url))
            assert "warning: old objects stay" in capsys.readouterr().err
            for text in ("second", "third"):
                last = {**NEW, "a/b.txt": text}
                write(paths.local_path(url), last)
                remote.push(paths.local_path(url))
    with on("b"):
        assert read(paths.local_path(url)) == last
    # What could not be removed was removed with the next change.
    assert len(objects(url)) == len(last) + 1


def test_an_upload_may_succeed_and_raise_an_error(url, on, monkeypatch):
    fs, _ = fsspec.core.url_to_fs(url)
    put = fs.put

    def put_and_fail(sources, targets):
        put(sources, targets)
        if "/instdisc-" in targets[0]:
            raise TimeoutError("no answer")

    def save_without_answer(files):
        with monkeypatch.context() as patch, lock.holding(url):
            patch.setattr(fs, "put", put_and_fail)
            write(paths.local_path(url), files)
            with pytest.raises(StorageError, match="no answer"):
                remote.push(paths.local_path(url))
            # Written since, and therefore not in the manifest.
            write(paths.local_path(url), {**files, "since.txt": "more"})
            patch.setattr(fs, "put", put)

    with on("a"):
        save(url, OLD)
        save_without_answer(NEW)
    with on("b"):
        assert read(paths.local_path(url)) == {**NEW, "since.txt": "more"}


def test_damage_is_named(url, on):
    with on("a"):
        save(url, OLD)
    fs, root = fsspec.core.url_to_fs(url)
    (path,) = fs.glob(f"{root}/files/a/b-*.txt")
    fs.pipe_file(path, b"bad")
    with on("b"), pytest.raises(StorageError, match=r"/b-\w+\.txt is damaged"):
        paths.local_path(url)
    (path,) = fs.glob(f"{root}/instdisc-*.json")
    fs.pipe_file(path, b"{")
    with on("c"), pytest.raises(StorageError, match="no complete manifest"):
        paths.local_path(url)


@pytest.mark.parametrize("name", ("../x", "a/../../x", "/x", "a//b"))
def test_a_manifest_cannot_write_elsewhere(on, name):
    url = f"memory://place/{uuid.uuid4().hex}"
    store = remote_store.Store(url)
    entry = {"object": "files/x", "size": 1, "sha256": "0"}
    store.write_manifest({name: entry}, [], "id")
    with on("a"), pytest.raises(UsageError, match="Names of objects"):
        paths.local_path(url)


# === Locks ===


def identity(**changes):
    return json.dumps({**lock._identity(), **changes}).encode()


def put(url, content):
    fill(url, {"lock": content.decode()})


def test_a_lock_of_another_host_is_respected(url, on):
    put(url, json.dumps(OTHER_HOST).encode())
    with on("a"):
        for _ in range(2):
            with pytest.raises(LockedError) as raised:
                save(url, OLD)
            assert "process 1 of host other" in str(raised.value)
            assert f"remove {url}/lock" in str(raised.value)
        assert list(objects(url)) == ["lock"]
        # A run in its first epoch can be read, and its lock is not ours.
        for path in (paths.local_path(url), paths.local_path(url, "x", "run")):
            assert not (pathlib.Path(path) / "lock").exists()
        fs, root = fsspec.core.url_to_fs(url)
        fs.rm_file(f"{root}/lock")
        save(url, OLD)
        put(url, json.dumps(OTHER_HOST).encode())
        with pytest.raises(LockedError, match=f"remove {url}/lock"):
            save(url, NEW)
        copy = pathlib.Path(paths.local_path(url))
        assert read(copy) == OLD
        assert not (copy / "lock").exists()


def test_a_lock_of_a_living_process_of_this_host_is_respected(url, on):
    started = lock._start_of(os.getppid())
    with on("a"):
        save(url, OLD)
        put(url, identity(process=os.getppid(), process_started=started))
        with pytest.raises(LockedError, match=socket.gethostname()):
            save(url, NEW)
        copy = pathlib.Path(paths.local_path(url))
        assert read(copy) == OLD
        assert not (copy / "lock").exists()


@pytest.mark.parametrize(
    "content",
    (identity(boot="earlier"), identity(process=2**22 + 1), b"{"),
    ids=["earlier boot", "no such process", "cut"],
)
def test_a_lock_of_a_dead_process_is_taken_over(url, on, content):
    put(url, content)
    with on("a"):
        save(url, OLD)
    assert "lock" not in objects(url)


def test_a_file_system_that_cannot_lock_says_so(on, monkeypatch, capsys):
    url = f"memory://place/{uuid.uuid4().hex}"

    fs, _ = fsspec.core.url_to_fs(url)
    open_file = fs.open

    def open_without_x(path, mode, **more):
        if "x" in mode:
            raise NotImplementedError
        return open_file(path, mode, **more)

    monkeypatch.setattr(fs, "open", open_without_x)
    with on("a"):
        save(url, OLD)
        assert read(paths.local_path(url)) == OLD
    assert f"warning: {url} cannot be locked" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ("file", "memory"))
def test_a_lock_that_is_released_before_it_is_read(tmp_path, kind, monkeypatch):
    base = {"memory": "memory://place", "file": f"file://{tmp_path}/place"}
    store = Store(f"{base[kind]}/{uuid.uuid4().hex}")
    assert store.create("lock", b"first") is None
    cat_file, reads = store.fs.cat_file, []

    def cat_and_release(path):
        reads.append(path)
        if len(reads) == 1:  # It does not exist yet,
            raise FileNotFoundError(path)
        if len(reads) == 2:  # and no longer.
            store.fs.rm_file(path)
        return cat_file(path)

    monkeypatch.setattr(store.fs, "cat_file", cat_and_release)
    assert store.create("lock", b"second") is None
    monkeypatch.undo()
    assert store.create("lock", b"third") == b"second"


def test_a_copy_in_use_is_waited_for_and_reported(url, on, capfd):
    fill(url, {"1.png": "picture"})
    with on("a"):
        copy = Copy(url, is_output=False)
        copy.folder.mkdir(parents=True)
        with (
            concurrent.futures.ThreadPoolExecutor() as pool,
            open(copy.folder / "sync", "a") as file,
        ):
            fcntl.flock(file, fcntl.LOCK_EX)
            waiting = pool.submit(paths.local_path, url)
            deadline = time.monotonic() + 60
            said = ""
            while url not in said and time.monotonic() < deadline:
                said += capfd.readouterr().err
                time.sleep(0.01)
            fcntl.flock(file, fcntl.LOCK_UN)
            assert read(waiting.result()) == {"1.png": "picture"}
    assert said == f"waiting for another process that copies {url}\n"


# === What file systems report ===


@pytest.mark.parametrize(
    "key",
    (
        "ETag",
        "sha",
        "hex",
        "mtime",
        "modificationTime",
        "modify",
        "last_modified",
    ),
)
def test_a_file_of_the_same_size_is_another_version(key):
    first, second = ({"size": 3, key: f"{key} {n}"} for n in range(2))
    assert version_of(first) != version_of(second)
    assert version_of(first) == version_of(dict(first))


def test_a_file_without_any_details(on, monkeypatch):
    """As fsspec answers for SFTP and SMB, which cannot list a file."""
    url = f"memory://place/{uuid.uuid4().hex}.txt"
    fs, root = fsspec.core.url_to_fs(url)
    monkeypatch.setattr(fs, "find", lambda path, **_: {path: {}})
    for text in ("text", "next"):
        fs.pipe_file(root, text.encode())
        with on("a"):
            path = paths.local_path(url, "x", "input")
            assert pathlib.Path(path).read_text() == text


# === Folders and outputs ===


def test_a_folder_is_mirrored(url, on):
    fs, root = fsspec.core.url_to_fs(url)

    fill(url, {"a/1.png": "one", "a/2.png": "two", "b/3.png": "three"})
    with on("a"):
        folder = pathlib.Path(paths.local_path(url))
        assert len(read(folder)) == 3
        kept = os.stat(folder / "a/1.png")
        fill(url, {"a/2.png": "another", "b/4.png": "four"})
        fs.rm_file(f"{root}/b/3.png")
        remote._copies.clear()
        assert read(paths.local_path(url)) == {
            "a/1.png": "one",
            "a/2.png": "another",
            "b/4.png": "four",
        }
        again = os.stat(folder / "a/1.png")
        assert (kept.st_ino, kept.st_mtime_ns) == (
            *(again.st_ino, again.st_mtime_ns),
        )
    with on("b"):
        # Files have the same times everywhere.
        other = os.stat(pathlib.Path(paths.local_path(url)) / "a/1.png")
        assert other.st_mtime == kept.st_mtime


def test_nothing_of_an_older_folder_is_left(url, on):
    fs, root = fsspec.core.url_to_fs(url)
    fill(url, {"1/saved_model.pb": "first", "2/x": "second"})
    with on("a"):
        folder = pathlib.Path(paths.local_path(url))
        # Downloaded by a process that was killed before it noted that.
        write(folder, {**read(folder), "3/x": "unknown", "y": "unknown"})
        fs.rm_file(f"{root}/2/x")
        remote._copies.clear()
        paths.local_path(url)
        assert [path.name for path in folder.rglob("*")] == [
            "1",
            "saved_model.pb",
        ]


def test_an_output_that_was_not_uploaded_is_not_an_input(url, on, monkeypatch):
    fs, _ = fsspec.core.url_to_fs(url)
    fill(url, {"1/saved_model.pb": "first"})

    def fail(*_, **__):
        raise ConnectionError("no route")

    with on("a"):
        model = pathlib.Path(paths.local_path(url, "output", "versions"))
        write(model / "2", {"saved_model.pb": "second"})
        with monkeypatch.context() as patch:
            patch.setattr(fs, "put", fail)
            with pytest.raises(StorageError, match="no route"):
                remote.send(model / "2")
        assert read(paths.local_path(url)) == {"1/saved_model.pb": "first"}
        # Inputs are listed again after an upload.
        remote.send(model / "2")
        assert len(read(paths.local_path(url))) == 2
        # A file may lie beside the copy; what is missing here is removed.
        beside = pathlib.Path(f"{model}.failed.txt")
        beside.write_text("1.png")
        remote.send(beside)
        parent = url.rpartition("/")[0]
        assert objects(parent)["run.failed.txt"] == b"1.png"
        beside.unlink()
        for _ in range(2):
            remote.send(beside)
            assert "run.failed.txt" not in objects(parent)


def test_a_folder_without_a_run_is_not_downloaded_as_one(url, on, tmp_path):
    fill(url, {"a/1.png": "one", "b/2.png": "two"})
    with on("a"), pytest.raises(UsageError, match=r"hold a run.*a/1\.png"):
        paths.local_path(url, "run_dir", "run")
    with on("a"), pytest.raises(UsageError, match=r"`path` must.*hold a run"):
        shipped.located(url)
    assert not list((tmp_path / "machines").rglob("*.png"))


@pytest.mark.parametrize("name", ("state.json", "sync", "incoming", "copy"))
def test_a_folder_may_have_any_name(on, name):
    url = f"memory://place/{uuid.uuid4().hex}/{name}"
    fill(url, {"1.png": "one"})
    with on("a"):
        for _ in range(2):
            assert read(paths.local_path(url)) == {"1.png": "one"}
            remote._copies.clear()


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        machine(tmp_path / "file"),
        pytest.raises(StorageError, match="set XDG_CACHE_HOME"),
    ):
        paths.local_path("memory://place/x")


def test_a_file_is_read_and_written(url, on, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "machines").symlink_to("elsewhere")
    with on("a"):
        atomic.write_text(f"{url}.html", "page")
        # What was uploaded is not downloaded again.
        path = paths.local_path(f"{url}.html", "output", "output")
        written = os.stat(path)
        remote._copies.clear()
        paths.local_path(f"{url}.html", "output", "output")
        assert os.stat(path).st_ino == written.st_ino
        assert objects(url.rpartition("/")[0])["run.html"] == b"page"
        atomic.write_text(f"{url}.html", "another")
    with on("b"):
        path = pathlib.Path(paths.local_path(f"{url}.html"))
        assert path.read_text() == "another"


def test_a_model_is_uploaded_with_its_number_and_its_graph_last(
    url, on, monkeypatch
):
    fill(url, {"1/saved_model.pb": "first"})
    fs, _ = fsspec.core.url_to_fs(url)
    uploaded = []
    put = fs.put

    def put_and_note(sources, targets):
        uploaded.append(
            sorted(target.partition("/run/")[2] for target in targets)
        )
        put(sources, targets)

    monkeypatch.setattr(fs, "put", put_and_note)
    with on("a"):
        model = pathlib.Path(paths.local_path(url, "export_dir", "versions"))
        assert [path.name for path in model.iterdir()] == ["1"]
        assert not list((model / "1").iterdir())
        files = ("variables/x", "saved_model.pb", "model_card.md")
        write(model / "2", dict.fromkeys(files, "second"))
        remote.send(model / "2")
    assert uploaded == [
        ["2/model_card.md", "2/variables/x"],
        ["2/saved_model.pb"],
    ]
    assert objects(url)["1/saved_model.pb"] == b"first"


def test_a_failed_connection_is_one_sentence(url, on, monkeypatch):
    fs, _ = fsspec.core.url_to_fs(url)
    with on("a"):
        save(url, OLD)
        with monkeypatch.context() as patch:

            def fail(*_, **__):
                raise ConnectionError("no route\nto the host")

            patch.setattr(fs, "put", fail)
            with pytest.raises(StorageError) as raised:
                save(url, NEW)
            assert str(raised.value).startswith(
                f"{url} cannot be read or written: no route "
                "(ConnectionError). Check the network"
            )
            assert raised.value.exit_status == 74
        # Nothing is lost, and the next call sends it.
        with lock.holding(url):
            assert read(paths.local_path(url)) == {**OLD, **NEW}
    with on("b"):
        assert read(paths.local_path(url)) == {**OLD, **NEW}


@pytest.fixture
def web(tmp_path):
    """The folder `site` on a web server; yields its address."""
    pytest.importorskip("aiohttp", reason="pip install 'aiohttp'")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "site")

        def log_message(self, *_):
            pass

    (tmp_path / "site").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_single_files_are_read_from_the_web(web, on, tmp_path):
    file = tmp_path / "site" / "table.tsv"
    # Links in a file do not make it a folder.
    file.write_text(f"name\n{web}/table.tsv/1.png\n")
    url = f"{web}/table.tsv?signature=a/b"
    with on("a"):
        path = pathlib.Path(paths.local_path(url))
        assert path.name == "table.tsv"
        assert path.read_text() == file.read_text()
        file.write_text(file.read_text().replace("name", "path"))
        os.utime(file, (0, 0))
        remote._copies.clear()
        assert pathlib.Path(paths.local_path(url)).read_text() == (
            file.read_text()
        )
        assert not os.path.exists(paths.local_path(f"{web}/missing.keras"))
        shutil.copy(file, file.with_name("encoder.keras"))
        located = shipped.located(f"{web}/encoder.keras?signature=a/b")
        assert os.path.basename(located) == "encoder.keras"
        for role in ("run", "output", "versions"):
            with pytest.raises(UsageError, match="only single files are read"):
                paths.local_path(url, "x", role)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    (
        ("s3://bucket/run", "s3fs", "s3"),
        ("GS://bucket/run", "gcsfs", "gcs"),
        ("az://container/run", "adlfs", "azure"),
    ),
)
def test_a_missing_extra_is_named(url, package, extra, monkeypatch):
    def find_spec(name):
        return None if name == package else object()

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    with pytest.raises(MissingExtraError, match=rf"tf_instdisc\[{extra}\]"):
        paths.checked_path(url, "run_dir")
