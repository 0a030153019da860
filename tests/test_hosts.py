"""Real worker processes on this machine, through Keras' fit."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.finished_run import fill_folder
from tests.test_resume import ROOT, command, wait_for_training
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data import file_checks
from tf_instdisc.runs import directory, opening
from tf_instdisc.training import parts

pytestmark = pytest.mark.slow


def start(run_dir, num_workers, **changes):
    """Starts the small run on each of the workers."""
    return start_command(
        command(run_dir, strategy="multi_worker", **changes), num_workers
    )


def start_command(arguments, num_workers):
    """Starts the same command on each of the workers."""
    sockets = [
        socket.create_server(("127.0.0.1", 0)) for _ in range(num_workers)
    ]
    hosts = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    processes = []
    for index in range(num_workers):
        config = {
            "cluster": {"worker": hosts},
            "task": {"type": "worker", "index": index},
        }
        processes.append(
            subprocess.Popen(
                arguments,
                cwd=ROOT,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def wait(processes, timeout=900):
    """Exit statuses and outputs; the timeout allows for busy machines."""
    try:
        outputs = [p.communicate(timeout=timeout)[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [p.returncode for p in processes], outputs


def states(run_dir, num_workers):
    for index in range(num_workers):
        with np.load(run_dir.with_name(f"state{index}.npz")) as file:
            yield {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return in_one_process(tmp_path_factory.mktemp("one") / "run")


def in_one_process(run_dir, **changes):
    """Its settings, state and metrics."""
    settings = {
        "dtype": "float64",
        "batch_size": 6,
        "minutes": 9,
        "num_ids": 15,  # Seven ids are used for two images each.
        **changes,
    }
    subprocess.run(
        command(run_dir, **settings), cwd=ROOT, check=True, timeout=900
    )
    (state,) = states(run_dir, 1)
    return settings, state, directory.RunDirectory(run_dir).read_metrics()


def assert_equals_one_process(run_dir, num_workers, one_process):
    _, expected, expected_metrics = one_process
    first, *others = states(run_dir, num_workers)
    # A run that was killed has the banks of its last process's epochs.
    missing = expected.keys() - first.keys()
    assert all(name.startswith("bank_") for name in missing)
    assert len(others) == num_workers - 1
    assert first["metrics"][-1] == 18  # The images of all hosts.
    for name, value in first.items():
        np.testing.assert_allclose(
            value, expected[name], rtol=1e-9, atol=1e-9, err_msg=name
        )
        for other in others:
            assert other[name].tobytes() == value.tobytes(), name
    metrics = directory.RunDirectory(run_dir).read_metrics()
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    for line, expected_line in zip(metrics, expected_metrics, strict=True):
        assert line["loss"] == pytest.approx(expected_line["loss"], rel=1e-9)


@pytest.mark.exhaustive
def test_three_workers_equal_one_process(one_process, tmp_path):
    run_dir = tmp_path / "run"
    codes, outputs = wait(start(run_dir, 3, **one_process[0]))
    assert codes == [0, 0, 0], outputs
    assert_equals_one_process(run_dir, 3, one_process)
    for state in states(run_dir, 3):
        assert {f"bank_{epoch}.0" for epoch in range(1, 7)} <= {*state}
    # One of them wrote: each epoch's checkpoint has been written once.
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert names == [f"checkpoint-{number:06d}" for number in (4, 5, 6)]


def test_a_bank_divided_among_hosts_is_continued_whole_by_one(tmp_path):
    one_process = in_one_process(tmp_path / "one", negatives="shared")
    run_dir = tmp_path / "run"
    settings = {**one_process[0], "minutes": 0}
    sharded = {"bank_placement": "sharded", "epochs": 3}
    codes, outputs = wait(start(run_dir, 2, **settings, **sharded))
    assert codes == [0, 0], outputs
    for state in states(run_dir, 2):
        assert state["metrics"][-1] == 18  # The images of both hosts.
        for epoch in range(1, 4):
            name = f"bank_{epoch}.0"
            np.testing.assert_allclose(
                state[name], one_process[1][name], atol=1e-9
            )
    subprocess.run(
        command(run_dir, **settings), cwd=ROOT, check=True, timeout=900
    )
    assert_equals_one_process(run_dir, 1, one_process)


@pytest.mark.exhaustive
def test_a_killed_worker_ends_the_others_and_the_run_resumes(
    one_process, tmp_path
):
    run_dir = tmp_path / "run"
    settings = {**one_process[0], "minutes": 0}
    processes = start(run_dir, 2, seconds_per_step=0.3, **settings)
    wait_for_training(processes[0], run_dir)
    processes[1].kill()
    killed = time.monotonic()
    codes, outputs = wait(processes)
    assert time.monotonic() - killed < 60
    assert codes == [69, -signal.SIGKILL], outputs
    assert "Another host of the run was lost" in outputs[0]

    codes, outputs = wait(start(run_dir, 2, **one_process[0]))
    assert codes == [0, 0], outputs
    assert "continuing from" in outputs[0]
    assert_equals_one_process(run_dir, 2, one_process)


def test_other_hosts_read_what_the_chief_has_checked(tmp_path, monkeypatch):
    for name in ("train", "test"):
        fill_folder(tmp_path / name, ["0.png", "1.png"])
    data = DataConfig(
        images=str(tmp_path / "train"), test_images=str(tmp_path / "test")
    )
    run = directory.RunDirectory(tmp_path / "run")
    parts.open_sources(RunConfig(data=data), run, is_chief=True)
    before = {path: path.stat().st_mtime_ns for path in run.path.iterdir()}
    # Nothing is decoded again, and nothing is written.
    monkeypatch.setattr(file_checks, "decodable", lambda images: 1 / 0)
    opened = parts.open_sources(RunConfig(data=data), run, is_chief=False)
    assert [source.num_readable for source in opened] == [2, 2]
    assert before == {
        path: path.stat().st_mtime_ns for path in run.path.iterdir()
    }


def test_all_hosts_end_alike_without_labels(tmp_path):
    code = """if True:
        import sys
        import numpy as np
        import tf_instdisc
        from tf_instdisc.errors import UsageError
        from tf_instdisc.training import strategy, train

        # Before anything else uses TensorFlow.
        hosts = strategy.build_strategy("multi_worker")
        images = np.zeros((8, 8, 8, 3), np.uint8)
        source = tf_instdisc.array_source(images, np.full(8, -1), ("a", "b"))
        config = tf_instdisc.RunConfig(
            data=tf_instdisc.DataConfig(image_size=8),
            optimizer=tf_instdisc.OptimizerConfig(batch_size=4),
            training=tf_instdisc.TrainingConfig(keep_best=True),
        )
        try:
            train.train(config, sys.argv[1], source, source, strategy=hosts)
        except UsageError as error:
            sys.exit(str(error))
    """
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    codes, outputs = wait(start_command(command, 2))
    assert codes == [1, 1], outputs
    for output in outputs:
        assert "`keep_best` needs kNN accuracy" in output


@pytest.mark.exhaustive
def test_sigterm_on_one_host_saves_and_stops_all(tmp_path):
    run_dir = tmp_path / "run"
    processes = start(run_dir, 2, seconds_per_step=0.3, minutes=0)
    wait_for_training(processes[0], run_dir)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = wait(processes)
    assert codes == [75, 75], outputs
    assert "was stopped after" in outputs[0]


@pytest.mark.exhaustive
@pytest.mark.parametrize("bank_placement", ["device", "sharded"])
def test_the_command_on_two_hosts(tmp_path, bank_placement):
    folder = tmp_path / "images"
    names = [f"{label}/{i}.png" for label in "ab" for i in range(5)]
    fill_folder(folder, names)
    run_dir = tmp_path / "run"
    arguments = [
        *(sys.executable, "-m", "tf_instdisc", "train"),
        *(f"--images={folder}", f"--test_images={folder}"),
        *(f"--run_dir={run_dir}", "--distribution=multi_worker"),
        *("--image_size=16", "--width=4"),
        *("--objective=softmax", "--bank_init=encode", "--baselines"),
        *("--batch_size=4", "--epochs=1", "--num_neighbors=3"),
        f"--bank_placement={bank_placement}",
    ]
    codes, outputs = wait(start_command(arguments, 2))
    assert codes == [0, 0], outputs
    assert "| trained encoder |" in outputs[0]
    assert "trained encoder" not in outputs[1]
    run = opening.load(str(run_dir))
    (metrics,) = run.read_metrics()
    assert metrics["step"] == 2
    assert 0 <= metrics["knn_top1"] <= 1
    bank = run.load_bank()
    assert bank.names.tolist() == names
    assert np.isfinite(bank.rows).all()
    assert len(run.load_instances()[1]) == 10
