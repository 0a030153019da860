"""Paths with `~` are expanded and URLs are checked at every entry point."""

import dataclasses
import importlib
import pathlib

import numpy as np
import pytest

from tests import commands
from tests.finished_run import picture, save_picture
from tf_instdisc import load_encoder, paths
from tf_instdisc.cli.evaluate import EvaluateOptions
from tf_instdisc.config import fields
from tf_instdisc.config.fields import flag_of, kind_of, rule_of
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.data.folder import folder_source, image_paths
from tf_instdisc.data.tfds_source import tfds_source
from tf_instdisc.data.voc import voc_folder
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation import protocol
from tf_instdisc.runs import opening
from tf_instdisc.runs.convert import checkpoint
from tf_instdisc.runs.record import RunRecord
from tf_instdisc.serving import saved_model
from tf_instdisc.serving.embed_folder import embed_folder

URLS = (
    "nosuch://bucket/run",
    "no-such.1:/mnt/run",
    "NoSuch://bucket",
    " nosuch://bucket",
)
PATH_FLAGS = {
    "convert": {"from", "to", "images"},
    "diff": {"output"},
    "duplicates": {"run_dir", "folders", "output", "data_dir", "images"},
    "embed": {
        "run_dir",
        "data_dir",
        "images",
        "output",
        "saved_model",
        "root_certificates",
        "table",
        "records",
    },
    "export": {"run_dir", "export_dir", "calibration_images"},
    "index": {"run_dir", "embeddings", "output"},
    "neighbors": {
        *("run_dir", "query", "output", "data_dir", "images", "index"),
    },
    "plan": {"run_dir", "init_run", "data_dir", "images", "test_images"},
    "report": {"run_dir", "output", "data_dir", "images"},
    "reproduce": {"data_dir", "runs_dir", "tables_dir"},
    "train": {"run_dir", "init_run", "data_dir", "images", "test_images"},
    "update": {"run_dir", "images"},
}

EVALUATE_PATH_FLAGS = {
    *("run_dir", "data_dir", "images", "test_images"),
    "detection_images",
}


def path_flags(name):
    """Flags of a command that hold paths, and others that sound like it."""
    module = importlib.import_module(f"tf_instdisc.cli.{name}")
    found, others = set(), set()
    for settings in module.SETTINGS:
        for field in dataclasses.fields(settings):
            rule, flag = rule_of(field), flag_of(field)
            is_text = kind_of(settings, field)[0] is str and not rule.choices
            words = ("folder", "director", "file", "where ")
            if rule.is_path:
                found.add(flag)
            elif is_text and any(w in rule.help.lower() for w in words):
                others.add(flag)
    return found, others


@pytest.mark.parametrize("url", URLS)
def test_a_url_of_an_unknown_scheme_is_refused(url):
    with pytest.raises(UsageError, match=r"`run_dir` must be a path, .* s3, "):
        paths.local_path(url, "run_dir")


@pytest.mark.parametrize(
    ("given", "url"),
    (
        ("memory://place/run/", "memory://place/run"),
        ("MEMORY:/place/run", "memory://place/run"),
        (pathlib.Path("memory://place/run"), "memory://place/run"),
        (" file:///place/run ", "file:///place/run"),
        (pathlib.Path("file:///place/run"), "file:///place/run"),
    ),
)
def test_a_url_has_one_form(given, url):
    assert paths.checked_path(given) == url
    assert paths.is_url(given)


@pytest.mark.parametrize(
    "path",
    ("runs/x", "/a/b", "a:b/c", "random:16", "C:/x", "x.y-z", "", "-", "a/~"),
)
def test_other_paths_stay_as_they_are(path):
    assert paths.local_path(path) == path


def test_a_tilde_is_the_home_of_a_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.local_path("~/runs") == "/home/someone/runs"
    assert paths.local_path(pathlib.Path("~")) == "/home/someone"
    with pytest.raises(UsageError, match=r"existing user.*\./~nobody-here/x"):
        paths.local_path("~nobody-here/x")


@pytest.mark.parametrize("name", sorted(set(PATH_FLAGS) - {"evaluate"}))
def test_every_path_is_marked_as_a_path(name):
    found, others = path_flags(name)
    assert found == PATH_FLAGS[name]
    # Names of runs; their help speaks of folders.
    assert others <= {"rows"}


