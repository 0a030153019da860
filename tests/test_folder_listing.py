"""Folders as users have them: links, strays, odd names, what is left out."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.hostile_files import damaged_archive
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data import file_checks
from tf_instdisc.data.folder import UnreadableImageError, folder_source
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.training import parts


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    kind = {".jpe": "JPEG", ".jfif": "JPEG"}.get(path.suffix.lower())
    Image.fromarray(pixels).save(path, kind)


@pytest.fixture
def classes(tmp_path):
    """Three folders of two images each."""
    for name in ("cat", "dog", "eel"):
        for i in range(2):
            save(tmp_path / "full" / name / f"{i}.png", i)
    return tmp_path / "full"


def test_every_format_is_listed_and_other_suffixes_reported(tmp_path, capsys):
    suffixes = ("jpg", "JPEG", "jpe", "jfif", "png", "GIF", "bmp", "webp")
    taken = [f"{i}.{suffix}" for i, suffix in enumerate(suffixes)]
    for name in taken:
        save(tmp_path / name)
    for name in ("i.tif", "j.tiff", "k.tif"):
        save(tmp_path / name)
    for name in (
        "l.avif",
        "m.txt",
        "README",
        "n.jpg.part",
        "o\n\x1b[31m.x\x07",
    ):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert image_paths(str(tmp_path)) == taken
    said = capsys.readouterr().err
    for part in ("8 images", "2 .tif", "1 .tiff", "1 .avif", "1 .txt"):
        assert part in said
    assert "1 without a suffix" in said
    assert "1 .part" in said
    assert "DS_Store" not in said
    assert "\x07" not in said
    source = folder_source(str(tmp_path))
    assert source.num_readable == len(taken)


def test_skipped_files_are_reported_on_request(classes, capsys):
    (classes / "notes.txt").touch()
    names = image_paths(str(classes), is_reported=False)
    assert capsys.readouterr().err == ""
    assert image_paths(str(classes)) == names
    assert "1 .txt" in capsys.readouterr().err


def test_nothing_is_reported_if_all_files_are_images(classes, capsys):
    folder_source(str(classes))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("linked", [("cat",), ("cat", "dog", "eel")])
def test_linked_class_folders_are_searched(classes, tmp_path, linked):
    subset = tmp_path / "subset"
    subset.mkdir()
    for name in ("cat", "dog", "eel"):
        if name in linked:
            (subset / name).symlink_to(classes / name)
        else:
            os.rename(classes / name, subset / name)
    source = folder_source(str(subset))
    assert source.class_names == ("cat", "dog", "eel")
    assert source.num_readable == 6


def test_one_folder_may_be_linked_as_two_classes(classes):
    (classes / "kitten").symlink_to(classes / "cat")
    assert len(image_paths(str(classes))) == 8


@pytest.mark.parametrize("target", ["..", ".", "../..", "../dog/all"])
def test_circular_links_end_and_are_reported(classes, target, capsys):
    (classes / "dog" / "all").symlink_to(classes / "dog")
    (classes / "cat" / "more").symlink_to(target)
    names = image_paths(str(classes))
    assert "cat/1.png" in names
    assert len(names) < 30
    assert "links to directories" in capsys.readouterr().err


def test_folders_that_all_link_to_each_other_end(tmp_path):
    folders = [tmp_path / f"class{i:02}" for i in range(14)]
    for i, folder in enumerate(folders):
        save(folder / f"{i}.png", i)
    for folder in folders:
        for other in folders:
            if other is not folder:
                (folder / other.name).symlink_to(other)
    names = image_paths(str(tmp_path))
    assert len(names) == 14 * 14


@pytest.mark.parametrize("strays", [1, 3])
def test_stray_images_keep_the_labels_of_the_others(classes, strays, capsys):
    for i in range(strays):
        save(classes / f"overview{i}.png", 7 + i)
    source = folder_source(str(classes))
    assert source.class_names == ("cat", "dog", "eel")
    labels = source.labels().tolist()
    assert labels == [0, 0, 1, 1, 2, 2] + [-1] * strays
    said = capsys.readouterr().err
    assert f"{strays} of {6 + strays} images" in said
    assert "overview0.png" in said


def test_images_mostly_beside_subfolders_have_no_labels(classes, capsys):
    for i in range(7):
        save(classes / f"{i}.png", i)
    source = folder_source(str(classes))
    assert source.class_names is None
    assert set(source.labels().tolist()) == {-1}
    assert "no image has a label" in capsys.readouterr().err


def test_a_directory_may_be_named_like_an_image(classes):
    save(classes / "fox.jpg" / "inside.png", 3)
    (classes / "cat" / "empty.png").mkdir()
    source = folder_source(str(classes))
    assert source.class_names == ("cat", "dog", "eel", "fox.jpg")
    assert source.num_readable == 7


def test_broken_links_are_named_and_pipes_are_left_out(classes, capsys):
    (classes / "cat" / "gone.jpg").symlink_to(classes / "nowhere.jpg")
    (classes / "cat" / "gone.txt").symlink_to(classes / "nowhere.txt")
    (classes / "cat" / "self.png").symlink_to(classes / "cat" / "self.png")
    os.mkfifo(classes / "cat" / "pipe.png")
    with pytest.raises(UnreadableImageError, match="2 of 8") as caught:
        folder_source(str(classes))
    assert "cat/gone.jpg" in str(caught.value)
    assert "1 pipes and devices" in capsys.readouterr().err
    source = folder_source(str(classes), "skip")
    assert source.num_readable == 6


def test_hidden_files_and_folders_are_left_out(classes, capsys):
    save(classes / ".cache" / "0.png")
    save(classes / "cat" / ".0.png")
    assert len(image_paths(str(classes))) == 6
    assert not capsys.readouterr().err


ODD_NAMES = (
    *("a b.png", "a\nb.png", "\t.png", "'\".png", "*.png", "ü.png", "图.png"),
    *("a\\b.png", "%s.png", "{}.png", "-x.png", "~.png", "a.b.c.png"),
)


def test_odd_names_are_read(tmp_path):
    for name in ODD_NAMES:
        save(tmp_path / "cat" / name)
    source = folder_source(str(tmp_path))
    names = [source.instance_name(i) for i in range(source.num_instances)]
    assert names == sorted(f"cat/{name}" for name in ODD_NAMES)
    assert source.num_readable == len(ODD_NAMES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_permissions_forbid_is_named(classes):
    (classes / "cat" / "0.png").chmod(0)
    with pytest.raises(UnreadableImageError, match=r"cat/0\.png"):
        folder_source(str(classes))
    (classes / "dog").chmod(0)
    try:
        with pytest.raises(ValueError, match=r"must be readable.*'dog'"):
            folder_source(str(classes))
    finally:
        (classes / "dog").chmod(0o755)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the files that are decoded to be checked."""
    counts = []
    original = file_checks.decodable

    def counting(images):
        counts.append(len(images))
        return original(images)

    monkeypatch.setattr(file_checks, "decodable", counting)
    return counts


