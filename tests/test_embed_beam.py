"""Embedding by a pipeline: the rows of one machine, and restarts."""

import collections
import functools
import http.server
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import fsspec
import numpy as np
import pytest
import tensorflow as tf
from pyarrow import csv, parquet
from pyarrow import table as columns_of

import tf_instdisc
from tests import commands, documents, exported, page_commands, tfds_forms
from tf_instdisc.cli import embed
from tf_instdisc.cli.embed import (
    ModelOptions,
    run_embedder,
    worker_embedder,
)
from tf_instdisc.cli.embed_settings import EmbedOptions
from tf_instdisc.data import image_files
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.data.record_files import SplitFiles
from tf_instdisc.errors import ServingError, StorageError, UsageError
from tf_instdisc.serving import index_directory
from tf_instdisc.serving.embed_folder import embed_folder
from tf_instdisc.serving.embedder import one_by_one

pytest.importorskip("apache_beam", reason="no '.[beam]' is installed")

pytestmark = pytest.mark.slow
embed_beam = importlib.import_module("tf_instdisc.serving.embed_beam")
embed_inputs = importlib.import_module("tf_instdisc.serving.embed_inputs")
FileSystems = importlib.import_module("apache_beam.io.filesystems").FileSystems
BeamIOError = importlib.import_module("apache_beam.io.filesystem").BeamIOError

ROOT = pathlib.Path(__file__).parent.parent
TWO_WORKERS = (
    "--direct_num_workers=2",
    "--direct_running_mode=multi_processing",
)


def picture(number):
    """The bytes of a picture: few are broken, some are there twice."""
    if number % 17 == 3:
        return b"broken"
    number -= number % 11 == 5
    side = np.arange(8, dtype=np.uint8)
    image = np.stack(np.broadcast_arrays(side[:, None], side, number % 251), -1)
    image = image.astype(np.uint8)
    image[0, 0] = number // 251
    return exported.encode(image)


def fill(folder, number):
    folder.mkdir()
    for i in range(number):
        (folder / f"é{i:05d}.png").write_bytes(picture(i))
    return folder


def rows_of(output):
    """The rows, the failed images and the manifest of an output."""
    table = parquet.read_table(output)
    failed = [
        line.split("\t")
        for file in sorted(output.glob("_failed-*.tsv"))
        for line in file.read_text("utf-8").splitlines()[1:]
    ]
    return table, failed, json.loads((output / "_manifest.json").read_text())


@pytest.fixture(scope="module")
def one_machine(small_run, tmp_path_factory):
    """A folder, and the file that one machine makes of it."""
    root = tmp_path_factory.mktemp("one")
    folder = fill(root / "images", 40)
    embedder, digest = run_embedder(str(small_run.path))
    output = str(root / "one.parquet")
    embed_folder(str(folder), output, one_by_one(embedder), digest)
    return folder, parquet.read_table(output), digest


def task_of(images, output, load=None, **more):
    load = load or (lambda: lengths)
    return embed_beam.Task(images, str(output), load, digest="model 1", **more)


def lengths(contents):
    """A model that returns the length of a file."""
    return {
        "embedding": np.array([[len(c)] for c in contents], np.float32),
        "valid": np.array([c not in (b"", b"broken") for c in contents]),
    }