def test_every_path_flag_takes_tildes_and_checks_urls(tmp_path):
    values = {
        "nosuch://bucket/x.npz": "with a scheme of fsspec",
        "~nobody-here/x.npz": "must name an existing user",
    }
    cases = [
        {
            "command": name,
            "arguments": [*commands.COMPLETE[name], f"--{flag}={value}"],
            "flag": flag,
            "words": words,
        }
        for name, flags in PATH_FLAGS.items()
        for flag in sorted(flags)
        for value, words in values.items()
    ]
    for result in commands.run_all(cases, tmp_path):
        case = result.args
        assert result.returncode == 2, result
        lines = result.stderr.splitlines()
        (line,) = [line for line in lines if line.startswith("error: ")]
        assert case["flag"] in line
        assert case["words"] in line


def test_every_path_flag_of_an_evaluation_takes_tildes_and_checks_urls():
    found, others = set(), set()
    for kind in {
        EvaluateOptions,
        *(kind.options_kind for kind in protocol.protocols().values()),
    }:
        for field in filter(fields.is_setting, dataclasses.fields(kind)):
            rule = fields.rule_of(field)
            if rule.is_path:
                found.add(fields.flag_of(field))
                expanded = fields.checked(kind, field, "~/sub/x.npz")
                assert expanded == str(pathlib.Path.home() / "sub/x.npz")
                for url in URLS:
                    with pytest.raises(UsageError, match="a scheme of fsspec"):
                        fields.checked(kind, field, url)
            elif fields.kind_of(kind, field)[0] is str and not rule.choices:
                words = ("folder", "director", "file", "where ")
                if any(word in rule.help.lower() for word in words):
                    others.add(fields.flag_of(field))
    assert found == EVALUATE_PATH_FLAGS
    # A name of a split; its help speaks of folders.
    assert others == {"detection_train_split"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    (
        ("train", ["--images=pictures", "--run_dir=nosuch://bucket/run"]),
        (
            "embed",
            ["--run_dir=r", "--images=pictures", "--output=nosuch://b/x.npz"],
        ),
        ("diff", ["nosuch://host/a", "nosuch://host/b"]),
    ),
)
def test_a_command_with_an_unknown_scheme_ends_with_2_and_writes_nothing(
    tmp_path, name, arguments
):
    save_picture(tmp_path / "pictures", "a.png", picture(0))
    ended = commands.run(name, *arguments, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "with a scheme of fsspec" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def _embedder(contents):
    raise AssertionError("The paths are checked first.")


@pytest.mark.parametrize(
    "door",
    (
        lambda url: folder_source(url),
        lambda url: image_paths(url),
        lambda url: voc_folder(url, "train"),
        lambda url: tfds_source("mnist", data_dir=url),
        lambda url: load_encoder(url),
        lambda url: opening.load(url),
        lambda url: opening.check_usable(url),
        lambda url: opening.open_run(url, RunRecord(from_flagfile(""))),
        lambda url: embed_folder(url, "x.npz", _embedder, "s"),
        lambda url: embed_folder(".", f"{url}.npz", _embedder, "s"),
        lambda url: checkpoint.convert(url, "to"),
        lambda url: checkpoint.convert("x.pth", url),
        lambda url: checkpoint.convert("x.pth", "to", images=url),
    ),
)
def test_entry_points_of_the_api_check_urls(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="with a scheme of fsspec"):
        door("nosuch://bucket/x")
    assert not list(tmp_path.iterdir())


def test_export_checks_urls(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="with a scheme of fsspec"):
        saved_model.export_run(small_run, "nosuch://bucket/models/x")
    assert not list(tmp_path.iterdir())


def test_entry_points_of_the_api_expand_tildes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_picture(tmp_path / "pictures", "a.png", picture(0))
    assert folder_source("~/pictures").num_instances == 1
    run = opening.open_run(
        "~/run", RunRecord(from_flagfile("--image_size=8\n"))
    )
    assert run.path == tmp_path / "run"
    assert opening.load("~/run").read_config().data.image_size == 8

    def embedder(contents):
        size = len(contents)
        return {
            "embedding": np.ones([size, 2], np.float32),
            "valid": np.ones([size], bool),
        }

    embed_folder("~/pictures", "~/x.npz", embedder, "s")
    assert (tmp_path / "x.npz").exists()