def test_a_missing_test_folder_is_named_before_any_image_is_decoded(
    classes, tmp_path, decoded
):
    data = DataConfig(
        images=str(classes), test_images=str(tmp_path / "nowhere")
    )
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        parts.open_sources(RunConfig(data=data), run, is_chief=True)
    assert decoded == []


def test_a_restart_decodes_only_what_changed(classes, tmp_path, decoded):
    memory = tmp_path / "run" / "checked.npz"
    (classes / "cat" / "bad.png").write_bytes(b"no image")

    def unreadable():
        source = folder_source(str(classes), "skip", memory=memory)
        return [source.instance_name(i) for i in source.unreadable]

    assert unreadable() == ["cat/bad.png"]
    # It may be readable the next time, with the same size and times.
    assert unreadable() == ["cat/bad.png"]
    assert decoded == [7, 1]
    decoded[:] = [7]
    save(classes / "cat" / "bad.png", 5)
    save(classes / "eel" / "new.png", 6)
    assert unreadable() == []
    os.remove(classes / "cat" / "0.png")
    assert unreadable() == []
    assert decoded == [7, 2]
    # Another file of the same size, put in its place later.
    path = classes / "dog" / "0.png"
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert unreadable() == ["dog/0.png"]
    assert decoded == [7, 2, 1]


def test_a_folder_of_bad_images_can_be_repaired(tmp_path):
    folder, memory = tmp_path / "images", tmp_path / "run" / "checked.npz"
    folder.mkdir()
    names = ["a.png", "b.png"]
    for name in names:
        (folder / name).write_bytes(b"no image")
    for _ in range(2):
        found = file_checks.readable_files(str(folder), names, memory)
        assert found.tolist() == [False, False]
    for name in names:
        save(folder / name, 1)
    for _ in range(2):
        found = file_checks.readable_files(str(folder), names, memory)
        assert found.tolist() == [True, True]


@pytest.mark.exhaustive_variants("cut", "empty", "other")
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_cache_is_rebuilt(classes, tmp_path, decoded, damage, capsys):
    memory = tmp_path / "checked.npz"
    folder_source(str(classes), memory=memory)
    memory.write_bytes(damaged_archive(memory.read_bytes(), damage))
    assert folder_source(str(classes), memory=memory).num_readable == 6
    assert "damaged" in capsys.readouterr().out
    folder_source(str(classes), memory=memory)
    assert decoded == [6, 6]