@pytest.mark.exhaustive_variants("two*")
@pytest.mark.parametrize(
    ("dtype", "atol", "flags"),
    [
        ("float32", 1e-5, ()),
        ("float16", 1e-3, ()),
        ("int8", 1e-2, ("--direct_num_workers=2",)),
        ("float32", 1e-5, TWO_WORKERS),
    ],
    ids=["float32", "float16", "int8", "two_processes"],
)
def test_rows_are_those_of_one_machine(
    dtype, atol, flags, one_machine, small_run, tmp_path
):
    folder, expected, digest = one_machine
    output = tmp_path / "out.parquet"
    load = functools.partial(load_run, str(small_run.path))
    task = embed_beam.Task(
        embed_inputs.Folder(str(folder)),
        str(output),
        load,
        digest,
        batch_size=4,
        dtype=dtype,
        images_per_file=7,
    )
    manifest = embed_beam.run(task, "DirectRunner", flags)
    table, failed, written = rows_of(output)
    assert manifest == written
    assert len(manifest["files"]) == 6
    for column in ("id", "name", "digest"):
        assert table[column].equals(expected[column])
    bank, _ = index_directory.read_embeddings(str(output))
    rows = np.stack(expected["embedding"].to_numpy())
    np.testing.assert_allclose(bank.rows, rows, atol=atol)
    assert bank.instance_ids.tolist() == expected["id"].to_pylist()
    assert str(table.schema.field("embedding").type) == (
        f"fixed_size_list<element: {ARROW[dtype]}>[32]"
    )
    broken = [i for i in range(40) if i % 17 == 3]
    assert [(int(i), name) for i, name, _ in failed] == [
        (i, f"é{i:05d}.png") for i in broken
    ]
    assert (manifest["num_rows"], manifest["num_failed"]) == (37, 3)


ARROW = {"float32": "float", "float16": "halffloat", "int8": "int8"}


@functools.cache
def load_run(path):
    return run_embedder(path)[0]


