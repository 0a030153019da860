"""Damaged files of a run directory are noticed, named, and can be mended."""

import os
import pathlib
import random
import shutil

import numpy as np
import pytest

from tests import commands, finished_run
from tf_instdisc import checksums, errors
from tf_instdisc.runs import directory, opening
from tf_instdisc.runs.load import load_encoder

pytestmark = pytest.mark.slow

READERS = {
    "run.json": (
        lambda run: run.read_config(),
        lambda run: run.set_data(images="elsewhere"),
        lambda run: opening.check_record(run.path, run.read_record()),
    ),
    "bank.npz": (
        lambda run: run.load_bank(),
        lambda run: run.read_bank_ids(),
        lambda run: run.ids_by_name(),
    ),
    "encoder.keras": (
        lambda run: load_encoder(run.path),
        lambda run: run.encoder_digest(),
    ),
    "metrics.jsonl": (
        lambda run: run.read_metrics(),
        lambda run: run.append_metrics({"epoch": 3}),
        lambda run: run.keep_metrics(1),
    ),
    "instances.json": (
        lambda run: run.load_instances(),
        lambda run: run.ids_by_name(),
    ),
    "results.json": (lambda run: run.load_results(),),
    "best.json": (lambda run: run.load_best(),),
    "encoder_best.keras": (
        lambda run: run.load_best(),
        lambda run: load_encoder(run.path, best=True),
    ),
}
FILES = sorted(READERS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with every file that is read."""
    place = tmp_path_factory.mktemp("damage")
    finished_run.fill_folder(
        place / "images", [f"{c}/{n}.png" for c in "ab" for n in range(4)]
    )
    run = finished_run.make_run(place / "run", place / "images")
    for epoch in (1, 2):
        run.append_metrics({"epoch": epoch, "loss": 1 / epoch})
    run.save_instances(np.array([20, 30]), {"a/0.png": "0123"})
    run.save_best(finished_run.linear_encoder(), 1, 0.5)
    run.save_results({"encoder": run.encoder_digest(), "measurements": []})
    return run


@pytest.fixture
def run(whole, tmp_path):
    return directory.RunDirectory(shutil.copytree(whole.path, tmp_path / "run"))


def _flipped(content, place):
    damaged = bytearray(content)
    damaged[place] ^= 1 << random.Random(place).randrange(8)
    return bytes(damaged)


def _places(content, count=60):
    """All of a small file, the ends and some of a large one."""
    size = len(content)
    if size <= count:
        return range(size)
    drawn = random.Random(0).sample(range(size), count - 20)
    return sorted({*range(10), *range(size - 10, size), *drawn})


def _damages(content):
    yield from (_flipped(content, place) for place in _places(content))
    for size in (0, 1, len(content) // 2, len(content) - 1):
        yield content[:size]
    for size in (1, len(content) // 2, len(content)):
        zeroed = content[: len(content) - size] + bytes(size)
        if zeroed != content:
            yield zeroed
    yield content + b"\n"


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_damage_is_named(run, name):
    file = run.path / name
    content = file.read_bytes()
    for damaged in _damages(content):
        for read in READERS[name]:
            file.write_bytes(damaged)
            with pytest.raises(errors.DamagedFileError) as caught:
                read(run)
            assert str(file) in str(caught.value)
            assert file.read_bytes() == damaged
    file.write_bytes(content)
    for read in READERS[name]:
        read(run)


def test_damage_of_the_list_itself_is_named(run):
    file = run.path / checksums.FILE
    content = file.read_bytes().strip()
    for damaged in _damages(content):
        if damaged.strip() == content:
            continue
        file.write_bytes(damaged)
        for name in FILES:
            with pytest.raises(errors.DamagedFileError, match=checksums.FILE):
                READERS[name][0](run)
    file.unlink()
    for name in FILES:
        READERS[name][0](run)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(run, name, capsys):
    (run.path / name).unlink()
    if name == "results.json":
        assert run.load_results() == {}
        assert "results.json is missing" in capsys.readouterr().err
        return
    if name in ("best.json", "encoder_best.keras"):
        assert run.load_best() is None
        return
    expected = errors.DamagedFileError, directory.RunDirectoryError
    with pytest.raises(expected, match=name):
        READERS[name][0](run)


@pytest.mark.parametrize("name", FILES)
def test_directories_of_earlier_versions_open(run, name):
    (run.path / checksums.FILE).unlink()
    expected = errors.UsageError, errors.RunError
    file = run.path / name
    content = file.read_bytes()
    READERS[name][0](run)
    noticed = 0
    damages = list(_damages(content))
    if name.endswith(".keras"):
        damages = damages[::12]
    for damaged in damages:
        file.write_bytes(damaged)
        try:
            # The best encoder's digest is in its record, too.
            noticed += READERS[name][0](run) is None
        except expected as error:
            noticed += str(file) in str(error)
    # What is no longer JSON or a zip archive is noticed without a digest, too.
    assert noticed >= len(damages) // 4


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_there", (True, False))
@pytest.mark.parametrize("failing", (1, 2, 3))
def test_a_kill_while_a_file_is_replaced(
    run, name, is_there, failing, monkeypatch
):
    """A failure of each rename stands for the kill before it."""
    file = run.path / name
    content = file.read_bytes()
    if not is_there:
        (run.path / checksums.FILE).unlink()
        file.unlink()
    replace, calls = os.replace, []

    class KilledError(BaseException):
        pass

    def replace_or_fail(*names):
        calls.append(names)
        if len(calls) == failing:
            raise KilledError
        replace(*names)

    monkeypatch.setattr(os, "replace", replace_or_fail)
    new = content + b" "
    with pytest.raises(KilledError):
        checksums.write_text(file, new.decode("latin-1"))
    monkeypatch.undo()
    new = new.decode("latin-1").encode()
    # Renames: the list, the file, the list.
    if failing > 2:
        assert file.read_bytes() == new
    elif is_there:
        assert file.read_bytes() == content
    else:
        assert not file.exists()
    assert not checksums.is_missing(file)
    if file.exists():
        checksums.digest(file, "")
    checksums.write_text(file, "again")
    assert checksums.read_text(file, "") == "again"
    file.write_bytes(content)
    with pytest.raises(errors.DamagedFileError):
        checksums.digest(file, "")


def test_another_process_writes_the_list_at_the_same_time(
    tmp_path, monkeypatch
):
    path, replace = tmp_path / "results.json", os.replace

    def replace_and_lose(partial, target):
        replace(partial, target)
        if pathlib.Path(target) == path:
            (tmp_path / checksums.FILE).unlink()

    monkeypatch.setattr(os, "replace", replace_and_lose)
    checksums.write_text(path, "new")
    assert checksums.read_text(path, "") == "new"
    path.write_text("other")
    with pytest.raises(errors.DamagedFileError):
        checksums.read_text(path, "")


def test_a_reader_beside_a_writer(run, monkeypatch):
    """The file is replaced after the reader has read the list."""
    load = checksums._load
    before = load(run.path)
    answers = [before]
    run.append_metrics({"epoch": 3})
    monkeypatch.setattr(
        checksums,
        "_load",
        lambda path: answers.pop() if answers else load(path),
    )
    assert [line["epoch"] for line in run.read_metrics()] == [1, 2, 3]


@pytest.mark.exhaustive
def test_damaged_features_are_computed_again(tmp_path, capsys):
    from tf_instdisc.data.folder import folder_source
    from tf_instdisc.evaluation import features

    finished_run.fill_folder(
        tmp_path / "images", [f"{c}/{n}.png" for c in "ab" for n in range(3)]
    )
    source = folder_source(str(tmp_path / "images"))
    encoder = finished_run.linear_encoder()

    def extract():
        found = features.extract(encoder, source, ["embedding"], tmp_path / "f")
        return np.array(found.values["embedding"])

    expected = extract()
    (file,) = (tmp_path / "f").rglob("embedding.npy")
    content = file.read_bytes()
    capsys.readouterr()
    for damaged in (_flipped(content, 200), content[:-8], b""):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(extract(), expected)
        assert str(file) in capsys.readouterr().err
    np.testing.assert_array_equal(extract(), expected)
    assert not capsys.readouterr().err


def test_commands_name_the_file(run):
    folder = run.read_config().data.images
    cases = [
        ("bank.npz", "neighbors", ["--query=random:1", "--format=tsv"]),
        ("encoder.keras", "embed", [f"--images={folder}", "--output=o.npz"]),
        ("metrics.jsonl", "export", ["--export_dir=m", "--batch_sizes=1"]),
        ("run.json", "train", [f"--images={folder}", "--image_size=16"]),
        ("instances.json", "update", [f"--images={folder}"]),
        ("results.json", "evaluate", [f"--test_images={folder}"]),
    ]
    made = []
    for name, command, more in cases:
        place = shutil.copytree(run.path, run.path.parent / name / "run")
        file = place / name
        file.write_bytes(_flipped(file.read_bytes(), 1))
        arguments = [f"--run_dir={place}", *more]
        made.append({"command": command, "arguments": arguments})
    results = commands.run_all(made, run.path.parent)
    for (name, *_), result in zip(cases, results, strict=True):
        assert result.returncode == 74, result.stderr
        assert "Traceback" not in result.stderr
        assert name in result.stderr.splitlines()[-1]
