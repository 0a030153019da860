"""Runs command lines of the documentation in a folder that has what they need.

A line is run unchanged, except for the names that stand for the reader's own
data and for flags that make a training small.
"""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import fsspec
import numpy as np

from tests import commands, labeled_run, tfds_forms, torch_files, voc_form
from tests.documents import ROOT
from tests.servers import KINDS, running
from tests.torch_files import Module
from tests.torch_forward import random_state
from tf_instdisc.serving_client import RestClient

PER_CLASS = 15
# What a page calls the reader's data, and what is in the folder.
PLACES = {
    "FOLDER": "photos",
    "OTHER": "photos_test",
    "TRAIN": "photos",
    "TEST": "photos_test",
    "VAL": "photos_test",
    "VOC": "voc",
    "NAME": "cifar10",
    "PHOTO.jpg": "photos_test/ant/0.png",
}
_FEW = "--epochs=1 --width=2 --batch_size=8 --num_neighbors=5 --data_dir=tfds"
# Parts of lines, and the flags that make these lines small.
SMALL = {
    r"instdisc train .*--images=(?!.*--epochs)": "--epochs=1",
    r"instdisc train --images=photos --run_dir": "--width=4 --batch_size=32",
    r"instdisc train .*--recipe=cifar10": f"{_FEW} --split=train",
    r"instdisc train .*--recipe=digits": f"{_FEW} --split=train[:64]",
    r"instdisc train .*--recipe=imagenet": (
        f"{_FEW} --image_size=64 --embedding_dim=8 --num_negatives=16"
    ),
    r"plan .*--recipe=cifar10": "--data_dir=tfds",
    r"--protocol=knn,linear": (
        "--linear_epochs=1 --linear_schedule_epochs=1 --linear_layers=embedding"
    ),
    r"--protocol=knn .*--images=": "--num_neighbors=5",
    r"--protocol=semi_supervised": "--finetune_epochs=1 --fractions=0.2",
    r"evaluate .*--dataset=": "--data_dir=tfds",
    r"--protocol=detection": (
        "--detection_epochs=1 --detection_image_size=64 "
        "--detection_batch_size=4 --detection_head_filters=8"
    ),
    r"instdisc train .*--recipe=photos": "--image_size=16 --width=4",
    r"instdisc.export ": "--batch_sizes=1",
    r"reproduce ": (
        "--rows=base --seeds=1 --data_dir=tfds --train_flag=--split=train "
        "--train_flag=--epochs=1 --train_flag=--width=2"
    ),
}
# Parts of lines, and what these lines write.
PROMISED = {
    r"instdisc train ": "{run_dir}/bank.npz",
    r"--keep_best": "{run_dir}/encoder_best.keras",
    r"--grid_every": "{run_dir}/tensorboard/grid",
    r"convert ": "{to}/bank.npz",
    r"evaluate ": "{run_dir}/results.json",
    r"detection ": "{run_dir}/detection.jsonl",
    r"neighbors (?!.*tsv)": "neighbors.html",
    r"duplicates (?!.*--output)": "duplicates.html",
    r"report ": "{run_dir}/report.html",
    r"reproduce ": "tables/{table}.md",
    r"--output=": "{output}",
    r"--export_dir=": "{export_dir}/*/saved_model.pb",
    r"--tflite=": "{export_dir}/*/tflite/*",
}


def fill(folder: pathlib.Path) -> None:
    """Makes images, TFDS datasets, checkpoints of PyTorch, and a run."""
    labeled_run.fill_labeled_folder(folder / "photos", PER_CLASS)
    labeled_run.fill_labeled_folder(folder / "photos_test", 8, seed=1)
    voc_form.write_folder(
        folder / "voc",
        voc_form.rectangles(1, 8),
        {"trainval": range(8), "test": range(8)},
    )
    tfds_forms.write_cifar10(folder / "tfds", num_train=60, num_test=20)
    tfds_forms.write_imagenet(folder / "tfds")
    _write_checkpoints(folder)
    run_line(
        "instdisc train --images=photos --test_images=photos_test "
        "--image_size=16 --width=4 --run_dir=runs/made",
        folder,
    )
    (folder / "runs" / "made").rename(folder / "run")
    shutil.copy(folder / "run" / "encoder.keras", folder)