@pytest.fixture
def pictures():
    """The URL of a server that has one picture, and a way to stop it."""

    class Pictures(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path == "/7.png"
            status = 200 if found else 404
            self.send_response(503 if self.server.is_away else status)
            self.end_headers()
            if found:
                self.wfile.write(picture(7))

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Pictures) as server:
        server.is_away = False
        threading.Thread(
            target=server.serve_forever, args=(0.01,), daemon=True
        ).start()
        yield server, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_names_paths_and_urls(suffix, pictures, tmp_path):
    folder = fill(tmp_path / "images", 3)
    _, url = pictures
    paths = [
        "images/é00001.png",
        str(folder / "é00002.png"),
        f"file://{folder}/é00000.png",
        f"{url}/7.png",
        "images/é00001.png",
        f"{url}/8.png",
        "images/missing.png",
        "",
        "images",
        "scheme://unknown",
    ]
    write = csv.write_csv if suffix == ".csv" else parquet.write_table
    table = columns_of({"other": range(10), "file": paths})
    write(table, tmp_path / f"table{suffix}")
    images = embed_inputs.PathTable(str(tmp_path / f"table{suffix}"), "file")
    output = tmp_path / "out.parquet"
    embed_beam.run(task_of(images, output, images_per_file=4), "DirectRunner")
    table, failed, _ = rows_of(output)
    assert table["id"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["name"].to_pylist() == paths[:5]
    sizes = [len(picture(i)) for i in (1, 2, 0, 7, 1)]
    assert [row[0] for row in table["embedding"].to_pylist()] == sizes
    assert [name for _, name, _ in failed] == paths[5:]
    reasons = [reason for _, _, reason in failed]
    assert "404" in reasons[0]
    assert "No such file" in reasons[1]


@pytest.mark.exhaustive_variants("pro*")
@pytest.mark.parametrize(
    "flags", [(), TWO_WORKERS], ids=["threads", "processes"]
)
def test_an_outage_ends_the_pipeline_until_it_is_over(
    flags, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(image_files, "_PAUSE", 0.001)
    fill(tmp_path / "images", 3)
    server, url = pictures
    paths = [*(f"images/é0000{i}.png" for i in range(3)), f"{url}/7.png"]
    csv.write_csv(columns_of({"file": paths}), tmp_path / "table.csv")
    images = embed_inputs.PathTable(str(tmp_path / "table.csv"), "file")
    output = tmp_path / "out.parquet"
    task = task_of(images, output, images_per_file=3)
    server.is_away = True
    with pytest.raises(StorageError, match=r"^Images must .*7\.png.*503"):
        embed_beam.run(task, "DirectRunner", flags)
    assert not list(output.glob("part-00001*"))
    assert not list(output.glob("_failed-*"))
    assert not (output / "_manifest.json").exists()
    server.is_away = False
    embed_beam.run(task, "DirectRunner", TWO_WORKERS)
    table, failed, _ = rows_of(output)
    assert table["name"].to_pylist() == paths
    assert not failed


def test_a_folder_at_a_url_is_listed_like_a_local_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    names = ["b/c.JPG", "b.png", "b/é.webp", "a/b/c/d.gif", "B.jpeg"]
    others = [".a.png", ".b/c.png", "b/.c/d.png", "notes.txt", "README"]
    for name in names + others:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"picture")
        store.pipe(f"/listed-{tmp_path.name}/{name}", b"picture")
    url = f"memory://listed-{tmp_path.name}"
    found = list(embed_inputs.Folder(url).names())
    assert found == image_paths(str(tmp_path / "images")) == sorted(names)
    assert not (tmp_path / "cache").exists()
    for missing in (f"{url}/B.jpeg", f"{url}/README", f"{url}/none"):
        with pytest.raises(FileNotFoundError, match="folder"):
            list(embed_inputs.Folder(missing).names())


def test_images_and_tables_may_be_at_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    root = f"pictures-{tmp_path.name}"
    for i in range(5):
        store.pipe(f"/{root}/é{i}.png", picture(i))
    store.pipe(f"/{root}/table.csv", "path\né2.png\né4.png\n".encode())
    for number, images, ids in (
        (0, embed_inputs.Folder(f"memory://{root}"), [0, 1, 2, 4]),
        (
            1,
            embed_inputs.PathTable(f"memory://{root}/table.csv", "path"),
            [2, 4],
        ),
    ):
        output = tmp_path / f"{number}.parquet"
        embed_beam.run(task_of(images, output), "DirectRunner")
        table, _, _ = rows_of(output)
        assert table["name"].to_pylist() == [f"é{i}.png" for i in ids]
        sizes = [len(picture(i)) for i in ids]
        assert [row[0] for row in table["embedding"].to_pylist()] == sizes


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("missing.csv", None, "path"),
        ("table.csv", b"path\na.png\n", "file"),
        ("table.parquet", b"no parquet", "path"),
        ("table.csv", b"path\n", "path"),
    ],
    ids=["missing", "column", "damaged", "empty"],
)
def test_a_wrong_table_is_refused(name, content, column, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    images = embed_inputs.PathTable(str(tmp_path / name), column)
    with pytest.raises(UsageError, match="Received"):
        embed_beam.run(
            task_of(images, tmp_path / "out.parquet"), "DirectRunner"
        )


def test_records_of_a_split_have_their_ids(tmp_path):
    tfds_forms.write_imagenet(tmp_path)
    split, data_dir = "train[3:21]", str(tmp_path)
    source = tf_instdisc.tfds_source("imagenet2012", split, data_dir)
    expected = [e["image"].numpy() for e in source.examples(None)]
    files = SplitFiles("imagenet2012", split, data_dir, None)
    assert files.size == len(expected) == 18
    for first, size in ((0, 18), (0, 1), (2, 9), (7, 1), (13, 5)):
        assert list(files.read(first, size)) == expected[first:][:size]

    output = tmp_path / "out.parquet"
    images = embed_inputs.Split("imagenet2012", split, data_dir, None)
    embed_beam.run(task_of(images, output, images_per_file=4), "DirectRunner")
    table, failed, _ = rows_of(output)
    assert table["id"].to_pylist() == list(range(18))
    assert table["name"][17].as_py() == source.instance_name(17)
    assert not failed
    sizes = [float(len(image)) for image in expected]
    assert [row[0] for row in table["embedding"].to_pylist()] == sizes


def write_records(path, images, key):
    def example(image):
        bytes_list = tf.train.BytesList(value=[image])
        feature = {
            key: tf.train.Feature(bytes_list=bytes_list),
            "label": tf.train.Feature(
                int64_list=tf.train.Int64List(value=[len(image)])
            ),
        }
        features = tf.train.Features(feature=feature)
        return tf.train.Example(features=features).SerializeToString()

    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            writer.write(example(image) if image else b"")


@pytest.mark.parametrize(
    ("key", "given"),
    [("image/encoded", None), ("image", None), ("jpeg", "jpeg")],
)
def test_records_of_examples_are_read_in_order(key, given, tmp_path):
    images = [picture(i) for i in range(20)]
    images[7] = b""  # An example without an image.
    records = tmp_path / "records"
    records.mkdir()
    parts = {"a.tfrecord": 3, "b.tfrecord": 3, "train.tfrecord-00001": 20}
    first = 0
    for name, end in parts.items():
        write_records(records / name, images[first:end], key)
        first = end
    (records / "notes.txt").write_text("none")
    output = tmp_path / "out.parquet"
    place = f"file://{records}" if given else str(records)
    task = task_of(
        embed_inputs.Records(place, given), output, images_per_file=6
    )
    embed_beam.run(task, "DirectRunner")
    table, failed, _ = rows_of(output)
    assert [int(number) for number, *_ in failed] == [3, 7]
    kept = [i for i in range(20) if i not in (3, 7)]
    assert table["id"].to_pylist() == kept
    assert table["name"].to_pylist() == [f"records/{i}" for i in kept]
    sizes = [float(len(images[i])) for i in kept]
    assert [row[0] for row in table["embedding"].to_pylist()] == sizes


@pytest.mark.parametrize(
    ("name", "content", "key", "sentence"),
    [
        ("a.tfrecord", b"garbage" * 9, None, "whole, uncompressed TFRecord"),
        ("a.tfrecord", b"cut", None, "whole, uncompressed TFRecord"),
        ("a.tfrecord", None, "pixels", "the features image"),
        ("a.tfrecord", None, "label", "the features image"),
        ("a.txt", b"", None, "files that have `tfrecord` in their names"),
        ("a.tfrecord", b"", None, "There must be an image"),
    ],
)
def test_other_records_are_refused(name, content, key, sentence, tmp_path):
    if content is None:
        write_records(tmp_path / name, [picture(0)], "image")
    else:
        (tmp_path / name).write_bytes(content)
    images = embed_inputs.Records(str(tmp_path), key)
    task = task_of(images, tmp_path / "out.parquet")
    with pytest.raises((UsageError, FileNotFoundError), match=sentence):
        embed_beam.run(task, "DirectRunner")


def test_records_of_another_kind_are_refused(tmp_path):
    (tmp_path / "old_tfrecords").mkdir()  # Folders are ignored.
    path = tmp_path / "a.tfrecord"
    write_records(path, [picture(0)], "image")
    whole = path.read_bytes()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(picture(0))
    images = embed_inputs.Records(str(tmp_path), None)
    task = task_of(images, tmp_path / "out.parquet")
    with pytest.raises(UsageError, match=r"another kind in .*a\.tfrecord"):
        embed_beam.run(task, "DirectRunner")
    path.write_bytes(whole + path.read_bytes())
    task = task_of(images, tmp_path / "next.parquet")
    with pytest.raises(UsageError, match="among the records 0 to 1"):
        embed_beam.run(task, "DirectRunner")


def test_decoded_images_of_a_split_are_lossless(tmp_path):
    split, data_dir = "train[5:40]", str(tmp_path)
    name = "instdisc_digits"
    source = tf_instdisc.tfds_source(name, split, data_dir)
    files = SplitFiles(name, split, data_dir, None).read(0, 35)
    for example, file in zip(source.examples(None), files, strict=True):
        decoded = tf.io.decode_png(file)
        np.testing.assert_array_equal(decoded, example["image"])


SEEN: list[bytes] = []
LOADS: list[int] = []


def load_counting():
    LOADS.append(1)

    def counting(contents):
        SEEN.extend(contents)
        return lengths(contents)

    return counting


def test_only_what_is_missing_is_embedded_again(tmp_path):
    output = tmp_path / "out.parquet"
    images = embed_inputs.Folder(str(fill(tmp_path / "images", 20)))
    SEEN.clear()
    LOADS.clear()
    task = task_of(images, output, load_counting, images_per_file=5)
    first = embed_beam.run(task, "DirectRunner")
    assert len(SEEN) == 20
    before = parquet.read_table(output)
    assert embed_beam.run(task, "DirectRunner") == first
    assert len(SEEN) == 20  # The manifest says that all is done.
    assert len(LOADS) == 1
    (output / "_manifest.json").unlink()
    parts = sorted(output.glob("part-*"))
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-9])
    shutil.copy(parts[3], output / "_partial-0-part")
    assert embed_beam.run(task, "DirectRunner") == first
    assert len(SEEN) == 20 + 10
    assert parquet.read_table(output).equals(before)
    assert not list(output.glob("_partial-*"))


