"""Every flag of every command that takes a path takes a URL too."""

import dataclasses
import importlib
import pathlib
import shutil
import socket

import pytest

from tests import commands, test_convert
from tests.buckets import machine
from tests.labeled_run import SIZE, make_labeled_run
from tf_instdisc.cli.instdisc import COMMANDS
from tf_instdisc.config.fields import checked, flag_of, is_setting, rule_of
from tf_instdisc.data.digits import InstdiscDigits

encoder = test_convert.encoder  # A fixture.
RECIPES = pathlib.Path(__file__).parent.parent / "flags"

# `@` stands for the URL of a folder.
ENCODED = (
    *("--epochs=0", f"--image_size={SIZE}", "--embedding_dim=16"),
    *("--batch_size=8", "--objective=softmax", "--num_neighbors=4"),
)
PHOTOS = "--images=@/train", "--test_images=@/test"
DIGITS = (
    *("--dataset=instdisc_digits", "--data_dir=@/tfds"),
    *("--split=train[:40]", "--test_split=test[:20]"),
)
SHORT = "--num_neighbors=4", "--linear_epochs=1", "--linear_layers=embedding"
BEGUN = "--init_encoder=@/run/encoder.keras"
BROWSE = "browse", "--port={port}", "--ticked=@/out/ticked.tsv"
RUNS = [
    ("train", "--run_dir=@/first", *PHOTOS, *ENCODED, BEGUN),
    ("train", "--run_dir=@/digits", *DIGITS, *ENCODED, BEGUN),
    ("train", "--run_dir=@/next", *DIGITS, *ENCODED, "--init_run=@/digits"),
    ("plan", "--run_dir=@/new", *PHOTOS, *ENCODED, "--init_run=@/first"),
    ("plan", "--run_dir=@/new", *DIGITS, *ENCODED, BEGUN),
    (
        *("convert", "--from=@/authors.pth.tar", "--to=@/converted"),
        *("--image_size=64", "--images=@/six"),
    ),
    ("evaluate", "--run_dir=@/digits", "--data_dir=@/tfds"),
    ("evaluate", "--run_dir=@/run", *PHOTOS, "--num_neighbors=4"),
    ("evaluate", "--run_dir=@/run", "--protocol=knn,linear", *DIGITS, *SHORT),
    ("index", "--run_dir=@/run", "--kind=exact", "--output=@/index"),
    (
        *("embed", "--run_dir=@/run"),
        *("--images=@/test", "--output=@/out/test.npz"),
    ),
    (
        *("index", "--embeddings=@/out/test.npz"),
        *("--kind=exact", "--output=@/of_file"),
    ),
    (
        *("neighbors", "--run_dir=@/run", "--images=@/train"),
        *("--query=@/test/ant/0.png", "--index=@/index"),
        "--output=@/out/neighbors.png,@/out/neighbors.html",
    ),
    (
        *("neighbors", "--run_dir=@/digits", "--data_dir=@/tfds"),
        "--output=@/out/digits.png",
    ),
    (
        *("duplicates", "--run_dir=@/run", "--folders=@/train,@/test"),
        "--output=@/out/duplicates.tsv,@/out/duplicates.html",
    ),
    (
        *("duplicates", "--run_dir=@/run", "--images=@/train"),
        "--output=@/out/own.tsv",
    ),
    (
        *("duplicates", "--run_dir=@/digits", "--data_dir=@/tfds"),
        "--output=@/out/digits.tsv",
    ),
    (
        *("report", "--run_dir=@/run", "--images=@/train"),
        "--output=@/out/report.html",
    ),
    ("report", "--run_dir=@/digits", "--data_dir=@/tfds"),
    ("diff", "@/run", "@/first", "--output=@/out/diff.tsv"),
    ("update", "--run_dir=@/first", "--images=@/test"),
    (
        *("export", "--run_dir=@/run", "--export_dir=@/model"),
        *("--batch_sizes=1", "--tflite=int8", "--calibration_images=@/test"),
    ),
    (
        *("embed", "--saved_model=@/model", "--images=@/test"),
        "--output=@/out/served.npz",
    ),
    (
        *("reproduce", "--table=embedding_size", "--rows=base"),
        *("--runs_dir=@/reproduced", "--tables_dir=@/tables"),
        "--data_dir=@/tfds",
        *(
            f"--train_flag={flag}"
            for flag in (
                *DIGITS[:1],
                *DIGITS[2:],
                *("--image_size=16", "--train_image_size=16"),
                *("--width=4", "--epochs=1", "--batch_size=16"),
            )
        ),
    ),
]
"""Commands in this order, all of which succeed."""
ENDS = [
    # The port is taken, which is noticed after everything is opened.
    ((*BROWSE, "--run_dir=@/run", "--images=@/train"), "must be free"),
    ((*BROWSE, "--run_dir=@/digits", "--data_dir=@/tfds"), "must be free"),
    ((*BROWSE, "--saved_model=@/model", "--images=@/train"), "must be free"),
    *(
        (
            (
                *(command, "--rest=https://127.0.0.1:1", "--model_name=x"),
                *("--images=@/test", "--root_certificates=@/run/run.json"),
                *more,
            ),
            "root_certificates='@/run/run.json'",
        )
        for command, more in (
            ("embed", ["--output=@/out/asked.npz"]),
            ("browse", []),
        )
    ),
    (
        (
            *("evaluate", "--run_dir=@/run", "--protocol=detection"),
            "--detection_images=@/test",
        ),
        "@/test",
    ),
]
"""Commands that end with status 2, and words of their messages."""
ELSEWHERE = {
    # tests/test_embed_beam.py, as they need Apache Beam.
    ("embed", "table"),
    ("embed", "records"),
    ("embed", "data_dir"),
}


