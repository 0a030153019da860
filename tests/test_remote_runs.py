"""Whole runs at URLs: trained, killed, continued and used on other machines."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest

import tf_instdisc
from tests import commands
from tests.buckets import machine, names, objects, s3_server
from tests.finished_run import fill_folder, make_run
from tf_instdisc import paths, remote
from tf_instdisc.errors import UsageError
from tf_instdisc.runs import lock, opening
from tf_instdisc.runs.directory import RunDirectory

pytestmark = pytest.mark.slow

NAMES = [f"{c}/{i}.png" for c in "ab" for i in range(12)]
TINY = ("--image_size=8", "--width=4", "--batch_size=8", "--seed=1")


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def pictures(bucket, tmp_path_factory):
    """The same images in a folder and at a URL."""
    import fsspec

    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    fill_folder(folder, NAMES)
    fs, _ = fsspec.core.url_to_fs(bucket)
    fs.put(f"{folder}/", "bucket/pictures/", recursive=True)
    return folder, f"{bucket}/pictures"


@pytest.fixture
def on(tmp_path):
    """`with on("a")`: as on the machine `a`."""
    return lambda name: machine(tmp_path / "machines" / name)


@pytest.fixture(scope="module")
def finished(bucket, pictures, tmp_path_factory):
    """A run at a URL over images at a URL, and the same one in a folder."""
    url = f"{bucket}/{uuid.uuid4().hex}/run"
    place = tmp_path_factory.mktemp("finished")
    local = make_run(place / "run", pictures[0])
    with machine(place / "machine"), lock.holding(url):
        make_run(url, pictures[1])
    return url, local


def ended(name, *arguments, cwd):
    result = commands.run(name, *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.exhaustive
def test_the_commands_that_use_a_run(finished, pictures, on, tmp_path):
    url, local = finished
    own = ("--num_neighbors=3", "--format=tsv", "--seed=2")
    wanted = ended("neighbors", f"--run_dir={local.path}", *own, cwd=tmp_path)
    with on("a"):
        found = ended("neighbors", f"--run_dir={url}", *own, cwd=tmp_path)
        assert found == wanted
        out = f"{url}-out"
        arguments = f"--run_dir={url}", f"--images={pictures[1]}"
        ended("embed", *arguments, f"--output={out}/x.npz", cwd=tmp_path)
        again = commands.run("embed", *arguments, f"--output={out}/x.npz")
        assert again.returncode == 2
        assert f"Received: output='{out}/x.npz'" in again.stderr
        said = ended("report", f"--run_dir={url}", cwd=tmp_path)
        assert said == f"{url}/report.html\n"
        options = f"--export_dir={out}/model", "--batch_sizes=1"
        said = ended("export", f"--run_dir={url}", *options, cwd=tmp_path)
        assert f"version: {out}/model/1\n" in said
        # A command that fails leaves no lock.
        failed = commands.run("evaluate", f"--run_dir={url}", cwd=tmp_path)
        assert failed.returncode == 2
        assert str(tmp_path) not in failed.stderr
    assert "lock" not in names(url)
    with on("b"):
        run = tf_instdisc.Run(url)
        with np.load(paths.local_path(f"{out}/x.npz")) as file:
            np.testing.assert_allclose(
                file["embeddings"], run.load_bank().rows, atol=1e-5
            )
            assert file["names"].tolist() == sorted(NAMES)
        assert "<html" in run.directory.report.read_text()
        encoder = tf_instdisc.load_encoder(f"{url}/encoder.keras")
        assert encoder.input_shape == (None, 16, 16, 3)
        assert run.export(f"{out}/model", batch_sizes=(1,)).name == "2"
    exported = [n for n in names(out) if n.endswith("saved_model.pb")]
    assert exported == ["model/1/saved_model.pb", "model/2/saved_model.pb"]
    assert not list(tmp_path.glob("s3:*"))


def test_a_run_is_opened_from_python(finished, on):
    url, local = finished
    with on("a"):
        run = tf_instdisc.Run(url)
        rows = local.load_bank().rows
        np.testing.assert_array_equal(run.load_bank().rows, rows)
        for path in (url, f"{url}/encoder.keras"):
            encoder = tf_instdisc.load_encoder(path)
            assert encoder.input_shape == (None, 16, 16, 3)
        assert repr(run) == f"tf_instdisc.Run({url!r})"
        # Messages name the URL, not its working copy.
        with pytest.raises(FileNotFoundError, match=f"{url}/another.keras"):
            tf_instdisc.load_encoder(f"{url}/another.keras")
        with pytest.raises(UsageError, match=f"{url}-none/run.json is missing"):
            tf_instdisc.Run(f"{url}-none")


@pytest.mark.exhaustive
def test_an_update_is_written_to_the_url(finished, pictures, on, bucket):
    import fsspec

    fs, _ = fsspec.core.url_to_fs(bucket)
    fs.copy("bucket/pictures", "bucket/more", recursive=True)
    fs.copy("bucket/more/a/0.png", "bucket/more/b/new.png")
    url = f"{finished[0]}-updated"
    fs.copy(finished[0], url, recursive=True)
    with on("a"):
        run = tf_instdisc.Run(url).directory
        from tf_instdisc.runs.update import update_run

        update_run(run, f"{bucket}/more")
    with on("b"):
        run = tf_instdisc.Run(url)
        assert "b/new.png" in run.load_bank().names
        assert run.config.data.images == f"{bucket}/more"
        # The images themselves are found through the settings.
        assert run.neighbors(f"{bucket}/more/b/new.png", 1)[0] in (
            [["b/new.png"]],
            [["a/0.png"]],
        )


def config(epochs, images):
    return tf_instdisc.RunConfig(
        data=tf_instdisc.DataConfig(images=images, image_size=8),
        encoder=tf_instdisc.EncoderConfig(width=4),
        method=tf_instdisc.MethodConfig(objective="softmax"),
        optimizer=tf_instdisc.OptimizerConfig(
            epochs=epochs, batch_size=12, schedule="constant"
        ),
    )


@pytest.mark.exhaustive
def test_training_continues_on_another_machine(on, tmp_path, capsys):
    fill_folder(tmp_path / "pictures", NAMES)
    images = f"file://{tmp_path}/pictures"
    url = f"memory://place/{uuid.uuid4().hex}"
    with on("a"):
        tf_instdisc.train(config(1, images), url)
    capsys.readouterr()
    with on("b"):
        run = tf_instdisc.train(config(2, images), url)
        said = capsys.readouterr().out
        assert "1 epochs and 0 images of the next one are done" in said
        assert f"run directory: {url}\n" in said
        assert [line["epoch"] for line in run.metrics] == [1, 2]
    with on("c"):
        run = tf_instdisc.Run(url)
        assert run.load_bank().rows.shape == (24, 128)
        assert run.config.data.images == images
        assert not run.directory.checkpoints.exists()


def test_training_survives_a_failed_upload(on, tmp_path, capsys, monkeypatch):
    from tf_instdisc.training import saving

    url = f"memory://place/{uuid.uuid4().hex}"

    class Model:
        trainable_variables = ()
        stopped = False

        def training_state(self):
            import tensorflow as tf

            return {"x": tf.Variable(1.0)}

    with on("a"), lock.holding(url):
        run = opening.open_run(url, opening.RunRecord(config(1, "pictures")))
        store = remote._copies[url, False].store
        checkpointer = saving.Checkpointer(run, saving.Progress(), 1, 1)
        checkpointer.set_model(Model())

        def fail(*_, **__):
            raise ConnectionError("no route")

        with monkeypatch.context() as patch:
            patch.setattr(store.fs, "put", fail)
            checkpointer._save()
        assert "no route" in capsys.readouterr().err
        assert not any("checkpoint" in name for name in names(url))
        checkpointer._save()
    # The one that could not be sent, and the next.
    assert sum("manifest" in name for name in names(url)) == 2


def test_a_data_set_is_found_at_a_url(on, tmp_path):
    import tensorflow_datasets as tfds

    from tf_instdisc.data import digits, tfds_builder

    place = tmp_path / "tfds"
    digits.InstdiscDigits(data_dir=place).download_and_prepare()
    (place / "another").mkdir()
    (place / "another/large").write_text("stays there")
    with on("a"):
        builder = tfds_builder.open_builder(
            "instdisc_digits", f"file://{place}"
        )
        assert isinstance(builder, tfds.core.DatasetBuilder)
        assert builder.is_prepared()
        assert not list((tmp_path / "machines").rglob("large"))


# === Killed ===


def start(url, images, cache, *more, **environment):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tf_instdisc", "train"),
            *(f"--run_dir={url}", f"--images={images}", "--epochs=8"),
            *("--grayscale_probability=0", "--checkpoint_minutes=0"),
            *TINY,
            *more,
        ],
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **environment,
        },
        cwd=pathlib.Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def newest_manifest(url):
    numbers = [
        int(name[9:15]) for name in names(url) if name.startswith("instdisc-")
    ]
    return max(numbers, default=0)


def wait_for_manifest(process, url, number):
    while newest_manifest(url) < number:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)


@pytest.mark.exhaustive
def test_the_whole_life_cycle_of_a_run_in_a_bucket(bucket, pictures, tmp_path):
    folder, images = pictures
    undisturbed = start(tmp_path / "run", folder, tmp_path / "none")
    output = undisturbed.communicate(timeout=600)[0]
    assert undisturbed.returncode == 0, output

    url = f"{bucket}/{uuid.uuid4().hex}"
    # Killed on a, continued there, killed, continued on b, killed, on c.
    for name, changes in (("a", 4), ("a", 5), ("b", 3)):
        process = start(url, images, tmp_path / name)
        wait_for_manifest(process, url, newest_manifest(url) + changes)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert "lock" in names(url)
        with machine(tmp_path / "reader"):
            run = tf_instdisc.Run(url)
            remote.refresh(run.path, whole=True)
            assert run.metrics
            assert list(run.directory.checkpoints.iterdir())
    process = start(url, images, tmp_path / "c")
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert "continuing from" in output
    found = objects(url)
    manifest = max(name for name in found if name.startswith("instdisc-"))
    entries = json.loads(found.pop(manifest))["files"].values()
    assert {entry["object"] for entry in entries} == {*found}

    with machine(tmp_path / "d"):
        run = tf_instdisc.Run(url).directory
        local = RunDirectory(tmp_path / "run")
        losses = [line["loss"] for line in run.read_metrics()]
        wanted = [line["loss"] for line in local.read_metrics()]
        np.testing.assert_allclose(losses, wanted, rtol=1e-5)
        np.testing.assert_allclose(
            run.load_bank().rows, local.load_bank().rows, atol=1e-4
        )
        own = f"--run_dir={url}"
        arguments = ("--protocol=knn", f"--test_images={images}")
        ended("evaluate", own, *arguments, cwd=tmp_path)
        ended("report", own, cwd=tmp_path)
        arguments = (f"--export_dir={bucket}/models/life", "--batch_sizes=1")
        ended("export", own, *arguments, cwd=tmp_path)
        for where, place in ((url, bucket), (local.path, tmp_path)):
            ended(
                "embed",
                f"--run_dir={where}",
                f"--images={images}",
                f"--output={place}/life.npz",
                cwd=tmp_path,
            )
    with machine(tmp_path / "e"):
        run = tf_instdisc.Run(url).directory
        assert run.load_results()
        assert run.report.exists()
        with (
            np.load(paths.local_path(f"{bucket}/life.npz")) as found,
            np.load(tmp_path / "life.npz") as wanted,
        ):
            assert found["names"].tolist() == wanted["names"].tolist()
            np.testing.assert_allclose(
                found["embeddings"], wanted["embeddings"], atol=1e-4
            )
    assert "models/life/1/saved_model.pb" in names(bucket)


def start_hosts(url, images, cache):
    """Starts two workers, whose caches are apart as on two hosts."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hosts = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return [
        start(
            url,
            images,
            cache / str(index),
            "--distribution=multi_worker",
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": hosts},
                    "task": {"type": "worker", "index": index},
                }
            ),
        )
        for index in range(2)
    ]


@pytest.mark.exhaustive
def test_two_hosts_share_a_run_at_a_url(bucket, pictures, tmp_path):
    url = f"{bucket}/{uuid.uuid4().hex}"
    processes = start_hosts(url, pictures[1], tmp_path)
    wait_for_manifest(processes[0], url, 3)
    for process in processes:
        process.kill()
        process.wait()
    processes = start_hosts(url, pictures[1], tmp_path)
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    lines = [
        line.partition(": ")[2]
        for output in outputs
        for line in output.splitlines()
        if line.startswith("continuing from")
    ]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    with machine(tmp_path / "reader"):
        metrics = tf_instdisc.Run(url).metrics
        assert [line["epoch"] for line in metrics] == list(range(1, 9))