def test_a_pipeline_that_was_killed_at_its_start_begins_again(tmp_path):
    output = tmp_path / "out.parquet"
    task = task_of(
        embed_inputs.Folder(str(fill(tmp_path / "images", 5))), output
    )
    first = embed_beam.run(task, "DirectRunner")
    for file in output.iterdir():
        if file.name != "_names.parquet":
            file.unlink()
    (output / "_partial-0-_task.json").write_text("{")
    assert embed_beam.run(task, "DirectRunner") == first


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"digest": "model 2"}, "digest"),
        ({"dtype": "int8"}, "dtype"),
        ({"images_per_file": 6}, "images_per_file"),
        ({"images": None}, "images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_pipeline_is_refused(changes, named, tmp_path):
    output = tmp_path / "out.parquet"
    folder = fill(tmp_path / "images", 6)
    task = {
        "images": embed_inputs.Folder(str(folder)),
        "output": str(output),
        "load": lambda: lengths,
        "digest": "model 1",
        "images_per_file": 5,
    }
    embed_beam.run(embed_beam.Task(**task), "DirectRunner")
    files = {file: file.read_bytes() for file in output.iterdir()}
    if named == "images":
        (folder / "é00000.png").rename(folder / "other.png")
        changes = {}
    with pytest.raises(UsageError, match=rf"whose {named}"):
        embed_beam.run(embed_beam.Task(**{**task, **changes}), "DirectRunner")
    assert {file: file.read_bytes() for file in output.iterdir()} == files


def test_a_server_that_stops_ends_the_pipeline(tmp_path):
    """Without a server, each worker's first request fails."""
    images = embed_inputs.Folder(str(fill(tmp_path / "images", 4)))
    model = ModelOptions(
        server="localhost:9", model_name="m", label="stable", deadline=0.5
    )
    load = functools.partial(worker_embedder, model, 2)
    output = tmp_path / "out.parquet"
    with pytest.raises(ServingError, match="localhost:9") as error:
        embed_beam.run(task_of(images, output, load), "DirectRunner")
    assert error.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert not list(output.glob("part-*"))
    embed_beam.run(task_of(images, output), "DirectRunner")
    assert rows_of(output)[0].num_rows == 3


@pytest.mark.parametrize("flag", ["run_dir", "saved_model"])
def test_workers_open_the_model_from_another_directory(
    flag, small_run, tmp_path, monkeypatch
):
    fill(tmp_path / "images", 2)
    shutil.copytree(small_run.path, tmp_path / "model")
    if flag == "saved_model":
        monkeypatch.setattr(embed, "_from_saved_model", run_embedder)
    tasks = []
    monkeypatch.setattr(
        embed_beam,
        "run",
        lambda task, *_: tasks.append(task) or {"num_rows": 2, "num_failed": 0},
    )
    monkeypatch.chdir(tmp_path)
    embed.main(
        EmbedOptions(
            output="out.parquet", images="images", runner="DirectRunner"
        ),
        ModelOptions(**{flag: "model"}),
    )
    monkeypatch.chdir("/")
    (task,) = tasks
    assert task.output == str(tmp_path / "out.parquet")
    assert np.all(task.load()([picture(0)])["valid"])


def test_a_command_without_its_server_reports_it(tmp_path):
    fill(tmp_path / "images", 2)
    result = commands.run(
        *("embed", "--images=images", "--output=out.parquet"),
        *("--server=localhost:9", "--model_name=m", "--deadline=0.5"),
        "--runner=DirectRunner",
        cwd=tmp_path,
    )
    assert result.returncode == 69, result.stderr
    assert "localhost:9" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["_task", "part-", "_manifest"])
