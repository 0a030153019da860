"""Runs that are killed, stopped or damaged, in real processes."""

import ctypes
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import small_run
from tf_instdisc import errors
from tf_instdisc.runs import checkpoints
from tf_instdisc.runs import directory as run_directory

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
_SPEED = ("images_per_second", "input_wait")
# BankHealth compares with the epochs that its process has seen.
_SINCE_RESTART = ("weight_growth",)
# 20 kills take minutes; their outcome is in BENCHMARKS.md.
KILLS = int(os.environ.get("INSTDISC_KILLS", "2"))


def command(run_dir, **changes):
    return [
        *(sys.executable, "-m", "tests.small_run", str(run_dir)),
        *(f"{name}={value}" for name, value in changes.items()),
    ]


def run(run_dir, as_root=True, **changes):
    return subprocess.run(
        command(run_dir, **changes),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        preexec_fn=None if as_root else obey_file_modes,
        check=False,
    )


def obey_file_modes():
    """Makes a process of root subject to permissions, like any other."""
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def finished(run_dir, **changes):
    result = run(run_dir, **changes)
    assert result.returncode == 0, result.stderr
    return outcome(run_dir), result.stdout


def outcome(run_dir):
    """All results of a run except its speed."""
    with np.load(run_dir.with_name("state0.npz")) as file:
        state = {
            name: file[name].tobytes()
            for name in file.files
            # Of the epochs that the last process saw.
            if not name.startswith("bank_")
        }
    metrics = run_directory.RunDirectory(run_dir).read_metrics()
    for line in metrics:
        for name in (*_SPEED, *_SINCE_RESTART):
            line.pop(name, None)
    return state, metrics


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    (state, metrics), _ = finished(run_dir)
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in metrics] == [5, 10, 15, 20, 25, 30]
    assert {"memory_bank.0", "log_normalizer.0", "gradient_sum_1.0"} <= {*state}
    return state, metrics


def wait_for_training(process, run_dir):
    """Waits until a process has written a checkpoint."""
    directory = run_dir / "checkpoints"
    before = set(directory.glob("*"))
    while process.poll() is None:
        if set(directory.glob("*")) - before:
            return
        time.sleep(0.002)


@pytest.mark.exhaustive
def test_kill_9_at_random_moments_changes_nothing(undisturbed, tmp_path):
    # It saves after each step, so that most kills come while it saves.
    seed = int(os.environ.get("INSTDISC_KILL_SEED", "0"))
    rng = random.Random(seed)
    run_dir = tmp_path / "run"
    kills = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(run_dir, seconds_per_step=0.01),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_training(process, run_dir)
        time.sleep(rng.uniform(0, 1.5 / KILLS))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills
    print(f"{kills} kills, seed {seed}")
    state, metrics = finished(run_dir)[0]
    assert metrics == undisturbed[1]
    assert state == undisturbed[0]


