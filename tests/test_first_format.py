"""Runs of the first format, with settings in a flagfile, can be continued."""

import dataclasses
import json

import numpy as np
import pytest

from tests import commands
from tests.finished_run import SIZE, fill_folder, make_run
from tf_instdisc import checksums
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.errors import DamagedFileError
from tf_instdisc.runs import opening
from tf_instdisc.runs.directory import RunDirectoryError
from tf_instdisc.runs.record import RunRecord, parse_first_format

pytestmark = pytest.mark.slow

FACTS = {
    "images": "images",
    "num_instances": 12,
    "unreadable_images": 0,
    "names_of_images": "0123456789abcdef",
}


@pytest.fixture
def run(tmp_path):
    """As `instdisc-train` left the first format, without digests."""
    names = [f"{kind}/{n}.png" for kind in "ab" for n in range(6)]
    fill_folder(tmp_path / "images", names)
    run = make_run(tmp_path / "run", tmp_path / "images")
    run.flags.write_text(
        f"--split=train\n--test_split=test\n--images={tmp_path / 'images'}\n"
        f"--image_size={SIZE}\n--crop_fraction=1.0\n--noflip\n--hue=0.3\n"
        "--encoder=resnet18\n--objective=softmax\n--temperature=0.1\n"
        "--nojit_encoder\n--schedule=constant\n--schedule_epochs=120,160\n"
        "--learning_rate=0.03\n--learning_rate_scaling=sqrt\n"
        f"--batch_size=64\n--epochs=3\n--run_dir={run.path}\n--seed=5\n"
    )
    settings = {**FACTS, "learning_rate": 0.015, "hue": 0.3, "stem": None}
    run.settings.write_text(json.dumps(settings))
    (run.path / checksums.FILE).unlink()
    return run


def test_settings_are_those_of_the_flagfile(run):
    record = run.read_record()
    assert record.facts == FACTS
    config = record.config
    assert config.data.images == str(run.path.parent / "images")
    assert config.data.test_split is None
    assert not config.augmentation.flip
    assert config.augmentation.hue == 0.3
    assert config.method.objective == "softmax"
    assert config.optimizer.schedule_epochs == (120, 160)
    assert config.training.seed == 5
    # Scaling by the square root was removed; the rate that it gave is kept.
    assert config.optimizer.learning_rate == 0.015
    assert config.optimizer.learning_rate_scaling == "none"


@pytest.mark.exhaustive
def test_it_continues_with_its_own_settings_only(run, capsys):
    record = run.read_record()
    path = str(run.path)
    assert opening.open_run(path, record).read_record() == record
    assert not capsys.readouterr().out
    # From here on it is of the present format.
    assert json.loads(run.settings.read_text())["format"] == 2
    for facts in ({}, {**FACTS, "num_instances": 13}):
        with pytest.raises(RunDirectoryError, match="num_instances"):
            opening.open_run(path, RunRecord(record.config, facts))
    longer = dataclasses.replace(record.config.optimizer, epochs=9)
    config = dataclasses.replace(record.config, optimizer=longer)
    opening.open_run(path, RunRecord(config, FACTS))
    assert "epochs: 3 -> 9" in capsys.readouterr().out


def test_flags_of_a_data_set_stay(tmp_path):
    flags = "--dataset=cifar10\n--split=train\n--test_split=test\n"
    record = parse_first_format({"converted_from": "x.pth"}, flags)
    assert record.config == from_flagfile(flags)
    assert record.facts == {"converted_from": "x.pth"}


@pytest.mark.exhaustive
def test_a_damaged_flagfile_is_named(run):
    run.flags.write_bytes(b"--epochs=\xff\xfe\n")
    with pytest.raises(DamagedFileError, match=r"flags\.txt"):
        run.read_config()


@pytest.mark.exhaustive
def test_commands_open_it(run, tmp_path):
    of_run, images = f"--run_dir={run.path}", tmp_path / "images"
    cases = [
        ("neighbors", [of_run, "--query=random:2", "--format=tsv"]),
        ("duplicates", [of_run, "--output=-"]),
        ("report", [of_run]),
        ("export", [of_run, "--export_dir=m", "--batch_sizes=1"]),
        ("embed", [of_run, f"--images={images}", "--output=o.npz"]),
        (
            "evaluate",
            [of_run, f"--test_images={images}", "--num_neighbors=3"],
        ),
        ("update", [of_run, f"--images={images}", "--reread"]),
        ("diff", [str(run.path), str(run.path)]),
    ]
    results = commands.run_all(
        [{"command": name, "arguments": more} for name, more in cases],
        tmp_path,
    )
    for (name, _), result in zip(cases, results, strict=True):
        assert result.returncode == 0, (name, result.stderr)
    assert np.isfinite(run.load_bank().rows).all()
    assert run.load_bank().encoded_by is not None