def test_errors_of_a_store_end_the_pipeline(name, tmp_path, monkeypatch):
    def fail(sources, destinations):
        if name in destinations[0]:
            raise BeamIOError("Rename operation failed")
        rename(sources, destinations)

    rename = FileSystems.rename
    monkeypatch.setattr(FileSystems, "rename", fail)
    images = embed_inputs.Folder(str(fill(tmp_path / "images", 2)))
    task = task_of(images, tmp_path / "out.parquet")
    with pytest.raises(StorageError, match=r"^`output` cannot be .*failed"):
        embed_beam.run(task, "DirectRunner")
    monkeypatch.setattr(FileSystems, "rename", rename)
    assert embed_beam.run(task, "DirectRunner")["num_rows"] == 2


def test_a_url_that_beam_does_not_open_is_refused(tmp_path):
    url = "nosuch://bucket/out.parquet"
    images = embed_inputs.Folder(str(fill(tmp_path / "images", 2)))
    with pytest.raises(UsageError, match="URL that Beam opens"):
        embed_beam.run(task_of(images, url), "DirectRunner")


def test_an_output_that_beam_takes_as_a_pattern_is_refused(tmp_path):
    images = embed_inputs.Folder(str(fill(tmp_path / "images", 2)))
    output = tmp_path / "photos [2024].parquet"
    with pytest.raises(UsageError, match=r"Received: output=.*\[2024\]"):
        embed_beam.run(task_of(images, output), "DirectRunner")
    assert not output.exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize("flags", [(), TWO_WORKERS], ids=["one", "two"])
