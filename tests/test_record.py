"""The settings of a run: relative folders, and earlier combinations."""

import json

import pytest

import tf_instdisc
from tests import commands
from tf_instdisc import config
from tf_instdisc.runs import opening
from tf_instdisc.runs.directory import RunDirectoryError
from tf_instdisc.runs.record import RunRecord, parse

NAMES = ("images", "test_images")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A project with a run and its images, and another with such a folder."""
    for project in ("one", "two"):
        for folder in ("photos", "photos_test"):
            (tmp_path / project / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "one")
    data = config.DataConfig(images="photos", test_images="photos_test")
    opening.open_run("run", RunRecord(config.RunConfig(data=data)))
    return tmp_path


def test_a_sharded_bank_with_negatives_of_each_example_is_still_read():
    content = json.loads(RunRecord(config.RunConfig()).text())
    content["config"]["method"] |= {
        "objective": "nce",
        "negatives": "per_example",
        "bank_placement": "sharded",
    }
    method = parse(content).config.method
    assert (method.negatives, method.bank_placement) == (
        "per_example",
        "device",
    )


def folders_of(run):
    data = opening.load(str(run)).read_config().data
    return [getattr(data, name) for name in NAMES]


def test_folders_are_found_from_anywhere(places, monkeypatch):
    assert folders_of("run") == ["photos", "photos_test"]
    monkeypatch.chdir(places / "two")
    one = places / "one"
    expected = [str(one / "photos"), str(one / "photos_test")]
    assert folders_of(one / "run") == expected


@pytest.mark.parametrize("given", ["photos/", "./photos", "../two/photos"])
def test_folders_stay_as_they_were_given(places, monkeypatch, given):
    opening.load("run").set_data(images=given)
    assert folders_of("run")[0] == given
    monkeypatch.chdir(places / "two")
    (found, _) = folders_of("../one/run")
    owner = "two" if "two" in given else "one"
    assert found == str(places / owner / "photos")


def test_a_directory_that_was_removed(places, monkeypatch):
    gone = places / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    run = opening.load(str(places / "one" / "run"))
    assert folders_of(run.path)[0] == str(places / "one" / "photos")
    run.set_data(images=str(places / "two" / "photos"), test_images=None)
    assert folders_of(run.path)[0] == str(places / "two" / "photos")


def test_a_moved_project_has_its_own(places, monkeypatch):
    (places / "one").rename(places / "moved")
    monkeypatch.chdir(places / "moved")
    assert folders_of("run") == ["photos", "photos_test"]


def test_a_new_folder_is_that_of_the_directory_where_it_is_set(
    places, monkeypatch
):
    monkeypatch.chdir(places / "two")
    (places / "two" / "new").mkdir()
    opening.load("../one/run").set_data(images="new")
    monkeypatch.chdir(places)
    one, two = places / "one", places / "two"
    expected = [str(two / "new"), str(one / "photos_test")]
    assert folders_of("one/run") == expected


def test_a_run_is_found_after_a_change_of_directory(places, monkeypatch):
    run = tf_instdisc.Run("run")
    config_before = run.config
    assert repr(run) == "tf_instdisc.Run('run')"
    assert run.path == places / "one" / "run"
    monkeypatch.chdir(places)
    data = run.config.data
    assert data.images == str(places / "one" / config_before.data.images)
    assert run.metrics == []


def test_urls_full_paths_and_records_without_a_directory(places, monkeypatch):
    run = opening.load("run")
    full = str(places / "elsewhere")
    run.set_data(images=full, test_images="memory://bucket/images")
    monkeypatch.chdir(places / "two")
    assert folders_of("../one/run") == [full, "memory://bucket/images"]
    run = opening.load("../one/run")
    run.set_data(images="photos", test_images=None)
    content = json.loads(run.settings.read_text())
    del content["directory"]
    run.settings.write_text(json.dumps(content))
    (run.path / "checksums.json").unlink()
    assert folders_of("../one/run") == ["photos", None]


@pytest.mark.parametrize(
    ("names", "is_same"), [("1234", True), ("5678", False), (None, False)]
)
def test_a_folder_may_be_renamed(places, names, is_same, capsys):
    facts = {"images": "photos", "num_instances": 3}
    if names:
        facts["names_of_images"] = "1234"
    old = RunRecord(
        config.RunConfig(data=config.DataConfig(images="photos")), facts
    )
    opening.open_run("renamed", old).append_metrics({"epoch": 1})
    facts = {**facts, "images": "pictures"}
    if names:
        facts["names_of_images"] = names
    new = RunRecord(
        config.RunConfig(data=config.DataConfig(images="pictures")), facts
    )
    if is_same:
        assert opening.open_run("renamed", new).read_record() == new
        assert "images: photos -> pictures" in capsys.readouterr().out
    else:
        with pytest.raises(RunDirectoryError, match="photos -> pictures"):
            opening.open_run("renamed", new)


def test_settings_may_change_until_something_is_trained(places, capsys):
    facts = {"images": "photos", "num_instances": 3}
    first, other = (
        RunRecord(
            config.RunConfig(training=config.TrainingConfig(seed=seed)),
            {**facts, "num_instances": 3 + seed},
        )
        for seed in range(2)
    )
    run = opening.open_run("failed", first)
    assert opening.open_run("failed", other).read_record() == other
    said = capsys.readouterr().out
    assert "Nothing was trained yet" in said
    assert "seed: 0 -> 1" in said
    assert "num_instances: 3 -> 4" in said
    opening.open_run("failed", other)
    assert not capsys.readouterr().out
    results = (run.encoder, run.bank, run.checkpoints / "checkpoint-000001")
    for result in results:
        result.mkdir(parents=True)
        with pytest.raises(RunDirectoryError, match="seed: 1 -> 0"):
            opening.open_run("failed", first)
        result.rmdir()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 3}, "must have format 2 or less. Received: format=3"),
        ({"config": {"data": {"imagse": "a"}}}, "Received: imagse"),
        ({"config": {"data": {"image_size": -1}}}, "Received: image_size=-1"),
    ],
)
def test_an_invalid_edit_is_not_damage(places, changes, reason):
    run = opening.load(str(places / "one" / "run"))
    content = json.loads(run.settings.read_text())
    run.settings.write_text(json.dumps({**content, **changes}))
    (run.path / "checksums.json").unlink()
    result = commands.run("report", f"--run_dir={run.path}")
    assert result.returncode == 2, result.stderr
    assert str(run.settings) in result.stderr
    assert reason in result.stderr
    assert "damaged" not in result.stderr
