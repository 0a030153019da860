"""Updated data: unchanged images keep their rows. Runs are compared."""

import dataclasses
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import commands
from tests.finished_run import (
    fill_folder,
    make_run,
    picture,
    save_picture,
    training_rows,
)
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data.folder import UnreadableImageError
from tf_instdisc.errors import StorageError, UsageError
from tf_instdisc.retrieval import compare_runs
from tf_instdisc.runs import checkpoints, opening, update, update_bank
from tf_instdisc.runs import images as run_images
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.record import RunRecord

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "images"
    fill_folder(folder, [f"{i:02}.png" for i in range(20)])
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))  # Long before the run.
    made = make_run(tmp_path / "run", folder)
    # Rows of a trained bank are not what the encoder gives.
    bank = made.load_bank()
    rows = np.random.default_rng(0).normal(size=bank.rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made.save_bank(dataclasses.replace(bank, rows=rows.astype(np.float32)))
    return made


def instdisc_update(run, folder, *flags):
    result = commands.run(
        "update", f"--run_dir={run.path}", f"--images={folder}", *flags
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def as_dict(bank):
    return {
        int(i): (str(name), row.tobytes())
        for i, name, row in zip(
            bank.instance_ids, bank.names, bank.rows, strict=True
        )
    }


@pytest.mark.exhaustive
def test_new_images_leave_old_rows_bit_for_bit_equal(run, tmp_path):
    folder = tmp_path / "images"
    old = run.load_bank()
    # Names that sort before the old ones.
    fill_folder(folder, ["0 new.png", "05b.png"])
    output = instdisc_update(run, folder)
    assert "kept: 20" in output
    assert "added: 2\n  0 new.png\n  05b.png" in output
    new = run.load_bank()
    found = as_dict(new)
    assert {i: found[i] for i in range(20)} == as_dict(old)
    assert [found[i][0] for i in (20, 21)] == ["0 new.png", "05b.png"]
    encoder = keras.saving.load_model(run.encoder)
    expected = encoder(np.stack([_input(0), _input(1)])).numpy()
    np.testing.assert_allclose(new.rows[20:], expected, atol=1e-5)


def _input(seed):
    from tf_instdisc.data.decode import resize_and_center_crop

    return resize_and_center_crop(picture(seed), 16, 1.0).numpy()


@pytest.mark.exhaustive
def test_only_new_images_are_encoded(run, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    fill_folder(folder, ["new a.png", "new b.png"])
    encoder = keras.saving.load_model(run.encoder)
    sizes = []

    def counting(encoder):
        def encode(batch):
            sizes.append(len(batch))
            return encoder(batch)

        return encode

    monkeypatch.setattr(run_images, "inference", counting)
    config = run.read_config()
    none = np.zeros([0], np.int64)
    update.update_bank(run.load_bank(), none, {}, str(folder), config, encoder)
    assert sum(sizes) == 2


@pytest.mark.exhaustive
def test_only_new_and_changed_images_are_decoded(run, tmp_path):
    images = tmp_path / "images"
    old = run.load_bank()
    fill_folder(images, ["new.png"])
    save_picture(images, "05.png", picture(77))
    for name in ("06.png", "07.png", "bad.png"):
        (images / name).write_bytes(b"no image")
    done = update.update_bank(
        old,
        np.zeros([0], np.int64),
        # Nothing is known about 07.png except that it is in the bank.
        {"05.png": "another", "06.png": "another"},
        str(images),
        run.read_config(),
        keras.saving.load_model(run.encoder),
    )
    changes = done.changes
    assert (changes.added, changes.changed) == (["new.png"], ["05.png"])
    assert changes.removed == ["06.png"]
    assert done.removed_ids.tolist() == [6]
    assert set(changes.digests) == set(done.bank.names.tolist())
    before, after = as_dict(old), as_dict(done.bank)
    assert set(after) == {*range(21)} - {6}
    same = set(range(20)) - {5, 6}
    assert {i: after[i] for i in same} == {i: before[i] for i in same}
    assert after[5][1] != before[5][1]


@pytest.mark.exhaustive
def test_an_image_outside_of_the_classes_takes_no_label_away(tmp_path):
    images = tmp_path / "images"
    fill_folder(images, ["ant/1.png", "bee/2.png"])
    run = make_run(tmp_path / "run", images)
    fill_folder(images, ["bee/3.png", "stray.png"])
    bank = update.update_bank(
        run.load_bank(),
        np.zeros([0], np.int64),
        {},
        str(images),
        run.read_config(),
        keras.saving.load_model(run.encoder),
    ).bank
    labels = dict(zip(bank.names.tolist(), bank.labels.tolist(), strict=True))
    assert labels == {
        "ant/1.png": 0,
        "bee/2.png": 1,
        "bee/3.png": 1,
        "stray.png": -1,
    }


@pytest.mark.exhaustive
def test_a_killed_update_assigns_no_id_twice(run, tmp_path):
    images = tmp_path / "images"
    (images / "19.png").unlink()
    code = (
        "import os, signal, sys\n"
        "from tf_instdisc.cli import instdisc\n"
        "from tf_instdisc.runs.directory import RunDirectory\n"
        "save = RunDirectory.save_bank\n"
        "def die(self, bank):\n"
        "    save(self, bank)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "RunDirectory.save_bank = die\n"
        "instdisc.main()\n"
    )
    killed = subprocess.run(
        [
            sys.executable,
            *("-c", code, "update"),
            *(f"--run_dir={run.path}", f"--images={images}"),
        ],
        cwd=pathlib.Path(__file__).parent.parent,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(run.load_bank().rows) == 19
    save_picture(images, "99.png", picture(99))
    instdisc_update(run, images)
    found = as_dict(run.load_bank())
    assert found[20][0] == "99.png"
    assert 19 not in found


def test_deleted_renamed_and_changed_files(run, tmp_path):
    folder = tmp_path / "images"
    instdisc_update(run, folder)  # Notes what the files hold.
    old = as_dict(run.load_bank())
    (folder / "03.png").unlink()
    (folder / "04.png").rename(folder / "renamed.png")
    save_picture(folder, "05.png", picture(77))
    output = instdisc_update(run, folder)
    for part in (
        "kept: 17",
        "added: 0",
        "removed: 1\n  03.png",
        "changed: 1\n  05.png",
        "renamed: 1\n  04.png -> renamed.png",
    ):
        assert part in output
    new = as_dict(run.load_bank())
    assert 3 not in new
    assert new[4] == ("renamed.png", old[4][1])
    assert new[5][0] == "05.png"
    assert new[5][1] != old[5][1]
    same = set(range(20)) - {3, 4, 5}
    assert {i: new[i] for i in same} == {i: old[i] for i in same}

    # A removed id is never assigned again.
    save_picture(folder, "99.png", picture(99))
    (folder / "19.png").unlink()
    instdisc_update(run, folder)
    newest = as_dict(run.load_bank())
    assert newest[20][0] == "99.png"
    assert 19 not in newest
    assert run.load_instances()[0].tolist() == [3, 19]
    (folder / "99.png").unlink()
    save_picture(folder, "again.png", picture(98))
    instdisc_update(run, folder)
    assert {20, 21} & set(as_dict(run.load_bank())) == {21}


@pytest.mark.exhaustive
def test_a_file_written_after_training_began_is_read_again(run, tmp_path):
    save_picture(tmp_path / "images", "07.png", picture(70))
    later = run.flags.stat().st_mtime + 5
    os.utime(tmp_path / "images" / "07.png", (later, later))
    output = instdisc_update(run, tmp_path / "images")
    assert "changed: 1\n  07.png" in output


def test_files_that_cannot_be_read_are_left_out(tmp_path, monkeypatch, capsys):
    images = tmp_path / "images"
    fill_folder(images, [f"{i}.png" for i in range(5)])
    run = make_run(tmp_path / "run", images)
    for name in ("1.png", "2.png"):
        (images / name).unlink()
    (images / "1.png").symlink_to("gone.png")
    (images / "2.png").symlink_to("2.png")
    (images / "new.png").symlink_to("gone.png")
    save_picture(images, "ok.png", picture(9))
    digest = update_bank.sha256_of_file

    def refuse(path):
        if str(path).endswith("3.png"):  # Root may read any file.
            raise PermissionError(13, "Permission denied", path)
        return digest(path)

    monkeypatch.setattr(update_bank, "sha256_of_file", refuse)
    done = update.update_run(run, str(images))
    printed = capsys.readouterr().out
    assert f"4 of 7 images in {images} cannot be read" in printed
    for name in ("1.png", "2.png", "3.png", "new.png"):
        assert f"  {name}\n" in printed
    assert done.changes.removed == ["1.png", "2.png", "3.png"]
    assert done.changes.added == ["ok.png"]
    bank = run.load_bank()
    assert bank.names.tolist() == ["0.png", "4.png", "ok.png"]
    assert bank.instance_ids.tolist() == [0, 4, 5]


def test_no_image_is_lost_to_a_failing_disk(tmp_path, monkeypatch):
    images = tmp_path / "images"
    fill_folder(images, [f"{i}.png" for i in range(5)])
    run = make_run(tmp_path / "run", images)
    digest = update_bank.sha256_of_file

    def fail(path):
        if str(path).endswith("3.png"):
            raise OSError(errno.EIO, "Input/output error", path)
        return digest(path)

    monkeypatch.setattr(update_bank, "sha256_of_file", fail)
    with pytest.raises(StorageError, match=r"3\.png \(Input/output error\)"):
        update.update_run(run, str(images))
    assert len(run.load_bank().rows) == 5


def test_a_folder_without_any_readable_image(tmp_path):
    images = tmp_path / "images"
    fill_folder(images, ["1.png"])
    run = make_run(tmp_path / "run", images)
    (images / "1.png").unlink()
    (images / "1.png").symlink_to("gone.png")
    with pytest.raises(UnreadableImageError, match="1 of 1 images"):
        update.update_run(run, str(images))


@pytest.mark.parametrize(
    ("dataset", "said"),
    [("mnist", "--dataset=mnist"), (None, "again with --images")],
)
def test_a_run_over_no_folder_is_not_updated(tmp_path, dataset, said):
    config = RunConfig(data=DataConfig(dataset=dataset))
    run = opening.open_run(str(tmp_path / "run"), RunRecord(config))
    with pytest.raises(UsageError, match="over a folder of images") as raised:
        update.update_run(run, str(tmp_path))
    assert said in str(raised.value)
    assert "None" not in str(raised.value)


@pytest.mark.exhaustive
def test_a_copy_is_updated_from_another_folder(run, tmp_path):
    new_folder = tmp_path / "new"
    fill_folder(new_folder, [f"{i:02}.png" for i in range(22)])
    before = run.bank.read_bytes()
    second = opening.load(shutil.copytree(run.path, tmp_path / "second"))
    instdisc_update(second, new_folder)
    assert run.bank.read_bytes() == before
    assert len(second.load_bank().rows) == 22
    assert second.read_config().data.images == str(new_folder)


def test_a_refused_update_changes_nothing(tmp_path):
    images = tmp_path / "images"
    fill_folder(images, ["ant/1.png", "bee/2.png"])
    run = make_run(tmp_path / "run", images)
    before = run.bank.read_bytes()
    fill_folder(images, ["wasp/3.png"])
    with pytest.raises(UsageError, match="wasp"):
        update.update_run(run, str(images))
    assert run.bank.read_bytes() == before


def bank_of(rows, names=None):
    size = len(rows)
    names = [f"{i}.png" for i in range(size)] if names is None else names
    return Bank(
        rows.astype(np.float32),
        np.arange(size),
        np.array(names),
        np.full(size, -1),
    )


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_rotated_bank_has_not_drifted():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(50, 6)))
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    found = compare_runs.compare(bank_of(rows), bank_of(rows @ turn), 5)
    assert found.shared_neighbors.tolist() == [1] * 50
    np.testing.assert_allclose(found.drift, 0, atol=1e-5)


def test_the_image_that_moved_is_found():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(50, 6)))
    moved = rows.copy()
    moved[7] *= -1
    names = [f"{i}.png" for i in range(50)]
    order = rng.permutation(50)
    found = compare_runs.compare(
        bank_of(rows),
        bank_of(
            np.concatenate([moved[order], rows[:1]]),
            [*np.array(names)[order], "other.png"],
        ),
        5,
    )
    assert found.num_common == 50
    assert found.num_only == (0, 1)
    assert found.names[found.drift.argmax()] == "7.png"
    assert found.names[found.shared_neighbors.argmin()] == "7.png"