def _write_checkpoints(folder):
    num_rows = PER_CLASS * len(labeled_run.CLASSES)
    memory = np.random.default_rng(0).normal(size=(num_rows, 8))
    buffers = {
        "params": np.array([4096, 0.07, 2876934.2, 0.5], np.float32),
        "memory": memory.astype(np.float32),
    }
    bank = Module("lib.NCEAverage", "NCEAverage", {"_buffers": buffers})
    basic, deep = (
        random_state(block, sizes, 4, 4, 7, "downsample", "fc")
        for block, sizes in (
            ("basic", (2, 2, 2, 2)),
            ("bottleneck", (3, 4, 6, 3)),
        )
    )
    contents = {
        "lemniscate_resnet18.pth": {
            "arch": "resnet18",
            "state_dict": {f"module.{k}": v for k, v in basic.items()},
            "lemniscate": bank,
        },
        "InsDis_resnet50.pth": {
            "model": {f"encoder.module.{k}": v for k, v in deep.items()},
            "contrast": buffers,
        },
    }
    for name, content in contents.items():
        (folder / name).write_bytes(torch_files.legacy_bytes(content))


def run_line(line: str, folder: pathlib.Path) -> None:
    """Runs a line, which must succeed and write what the page promises.

    Args:
        line: A command line of this package, or one of curl.
        folder: Where it runs; has what `fill` makes. Runs, exported models
            and servers that the page has not made yet are added.
    """
    for name, place in PLACES.items():
        line = re.sub(rf"(?<=[=,]){re.escape(name)}(?=[\s,]|$)", place, line)
    line = made_small(line)
    with contextlib.ExitStack() as stack:
        if re.search(r"localhost:85", line):
            line = stack.enter_context(_served(line, folder))
        program, *words = shlex.split(line)
        _add_what_it_reads(line, folder)
        if "--kind=hnsw" in line:
            _repeat_rows(folder / "other.npz", 1_000)
        if program == "curl":
            said = subprocess.check_output(["curl", "-sSf", *words], text=True)
            assert "AVAILABLE" in said
        elif words[:1] == ["browse"]:
            _browse(words, folder)
        else:
            _run(program, words, line, folder)


def made_small(line: str) -> str:
    """The line with the flags of `SMALL`."""
    flags = [flags for part, flags in SMALL.items() if re.search(part, line)]
    return " ".join([line, *flags])


def _run(program, words, line, folder):
    name = program.removeprefix("instdisc-")
    started = time.time() - 0.1  # Times of files are less exact.
    result = commands.run(name, *words, cwd=folder)
    assert result.returncode == 0, f"{line}\n{result.stderr}"
    assert result.stdout
    given = dict(re.findall(r"--(\w+)=(\S+)", line))
    for part, place in PROMISED.items():
        if re.search(part, line) and "--help" not in words:
            place = place.format(**given)
            assert _is_written(place, folder, started), f"{line}: {place}"


def _is_written(place, folder, started):
    if "/runs/" in place:
        return True  # At a URL, files of a run have names of their own.
    if "://" in place:
        fs, path = fsspec.core.url_to_fs(place)
        return bool(fs.glob(path))
    return any(path.stat().st_mtime >= started for path in folder.glob(place))


def _add_what_it_reads(line, folder):
    """Copies runs and exports models that are not there."""
    written = r"(?:plan|train) .*--run_dir=(\S+)|--to=(\S+)"
    written = re.search(written, line)
    for run in re.findall(r"(?<![/\w])runs/\w+", line):
        is_written = written and run in written.groups()
        if not is_written and not (folder / run).exists():
            shutil.copytree(folder / "run", folder / run)
    for model in re.findall(r"--saved_model=models/(\w+)", line):
        _export(model, folder)


def _repeat_rows(path, num_rows):
    """Gives a file of embeddings as many rows as faiss needs."""
    with np.load(path) as file:
        names, rows = file["names"], file["embeddings"]
    rows = np.resize(rows, [num_rows, rows.shape[1]])
    noise = np.random.default_rng(0).normal(scale=0.01, size=rows.shape)
    rows = (rows + noise).astype(np.float32)
    np.savez(path, names=np.resize(names, num_rows), embeddings=rows)


def _export(model, folder):
    if not (folder / "models" / model).exists():
        options = f"--run_dir=runs/{model} --export_dir=models/{model}"
        run_line(f"instdisc export {options}", folder)


@contextlib.contextmanager
def _served(line, folder):
    """Serves the model of a line; gives the line with the server's ports."""
    (model,) = re.findall(r"(?:--model_name=|/models/)(\w+)", line)
    _export(model, folder)
    with running(KINDS[0], str(folder / "models" / model)) as server:
        url = f"http://localhost:{server.rest_port}"
        with RestClient(url, model, deadline=120) as client:
            client.status()
        line = line.replace("8500", str(server.grpc_port))
        yield line.replace("8501", str(server.rest_port))


def _browse(words, folder):
    with subprocess.Popen(
        [sys.executable, "-m", "tf_instdisc", *words, "--port=0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        (address,) = re.findall(r"http://\S+", process.stdout.readline())
        with urllib.request.urlopen(f"{address}api/about") as answer:
            assert json.load(answer)["count"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
