"""A folder of images to a file, through each kind of model."""

import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pyarrow import parquet

from tests import commands, exported
from tests.hostile_server import http_reply, raw_server, read_request
from tests.servers import KINDS, need, running
from tf_instdisc.cli.embed import ModelOptions, open_client, run_embedder
from tf_instdisc.cli.embed_settings import EmbedOptions
from tf_instdisc.errors import StorageError, UsageError
from tf_instdisc.runs import embedding
from tf_instdisc.serving import embed_folder as module
from tf_instdisc.serving import saved_model
from tf_instdisc.serving.embed_folder import embed_folder
from tf_instdisc.serving.embedder import one_by_one
from tf_instdisc.serving.options import ExportOptions
from tf_instdisc.serving_client import GrpcClient, RestClient, ServingError

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
NUM_IMAGES = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    (path / "sub").mkdir()
    kinds = ("png", "jpeg", "webp", "bmp")
    for i, image in enumerate(exported.random_images(NUM_IMAGES, 1, size=40)):
        kind = kinds[i % len(kinds)]
        content = exported.encode(image, kind.upper())
        (path / ("sub" if i % 2 else "") / f"{i:02d}.{kind}").write_bytes(
            content
        )
    (path / "bad.jpg").write_bytes(b"bad")
    (path / "notes.txt").write_text("no image")
    return path


def _instdisc_embed(*flags):
    return commands.run("embed", *flags, cwd=ROOT)


def test_a_run_embeds_the_largest_images_that_it_is_trained_on(small_run):
    file = io.BytesIO()
    Image.new("1", (2**14, 2**13)).save(file, "PNG")
    embed, _ = run_embedder(str(small_run.path))
    assert embed([file.getvalue()])["valid"].numpy().tolist() == [True]


@pytest.mark.exhaustive
def test_gpus_take_turns(folder, small_run, tmp_path, monkeypatch):
    contents = [(folder / "00.png").read_bytes()]
    embed, digest = run_embedder(str(small_run.path))
    expected = embed(contents)["embedding"]
    # Two logical CPU devices take the places of GPUs.
    monkeypatch.setattr(embedding, "gpus", lambda: ["CPU:1", "CPU:3"])
    embed, digest_of_both = run_embedder(str(small_run.path))
    assert digest_of_both == digest
    found = [embed(contents)["embedding"] for _ in range(4)]
    assert [rows.device[-5:] for rows in found] == ["CPU:1", "CPU:3"] * 2
    for rows in found:
        np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize("server_kind", KINDS)
def test_run_saved_model_and_server_agree(
    server_kind, folder, small_run, small_model_dir, tmp_path
):
    need(server_kind)
    outputs = []

    def instdisc_embed(suffix, *flags):
        output = tmp_path / f"{len(outputs)}{suffix}"
        result = _instdisc_embed(
            f"--images={folder}",
            f"--output={output}",
            "--batch_size=4",
            *flags,
        )
        assert result.returncode == 0, result.stderr
        assert f"{NUM_IMAGES} images in {output}" in result.stdout
        assert "bad.jpg" in result.stderr
        failed = (tmp_path / f"{output.name}.failed.txt").read_text()
        assert failed == "bad.jpg\n"
        outputs.append(output)

    with running(server_kind, small_model_dir) as server:
        instdisc_embed(".npz", f"--run_dir={small_run.path}")
        instdisc_embed(".npz", f"--saved_model={small_model_dir}")
        instdisc_embed(
            ".parquet",
            f"--server=localhost:{server.grpc_port}",
            "--model_name=pictures",
        )
        instdisc_embed(
            ".npz",
            f"--rest=http://localhost:{server.rest_port}",
            "--model_name=pictures",
        )
    with np.load(outputs[0]) as file:
        names, expected = file["names"].tolist(), file["embeddings"]
    assert names[0] == "00.png"
    assert names[-1] == "sub/09.jpeg"
    assert expected.shape == (NUM_IMAGES, 32)
    for output in (outputs[1], outputs[3]):
        with np.load(output) as file:
            assert file["names"].tolist() == names
            np.testing.assert_allclose(file["embeddings"], expected, atol=1e-5)
    table = parquet.read_table(outputs[2])
    assert table["name"].to_pylist() == names
    np.testing.assert_allclose(
        np.array(table["embedding"].to_pylist()), expected, atol=1e-5
    )
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == sorted(
        name for o in outputs for name in (o.name, f"{o.name}.failed.txt")
    )