def test_shared_neighbors_equal_loops():
    rng = np.random.default_rng(1)
    a, b = unit(rng.normal(size=(30, 4))), unit(rng.normal(size=(30, 4)))
    found = compare_runs.compare(bank_of(a), bank_of(b), 6)
    position = [int(str(name).split(".")[0]) for name in found.names]
    for i, own in enumerate(position):
        sets = []
        for rows in (a, b):
            order = np.argsort(-rows[own] @ rows.T).tolist()
            sets.append(set([j for j in order if j != own][:6]))
        assert found.shared_neighbors[i] == len(sets[0] & sets[1]) / 6


@pytest.mark.exhaustive
def test_the_command_compares_two_runs(run, tmp_path):
    target = tmp_path / "second"
    shutil.copytree(run.path, target)
    result = commands.run(
        "diff", str(run.path), str(target), "--num_neighbors=4"
    )
    assert result.returncode == 0, result.stderr
    assert "common images: 20" in result.stdout
    assert "shared neighbors at 4: 1.000" in result.stdout
    refused = commands.run("diff", str(run.path))
    assert refused.returncode != 0
    assert "2 arguments" in refused.stderr + refused.stdout


@pytest.mark.exhaustive
def test_training_continues_from_an_updated_run(tmp_path):
    folder = tmp_path / "images"
    fill_folder(folder, [f"{i:02}.png" for i in range(20)])
    flags = [
        *("--image_size=16", "--width=4", "--objective=softmax"),
        *("--batch_size=8", "--warmup_epochs=0"),
    ]

    def instdisc_train(name, *more):
        return commands.run(
            "train",
            f"--images={folder}",
            f"--run_dir={tmp_path / name}",
            *flags,
            *more,
        )

    def train(name, *more):
        result = instdisc_train(name, *more)
        assert result.returncode == 0, result.stderr
        return opening.load(str(tmp_path / name)), result.stdout

    first, _ = train("first", "--epochs=1")
    (folder / "03.png").unlink()
    (folder / "05.png").rename(folder / "00 renamed.png")
    save_picture(folder, "000 new.png", picture(99))
    copied = opening.load(shutil.copytree(first.path, tmp_path / "grown"))
    output = instdisc_update(copied, folder)
    assert "renamed: 1\n  05.png -> 00 renamed.png" in output
    grown = copied.load_bank()

    # Another seed, and nothing that moves weights or rows: what comes out is
    # what it began with.
    going_on = [
        *(f"--init_run={tmp_path / 'grown'}", "--seed=1"),
        *("--learning_rate=0", "--bank_momentum=0.999999"),
    ]
    second, _ = train("second", *going_on, "--epochs=1")
    bank = second.load_bank()
    assert (
        bank.instance_ids.tolist()
        == [i for i in range(21) if i != 3]
        == grown.instance_ids.tolist()
    )
    assert bank.names.tolist() == grown.names.tolist()
    assert bank.names[[4, -1]].tolist() == ["00 renamed.png", "000 new.png"]
    # Training went on from these rows; the bank's are encoded at its end.
    saved, _ = checkpoints.find_newest(second.checkpoints)
    rows = training_rows(saved)[bank.instance_ids]
    np.testing.assert_allclose(rows, grown.rows, atol=1e-5)
    _same_trained_weights(first, second)
    removed_ids, digests = second.load_instances()
    assert removed_ids.tolist() == [3]
    assert set(digests) == set(bank.names)

    # The same command with more epochs continues from the checkpoint.
    continued, output = train("second", *going_on, "--epochs=2")
    assert "continuing from" in output
    assert [line["epoch"] for line in continued.read_metrics()] == [1, 2]
    assert continued.load_bank().names.tolist() == grown.names.tolist()
    _same_trained_weights(first, continued)
    result = instdisc_train("second", "--seed=1", "--epochs=3")
    assert result.returncode == 2
    assert f"init_run: {tmp_path / 'grown'} -> None" in result.stderr

    # Images without a row are refused.
    save_picture(folder, "unknown.png", picture(100))
    result = instdisc_train("third", *going_on, "--epochs=1")
    assert result.returncode == 2
    assert "unknown.png. Run instdisc-update first." in result.stderr


def _same_trained_weights(run, other):
    encoders = [
        keras.saving.load_model(r.encoder, compile=False) for r in (run, other)
    ]
    weights = [[v.numpy() for v in e.trainable_weights] for e in encoders]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
