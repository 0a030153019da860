"""`instdisc-export`, in real processes."""

import csv
import pathlib
import shlex

import pytest
import tensorflow as tf

from tests import commands, exported
from tf_instdisc.cli import export as cli_export
from tf_instdisc.cli.options import FinishedRun
from tf_instdisc.serving import saved_model, warmup
from tf_instdisc.serving.options import ExportOptions

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent


def _instdisc_export(*flags):
    return commands.run("export", *flags, cwd=ROOT)


@pytest.mark.exhaustive
def test_all_options_reach_the_model(small_run, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i, image in enumerate(exported.random_images(8, seed=1)):
        (images / f"{i}.png").write_bytes(exported.encode(image))
    target = tmp_path / "models" / "pictures"
    result = _instdisc_export(
        f"--run_dir={small_run.path}",
        f"--export_dir={target}",
        "--bank_dtype=int8",
        "--precision=bfloat16",
        "--image_dtype=float32",
        "--num_neighbors=3",
        "--batch_sizes=2",
        "--tflite=int8",
        f"--calibration_images={images}",
    )
    assert result.returncode == 0, result.stderr
    assert f"source={target},target=/models/pictures" in result.stdout
    version = target / "1"
    assert f"version: {version}" in result.stdout
    model = tf.saved_model.load(str(version))
    batch = exported.random_images(2, seed=1).astype("float32")
    found = model.signatures["neighbors"](images=tf.constant(batch))
    assert found["names"].shape == (2, 3)
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    (rows,) = (n for n, s in shapes.items() if s == [exported.NUM_ROWS, 32])
    assert reader.get_variable_to_dtype_map()[rows] == tf.int8
    assert len(list(warmup.read_records(str(version)))) == 5
    assert (version / "tflite" / "encoder_int8.tflite").exists()
    assert "Precision: bfloat16" in (version / "model_card.md").read_text()


def test_a_remote_model_is_copied_to_its_server(
    small_run, tmp_path, monkeypatch, capsys
):
    version = tmp_path / "m" / "1"
    monkeypatch.setattr(saved_model, "export_run", lambda *a, **k: version)
    cli_export.main(
        FinishedRun(run_dir=str(small_run.path)),
        cli_export.WrittenOptions(export_dir="s3://bucket/m"),
        ExportOptions(),
    )
    said = capsys.readouterr().out.partition("Copy ")[2]
    assert said.startswith("s3://bucket/m to /models/m on the host")
    assert "source=/models/m,target=/models/m" in said
    assert str(tmp_path) not in said


def test_the_path_of_the_mount_may_have_commas(
    small_run, tmp_path, monkeypatch, capsys
):
    """Docker reads the mount as a row of CSV."""
    target = tmp_path / 'a, b "c"'
    monkeypatch.setattr(saved_model, "export_run", lambda *a, **k: target / "1")
    cli_export.main(
        FinishedRun(run_dir=str(small_run.path)),
        cli_export.WrittenOptions(export_dir=str(target)),
        ExportOptions(),
    )
    command = capsys.readouterr().out.partition("docker run")[2]
    words = shlex.split(command.replace("\\\n", ""))
    mount = words[words.index("--mount") + 1]
    (fields,) = csv.reader([mount])
    assert fields[1:] == [f"source={target}", f"target=/models/{target.name}"]
