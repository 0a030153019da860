"""Opens the directory of a new run, or of an existing one."""

import os
import pathlib

from tf_instdisc import atomic, checksums, remote
from tf_instdisc.paths import is_url
from tf_instdisc.runs import lock, record, shipped
from tf_instdisc.runs.directory import RunDirectory, RunDirectoryError
from tf_instdisc.runs.record import RunRecord
from tf_instdisc.text import did_you_mean, shown_message


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
            f"`run_dir` must not be inside a file. Received: run_dir={path}"
        )
    checksums.require_present(run.settings, run.cure(run.settings))
    if run.settings.exists() or not run.path.exists():
        return
    if any(not _is_left_over(run, path) for path in run.path.iterdir()):
        raise RunDirectoryError(
            "`run_dir` must be missing, empty, or hold a run to continue. "
            f"Received: run_dir={path}. Choose another directory."
        )


def _is_left_over(run: RunDirectory, path: pathlib.Path) -> bool:
    """Returns whether a process killed at its start has left this file."""
    if path == run.flags:
        # The first format wrote the flags first.
        return f"--run_dir={run.path}" in path.read_text("utf-8").splitlines()
    return (
        path.name in (lock.FILE, checksums.FILE)
        or path in (run.checked_images, run.checked_test_images, run.labels)
        or path.name.startswith(atomic.PREFIX)
        or path.name.endswith(".partial")
    )


def open_run(path: str, wanted: RunRecord) -> RunDirectory:
    """Creates the directory of a new run, or opens it to continue.

    Args:
        path: A missing or empty directory, or that of a run.

    Returns:
        The directory, with the settings written.

    Raises:
        RunDirectoryError: If the directory holds something else, or a run
            with other settings in which something was trained.
        StorageError: If it cannot be written.
    """
    run = check_record(path, wanted)
    save_record(run, wanted)
    return run


def check_record(path: str, wanted: RunRecord) -> RunDirectory:
    """Performs the checks of `open_run`, without writing anything."""
    check_usable(path)
    run = RunDirectory(pathlib.Path(path))
    if not run.settings.exists():
        return run
    _, refused = record.changes(run.read_record(), wanted)
    if refused and run.holds_results():
        raise RunDirectoryError(
            f"`run_dir` holds a run with other settings. Received: "
            f"run_dir={path}, with\n" + _listed(refused) + "\nRestore "
            "them to continue the run, or choose another directory."
        )
    return run


def save_record(run: RunDirectory, wanted: RunRecord) -> None:
    """Writes settings that `check_record` accepts, and prints what changes."""
    if run.settings.exists():
        changed, others = record.changes(run.read_record(), wanted)
        sentence = "The run continues with new settings:\n"
        if not run.holds_results():
            sentence = (
                "Nothing was trained yet; it starts with the new settings:\n"
            )
        if changes := {**changed, **others}:
            print(shown_message(sentence + _listed(changes)))
    run.save_record(wanted)


def has_moved(run: RunDirectory, wanted: RunRecord) -> bool:
    """Returns whether the images are no longer where a run's record says."""
    return bool(_moves(run.read_record(), wanted))


def _moves(before: RunRecord, wanted: RunRecord) -> dict:
    """Returns old and new folders by setting, where these differ."""
    old, new = before.places(), before.moved_to(wanted).places()
    return {
        name: (old.get(name), place)
        for name, place in new.items()
        if name not in old or _real(old[name]) != _real(place)
    }


def _real(place: str) -> str:
    return place if is_url(place) else os.path.realpath(place)


def save_places(run: RunDirectory, wanted: RunRecord) -> None:
    """Writes and prints where a run's images are now; keeps other settings."""
    before = run.read_record()
    changes = _moves(before, wanted)
    print(shown_message("The images were moved:\n" + _listed(changes)))
    times = run.flags.stat() if run.flags.exists() else None
    run.save_record(before.moved_to(wanted))
    if times:  # `update` reads when the training began.
        os.utime(run.flags, (times.st_atime, times.st_mtime))


def _listed(changes: dict) -> str:
    return "\n".join(
        f"  {name}: {old} -> {new}"
        for name, (old, new) in sorted(changes.items())
    )


def load(path: str) -> RunDirectory:
    """Opens the directory of a run.

    Args:
        path: The directory, or the name of a shipped run.

    Raises:
        RunDirectoryError: If it holds no run.
    """
    run = RunDirectory(pathlib.Path(shipped.located(path, "run_dir")))
    checksums.require_present(run.settings, run.cure(run.settings))
    # Some runs of the first format have only the flags.
    if not run.settings.exists() and not run.flags.exists():
        raise RunDirectoryError(
            "`run_dir` must hold a run: "
            f"{remote.named(str(run.settings))} is missing."
            + did_you_mean(path, shipped.names())
        )
    return run