def test_the_output_may_be_in_a_bucket(flags, tmp_path, monkeypatch):
    pytest.importorskip("boto3", reason="no apache-beam[aws] is installed")
    moto = pytest.importorskip("moto.server", reason="no moto is installed")
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    images = embed_inputs.Folder(str(fill(tmp_path / "images", 20)))
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    bucket = boto3.resource("s3", endpoint_url=url).Bucket("pictures")
    bucket.create()
    task = task_of(images, "s3://pictures/out.parquet", images_per_file=7)
    flags = (f"--s3_endpoint_url={url}", *flags)
    first = embed_beam.run(task, "DirectRunner", flags)
    for name in ("_manifest.json", "part-00001-of-00003.parquet"):
        bucket.Object(f"out.parquet/{name}").delete()
    assert embed_beam.run(task, "DirectRunner", flags) == first
    for file in bucket.objects.all():
        path = tmp_path / file.key
        path.parent.mkdir(exist_ok=True)
        bucket.download_file(file.key, str(path))
    server.stop()
    table, failed, _ = rows_of(tmp_path / "out.parquet")
    found = table["id"].to_pylist() + [int(i) for i, _, _ in failed]
    assert sorted(found) == list(range(20))
    assert not list((tmp_path / "out.parquet").glob("_partial-*"))