def test_a_label_is_pinned_to_its_version(small_model_dir, tmp_path, capsys):
    need(KINDS[0])
    config = tmp_path / "models.config"
    config.write_text(
        'model_config_list { config { name: "pictures" '
        f'base_path: "{small_model_dir}" model_platform: "tensorflow" '
        "model_version_policy { latest { num_versions: 2 } } "
        'version_labels { key: "stable" value: 1 } } }'
    )
    with running(KINDS[0], small_model_dir, config=config) as server:
        options = {"model_name": "pictures", "label": "stable"}
        address = f"localhost:{server.grpc_port}"
        client, source = open_client(
            ModelOptions(server=address, **options), batch_size=4
        )
        with client:
            assert client.options.version == 1
            assert client.options.label is None
        assert source == f"{address} pictures 1"
        assert capsys.readouterr().err == ""
        address = f"http://localhost:{server.rest_port}"
        client, _ = open_client(
            ModelOptions(rest=address, **options), batch_size=4
        )
        assert client.options.label == "stable"
        assert "mixes two versions" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_a_model_that_fails_on_bad_images_has_them_listed(
    folder, small_run, tmp_path
):
    options = ExportOptions(bad_bytes="error", batch_sizes=(1, 4))
    models = str(tmp_path / "pictures")
    saved_model.export_run(small_run, models, options, with_bank=False)
    signature = tf.saved_model.load(f"{models}/1").signatures["image_bytes"]
    with running("stand-in", models) as server:
        client = GrpcClient(
            f"localhost:{server.grpc_port}", "pictures", deadline=120
        )
        for name, embedder in (
            ("model", lambda x: signature(image_bytes=tf.constant(x))),
            ("server", client.embed_bytes),
        ):
            output = tmp_path / f"{name}.npz"
            outcome = embed_folder(
                str(folder),
                str(output),
                one_by_one(embedder),
                name,
                batch_size=4,
            )
            assert outcome.failed == ("bad.jpg",)
            with np.load(output) as file:
                norms = np.linalg.norm(file["embeddings"], axis=1)
            assert len(norms) == NUM_IMAGES
            np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_an_unavailable_model_is_not_a_bad_image():
    asked = []

    def broken(contents):
        asked.append(len(contents))
        raise ServingError(f"{code}: broken model")

    code = "INVALID_ARGUMENT"
    with pytest.raises(ServingError, match="broken model"):
        one_by_one(broken)([b"a", b"b"])
    # The batch, and a good image.
    assert asked == [2, 1]
    code = "UNAVAILABLE"
    with pytest.raises(ServingError, match="broken model"):
        one_by_one(broken)([b"a", b"b"])
    assert asked == [2, 1, 2]


def _counting(seen, stop_after=None):
    def embedder(contents):
        if stop_after is not None and len(seen) >= stop_after:
            raise KeyboardInterrupt
        seen.extend(contents)
        values = [[len(content)] for content in contents]
        return {
            "embedding": np.array(values, np.float32),
            "valid": np.array([len(content) > 3 for content in contents]),
        }

    return embedder