def path_settings():
    """Class and field of each setting that is a path, by command and flag."""
    found = {}
    for command in COMMANDS:
        module = importlib.import_module(f"tf_instdisc.cli.{command}")
        for kind in getattr(module, "SETTINGS", ()):
            for field in dataclasses.fields(kind):
                if is_setting(field) and rule_of(field).is_path:
                    found[command, flag_of(field)] = kind, field
    return found


def test_every_flag_for_a_path_is_tried_with_a_url():
    lines = [*RUNS, *(line for line, _ in ENDS)]
    tried = {
        (command, argument.partition("=")[0].removeprefix("--"))
        for command, *arguments in lines
        for argument in arguments
        if "=@" in argument
    }
    settings = path_settings()
    assert tried - {("train", "init_encoder"), ("plan", "init_encoder")} == (
        settings.keys() - ELSEWHERE
    )
    for kind, field in settings.values():
        is_tuple = isinstance(field.default, tuple)
        url = "Memory:/place//x.tsv/"
        value = checked(kind, field, (url,) if is_tuple else url)
        assert value in ("memory://place//x.tsv", ("memory://place//x.tsv",))


@pytest.fixture(scope="module")
def place(tmp_path_factory, encoder):
    """A folder with a run, images and what else the commands read."""
    root = tmp_path_factory.mktemp("flags") / "place"
    make_labeled_run(root)
    InstdiscDigits(data_dir=root / "tfds").download_and_prepare()
    shutil.copytree(RECIPES, root / "recipes")
    shutil.copytree(root / "test/ant", root / "six/ant")
    shutil.copy(root / "test/bee/0.png", root / "six/ant/5.png")
    test_convert.write(root, test_convert.checkpoint(encoder)[0])
    return root


@pytest.mark.exhaustive
def test_commands_take_urls_for_all_paths(place, tmp_path):
    url = f"file://{place}"
    with (
        machine(tmp_path / "machine"),
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        port = taken.getsockname()[1]
        lines = [(line, 0, "") for line in RUNS]
        lines += [(line, 2, words) for line, words in ENDS]
        for (command, *arguments), status, words in lines:
            given = [
                argument.replace("@", url).replace("{port}", str(port))
                for argument in arguments
            ]
            result = commands.run(command, *given, cwd=tmp_path)
            assert result.returncode == status, (command, given, result)
            assert words.replace("@", url) in result.stderr, (given, result)
            assert "Traceback" not in result.stderr, result
    # Nothing is written elsewhere.
    assert [path.name for path in tmp_path.iterdir()] == ["machine"]
    for file in (
        *("out/neighbors.png", "out/duplicates.html", "out/own.tsv"),
        *("out/report.html", "out/diff.tsv", "out/test.npz", "out/served.npz"),
        *("index/1/index.json", "of_file/1/index.json"),
        *("model/1/tflite/encoder_int8.tflite", "tables/embedding_size.md"),
        "reproduced/cifar10_sweep/base/seed0.log",
    ):
        assert (place / file).exists(), file
    assert list(place.glob("run/files/results-*.json"))
    page = (place / "out/neighbors.html").read_text()
    assert f"{url}/test/ant/0.png" in page
    kept = place / "tables/embedding_size/cifar10_sweep-base-seed0.json"
    assert f"{url}/reproduced" in kept.read_text()