def test_other_files_are_not_overwritten(tmp_path):
    images = embed_inputs.Folder(str(fill(tmp_path / "images", 2)))
    output = tmp_path / "out.parquet"
    output.mkdir()
    (output / "theirs.parquet").write_text("theirs")
    with pytest.raises(UsageError, match="must not exist"):
        embed_beam.run(task_of(images, output), "DirectRunner")
    assert [file.name for file in output.iterdir()] == ["theirs.parquet"]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("number", "images_per_file", "flags"),
    [(300, 3, ()), (10_000, 50, TWO_WORKERS)],
    ids=["300", "10000"],
)
def test_a_killed_pipeline_neither_loses_nor_duplicates_images(
    number, images_per_file, flags, small_run, tmp_path
):
    fill(tmp_path / "images", number)
    output = tmp_path / "out.parquet"
    command = [
        *(sys.executable, "-m", "tf_instdisc", "embed"),
        f"--run_dir={small_run.path}",
        f"--images={tmp_path}/images",
        f"--output={output}",
        "--runner=DirectRunner",
        f"--images_per_file={images_per_file}",
        *(f"--beam_option={flag}" for flag in flags),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, text=True
    )
    num_files = number // images_per_file
    while len(list(output.glob("part-*"))) < num_files // 4:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {part: part.stat().st_ino for part in output.glob("part-*")}
    assert not (output / "_manifest.json").exists()
    assert len(kept) < num_files

    result = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    num_rows = number - len(range(3, number, 17))
    assert result.stdout == f"{num_rows} images in {output}\n"
    assert f"{number - num_rows} images could not be read" in result.stderr
    assert all(part.stat().st_ino == kept[part] for part in kept)
    table, failed, manifest = rows_of(output)
    found = table["id"].to_pylist() + [int(i) for i, _, _ in failed]
    assert collections.Counter(found) == collections.Counter(range(number))
    broken = [i for i in range(number) if i % 17 == 3]
    assert [int(i) for i, _, _ in failed] == broken
    assert manifest["num_rows"] == num_rows
    for i, name in zip(table["id"], table["name"], strict=True):
        assert name.as_py() == f"é{i.as_py():05d}.png"
    rows = np.stack(table["embedding"].to_numpy())
    at = {i: row for i, row in zip(table["id"].to_pylist(), rows, strict=True)}
    twice = [i for i in at if i % 11 == 5 and i - 1 in at]
    assert len(twice) > number // 20
    for i in twice:
        np.testing.assert_allclose(at[i], at[i - 1], atol=1e-5)
    assert not list(output.glob("_partial-*"))


def test_a_folder_without_a_readable_image_is_refused(small_run, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"broken")
    result = commands.run(
        "embed",
        f"--run_dir={small_run.path}",
        *("--images=images", "--runner=DirectRunner", "--output=a.parquet"),
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert "No image can be read" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.exhaustive
def test_the_guide_embeds_a_folder_and_a_table(small_run, tmp_path):
    fill(tmp_path / "photos", 12)
    shutil.copytree(small_run.path, tmp_path / "run")
    names = [f"photos/é{i:05d}.png" for i in range(12)]
    csv.write_csv(columns_of({"url": names}), tmp_path / "images.csv")
    for line in documents.commands("docs/guides/embeddings.md"):
        if "--runner=" in line:
            page_commands.run_line(line, tmp_path)
    folder, _, _ = rows_of(tmp_path / "photos.parquet")
    table, _, manifest = rows_of(tmp_path / "collection.parquet")
    assert manifest["num_failed"] == 1
    assert table["id"].equals(folder["id"])
    assert len(table) == 11
    assert str(table.schema.field("embedding").type.value_type) == "halffloat"


def test_the_command_without_beam_names_the_extra(tmp_path):
    arguments = [
        *("--run_dir=run", "--images=images", "--runner=DirectRunner"),
        "--output=out.parquet",
    ]
    case = {"command": "embed", "arguments": arguments}
    absent = {**case, "absent": ["apache_beam"]}
    (result,) = commands.run_all([absent], tmp_path)
    assert result.returncode == 2
    assert "pip install 'tf_instdisc[beam]'" in result.stderr