def test_a_stopped_run_continues_where_it_was(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PART", 4)
    output = tmp_path / "out.npz"
    seen: list[bytes] = []
    with pytest.raises(KeyboardInterrupt):
        embed_folder(str(folder), str(output), _counting(seen, 6), "m", 2, 1)
    assert not output.exists()
    again: list[bytes] = []
    outcome = embed_folder(
        str(folder), str(output), _counting(again), "m", 2, 1
    )
    assert outcome.failed == ("bad.jpg",)
    assert len(again) == NUM_IMAGES + 1 - 4
    with np.load(output) as file:
        for name, row in zip(file["names"], file["embeddings"], strict=True):
            assert row[0] == (folder / str(name)).stat().st_size


def test_an_error_of_the_disk_ends_the_command(folder, tmp_path, monkeypatch):
    """Linux reports EIO for this file, as it does for a failing disk."""
    monkeypatch.setattr(module, "_PART", 4)
    images = shutil.copytree(folder, tmp_path / "images")
    (images / "zz.png").symlink_to("/proc/self/mem")
    arguments = str(images), str(tmp_path / "out.npz")
    with pytest.raises(StorageError, match=r"Received: .*zz\.png \(OSError"):
        embed_folder(*arguments, _counting([]), "m", 2)
    (images / "zz.png").unlink()
    shutil.copy(folder / "00.png", images / "zz.png")
    again: list[bytes] = []
    outcome = embed_folder(*arguments, _counting(again), "m", 2)
    assert outcome.failed == ("bad.jpg",)
    assert outcome.num_embedded == NUM_IMAGES + 1
    assert len(again) == 1


def test_a_file_that_could_not_be_read_is_tried_again(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "_PART", 4)
    images = shutil.copytree(folder, tmp_path / "images")
    (images / "00.png").unlink()
    (images / "00.png").symlink_to("missing")
    arguments = str(images), str(tmp_path / "out.npz")
    with pytest.raises(KeyboardInterrupt):
        embed_folder(*arguments, _counting([], 6), "m", 2, 1)
    (images / "00.png").unlink()
    shutil.copy(folder / "00.png", images)
    outcome = embed_folder(*arguments, _counting([]), "m", 2)
    assert outcome.failed == ("bad.jpg",)


def test_files_that_are_replaced_are_read_again(folder, tmp_path):
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / "a.png"
    image.write_bytes(b"bad")
    arguments = str(image.parent), str(tmp_path / "out.npz")
    with pytest.raises(UsageError, match="can be read"):
        embed_folder(*arguments, _counting([]), "m")
    assert sorted(os.listdir(tmp_path)) == ["images"]
    shutil.copy(folder / "00.png", image)
    assert embed_folder(*arguments, _counting([]), "m").num_embedded == 1


def test_parts_of_another_model_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PART", 4)
    output = str(tmp_path / "out.npz")
    with pytest.raises(KeyboardInterrupt):
        embed_folder(str(folder), output, _counting([], 6), "m", 2)
    with pytest.raises(ValueError, match="another model"):
        embed_folder(str(folder), output, _counting([]), "other", 2)


def test_an_invalid_response_of_a_server_is_not_kept(
    folder, tmp_path, monkeypatch
):
    """The fourth request gets a row too few; later, longer rows."""
    monkeypatch.setattr(module, "_PART", 4)
    asked = []
    row = {"embedding": [0.6, 0.8], "valid": True}

    def response(connection):
        read_request(connection)
        asked.append(1)
        rows = [row] * (1 if len(asked) == 4 else 2)
        body = json.dumps({"predictions": rows}).encode()
        connection.sendall(http_reply(body))

    output = str(tmp_path / "out.npz")
    with raw_server(response) as port:
        client = RestClient(f"http://127.0.0.1:{port}", "m", deadline=20)
        arguments = (str(folder), output, client.embed_bytes, "x", 2)
        with pytest.raises(ServingError, match="invalid response"):
            embed_folder(*arguments)
        parts = sorted((tmp_path / "out.npz.parts").glob("*.npz"))
        assert [part.name for part in parts] == ["000000000.npz"]
        assert not (tmp_path / "out.npz").exists()
        row["embedding"] = [0.6, 0.8, 0.0]
        with pytest.raises(ValueError, match=r"lengths \[2, 3\]"):
            embed_folder(*arguments)
        row["embedding"] = [0.6, 0.8]
        embed_folder(*arguments)
    with np.load(output) as embedded:
        assert embedded["embeddings"].shape == (NUM_IMAGES + 1, 2)


@pytest.mark.parametrize(
    "response",
    [
        {"embedding": np.ones([12]), "valid": np.ones(12, bool)},
        {"embedding": np.ones([11, 2]), "valid": np.ones(12, bool)},
        {"embedding": np.ones([12, 2], int), "valid": np.ones(12, bool)},
        {"embedding": np.ones([12, 2]), "valid": np.ones(12)},
        {"embedding": np.ones([12, 2]), "valid": np.ones([12, 1], bool)},
        {"embedding": np.full([12, 2], np.nan), "valid": np.ones(12, bool)},
    ],
)
def test_an_invalid_response_of_any_model_is_not_kept(
    folder, tmp_path, response
):
    output = tmp_path / "out.npz"
    with pytest.raises(ValueError, match="Nothing of this response"):
        embed_folder(str(folder), str(output), lambda contents: response, "x")
    assert not list((tmp_path / "out.npz.parts").glob("*.npz"))


def test_two_processes_do_not_embed_into_one_output(folder, tmp_path):
    output = str(tmp_path / "out.npz")
    refusals = []

    def begin_second(contents):
        if not refusals:
            code = (
                "import sys; from tf_instdisc.serving.embed_folder import *\n"
                "embed_folder(*sys.argv[1:3], lambda contents: 1 / 0, 'm')\n"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, folder, output],
                check=False,
                capture_output=True,
                text=True,
            )
            refusals.append(done.stderr)
        return _counting([])(contents)

    embed_folder(str(folder), output, begin_second, "m", 2, num_workers=1)
    assert re.search(
        rf"LockedError: .*out.npz.parts is being written by process "
        rf"{os.getpid()} ",
        refusals[0],
    )
    assert sorted(os.listdir(tmp_path)) == ["out.npz", "out.npz.failed.txt"]


def test_an_output_is_not_overwritten(folder, tmp_path):
    output = tmp_path / "out.npz"
    output.write_text("theirs")
    with pytest.raises(ValueError, match="must not exist"):
        embed_folder(str(folder), str(output), _counting([]), "m")
    assert output.read_text() == "theirs"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "images"),
        ({"images": "a", "dataset": "b"}, "Exactly one"),
        ({"dataset": "b"}, "`dataset` needs `runner`"),
        ({"table": "b.csv"}, "`table` needs `runner`"),
        ({"records": "b"}, "`records` needs `runner`"),
        ({"images": "a", "dtype": "int8"}, "`dtype` needs `runner`"),
        ({"images": "a", "images_per_file": 9}, "needs `runner`"),
        ({"images": "a", "beam_options": ("--x",)}, "needs `runner`"),
        ({"runner": "DirectRunner", "images": "a", "split": "b"}, "`dataset`"),
        ({"runner": "DirectRunner", "images": "a", "column": "b"}, "`table`"),
        ({"runner": "DirectRunner", "table": "a.txt"}, ".csv"),
        ({"runner": "DirectRuner", "images": "a"}, "DirectRunner"),
        (
            {"runner": "DirectRunner", "images": "a", "output": "o.npz"},
            ".parquet",
        ),
        (
            {"runner": "DirectRunner", "images": "a", "beam_options": ("x",)},
            "begin with --",
        ),
    ],
)
def test_incompatible_options_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        EmbedOptions(**{"output": "out.parquet", **options})