@pytest.mark.exhaustive
def test_sigterm_saves_and_says_so(undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    process = subprocess.Popen(
        command(run_dir, seconds_per_step=0.2),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_training(process, run_dir)
    process.terminate()
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "Start the same command again" in messages
    again, output = finished(run_dir)
    assert "continuing from" in output
    assert again == undisturbed


def stopped_run(tmp_path):
    """A run of which three epochs are done."""
    run_dir = tmp_path / "run"
    finished(run_dir, epochs=3, minutes=9)
    return run_dir, sorted((run_dir / "checkpoints").iterdir())


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.exhaustive
def test_damaged_checkpoints_are_named_and_passed_over(undisturbed, tmp_path):
    run_dir, (oldest, middle, newest) = stopped_run(tmp_path)
    damage(newest / "state.data-00000-of-00001", "bit")
    damage(middle / "manifest.json", "truncated")
    result = run(run_dir)
    assert result.returncode == 0, result.stderr
    assert f"{newest} is damaged" in result.stderr
    assert f"{middle} is damaged" in result.stderr
    assert f"continuing from {oldest}" in result.stdout
    assert outcome(run_dir) == undisturbed


@pytest.mark.parametrize("kind", ["truncated", "bit"])
@pytest.mark.parametrize("name", ["state.index", "manifest.json"])
def test_every_file_is_covered(tmp_path, kind, name):
    import tensorflow as tf

    state = tf.train.Checkpoint(x=tf.Variable(tf.range(100)))
    for epochs in (1, 2):
        path = checkpoints.write(tmp_path, state, {"epochs": epochs}, keep=2)
    damage(path / name, kind)
    saved, damages = checkpoints.find_newest(tmp_path)
    assert saved.progress == {"epochs": 1}
    assert len(damages) == 1
    assert str(path) in damages[0]
    damage(saved.path / name, kind)
    with pytest.raises(checkpoints.StorageError, match="No checkpoint can be"):
        checkpoints.find_newest(tmp_path)


@pytest.mark.exhaustive
def test_a_full_disk_keeps_the_older_checkpoints(tmp_path):
    code = """if True:
        import pathlib
        import resource
        import sys

        import tensorflow as tf

        from tf_instdisc import errors
        from tf_instdisc.runs import checkpoints

        directory = pathlib.Path(sys.argv[1])
        x = tf.Variable(tf.random.normal([100_000]))
        state = tf.train.Checkpoint(x=x)
        checkpoints.write(directory, state, {"epochs": 1}, keep=2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            checkpoints.write(directory, state, {"epochs": 2}, keep=2)
        except errors.StorageError as error:
            print(error)
        saved, damages = checkpoints.find_newest(directory)
        assert saved.progress == {"epochs": 1}, saved
        assert not damages, damages
    """
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "cannot be written: /" in result.stdout
    assert "{{" not in result.stdout
    assert "checkpoint-000001 is kept" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-000001"]


def test_a_directory_that_cannot_be_written_is_reported(tmp_path):
    import tensorflow as tf

    state = tf.train.Checkpoint(x=tf.Variable(1.0))
    blocked = tmp_path / "checkpoints"
    blocked.write_text("in the way")
    with pytest.raises(checkpoints.StorageError, match="cannot be written"):
        checkpoints.write(blocked, state, {}, keep=2)


@pytest.mark.exhaustive
def test_a_read_only_directory_keeps_the_older_checkpoints(tmp_path):
    run_dir, older = stopped_run(tmp_path)
    directory = run_dir / "checkpoints"
    directory.chmod(0o500)
    result = run(run_dir, as_root=False)
    directory.chmod(0o700)
    assert result.returncode == 74, result.stderr
    assert "Permission denied" in result.stderr
    assert f"{older[-1]} is kept" in result.stderr
    assert sorted(directory.iterdir()) == older
    run_dir.chmod(0o500)
    result = run(run_dir, as_root=False)
    run_dir.chmod(0o700)
    assert result.returncode == 74, result.stderr
    assert f"{run_dir} cannot be written: Permission denied" in result.stderr
    saved, damages = checkpoints.find_newest(directory)
    assert (saved.path, damages) == (older[-1], [])


def test_the_last_n_are_kept(tmp_path):
    import tensorflow as tf

    state = tf.train.Checkpoint(x=tf.Variable(1.0))
    for epochs in range(12):
        checkpoints.write(tmp_path, state, {"epochs": epochs}, keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-000011", "checkpoint-000012"]


def test_copies_of_checkpoints_are_left_alone(tmp_path):
    import tensorflow as tf

    state = tf.train.Checkpoint(x=tf.Variable(1.0))
    checkpoints.write(tmp_path, state, {"epochs": 1}, keep=1)
    copies = ["checkpoint-000001 copy", "checkpoint-000001.bak", "checkpoint-"]
    for name in copies:
        (tmp_path / name).mkdir()
    path = checkpoints.write(tmp_path, state, {"epochs": 2}, keep=1)
    assert checkpoints.find_newest(tmp_path)[0].path == path
    assert checkpoints.newest_progress(tmp_path) == {"epochs": 2}
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {*copies, "checkpoint-000002"}


def test_an_old_checkpoint_that_cannot_be_removed(tmp_path, monkeypatch):
    import tensorflow as tf

    state = tf.train.Checkpoint(x=tf.Variable(1.0))
    first = checkpoints.write(tmp_path, state, {"epochs": 1}, keep=1)
    unlink = os.unlink

    def refuse(path, **more):
        # Root may remove any file.
        if "dir_fd" in more and path == "manifest.json":
            raise PermissionError(13, "Permission denied", path)
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", refuse)
    second = checkpoints.write(tmp_path, state, {"epochs": 2}, keep=1)
    assert first.exists()
    assert checkpoints.find_newest(tmp_path)[0].path == second


@pytest.mark.exhaustive
def test_another_batch_size_at_the_next_epoch(tmp_path):
    small_run.run(tmp_path / "run", epochs=2)
    run = run_directory.RunDirectory(tmp_path / "run")
    before = run.read_metrics()
    small_run.run(tmp_path / "run", epochs=3, batch_size=6)
    after = run.read_metrics()
    assert after[:2] == before
    assert after[2]["step"] == before[1]["step"] + 3


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    small_run.run(tmp_path / "run", epochs=1)
    with pytest.raises(errors.NonFiniteError) as caught:
        small_run.run(tmp_path / "run", learning_rate=math.nan)
    message = str(caught.value)
    assert "not finite after step" in message
    assert "learning rate of nan" in message
    assert "--learning_rate" in message
    saved, _ = checkpoints.find_newest(tmp_path / "run" / "checkpoints")
    assert saved.progress["epochs"] == 1


@pytest.mark.exhaustive_variants("mixed*")
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_run_of_an_older_version_is_continued(tmp_path, capsys, precision):
    import dataclasses

    import keras
    import tensorflow as tf

    import tf_instdisc
    from tf_instdisc.training import optimizer as optimization
    from tf_instdisc.training import saving

    run_dir = run_directory.RunDirectory(tmp_path)

    def build(optimizer):
        keras.utils.set_random_seed(0)
        model = tf_instdisc.InstanceDiscrimination(
            small_run.linear_encoder(), 8, num_negatives=4
        )
        if precision == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer=optimizer)
        return model

    old = build(keras.optimizers.SGD(0.1, momentum=0.9))
    images = np.random.default_rng(0).uniform(0, 255, (8, 2, 2, 3))
    old.fit(images, np.arange(8), batch_size=4, epochs=3, verbose=0)
    # As version 1 wrote it: the bank, Z and the step beside the encoder's
    # weights, and nothing about the format.
    state = {
        **{f"model_{i}": v.value for i, v in enumerate(old.encoder.variables)},
        **{
            f"optimizer_{i}": v.value
            for i, v in enumerate(old.optimizer.variables)
        },
        "memory_bank": old.memory_bank.rows,
        "log_normalizer": old.memory_bank.log_normalizer,
        "step": old.step,
    }
    progress = dataclasses.asdict(saving.Progress(epochs=3, batch_size=4))
    del progress["format_version"]
    checkpoints.write(
        run_dir.checkpoints, tf.train.Checkpoint(**state), progress, 3
    )
    new = build(optimization.SGD(0.1, momentum=0.9))
    assert saving.restore_newest(run_dir, new).epochs == 3
    assert "momentum in other units" in capsys.readouterr().out
    for a, b in zip(new.get_weights(), old.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for model in (old, new):
        model.fit(images, np.arange(8), batch_size=4, shuffle=False, verbose=0)
    for a, b in zip(new.get_weights(), old.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
