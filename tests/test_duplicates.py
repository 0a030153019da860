"""Near-duplicates: the exact search, planted duplicates, the command."""

import csv

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.finished_run import (
    NASTY_NAMES,
    command,
    fill_folder,
    make_run,
    picture,
    save_picture,
)
from tf_instdisc import duplicates, near_pairs, run_images
from tf_instdisc.report import duplicate_page


def unit_rows(rng, *shape):
    rows = rng.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def crowded_rows(seed, size, dim):
    """Rows of which some are near each other."""
    rng = np.random.default_rng(seed)
    rows = unit_rows(rng, size, dim)
    copies = rng.integers(0, size, size // 3)
    noise = rng.normal(size=(len(copies), dim)) * rng.uniform(0, 0.05)
    rows = np.concatenate([rows, rows[copies] + noise]).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def as_set(pairs):
    return set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("dim", [8, 40])
def test_pairs_equal_an_exhaustive_search(monkeypatch, threshold, dim):
    monkeypatch.setattr(near_pairs, "_BLOCK", 50)
    monkeypatch.setattr(near_pairs, "_OTHER_BLOCK", 70)
    monkeypatch.setattr(near_pairs, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(near_pairs, "_PAIRS_AT_ONCE", 11)
    rows = crowded_rows(0, 300, dim)
    cosines = rows @ rows.T
    expected = set(
        zip(*np.nonzero(np.triu(cosines >= threshold, 1)), strict=True)
    )
    found = near_pairs.pairs_above(rows, threshold)
    assert found.is_complete
    assert as_set(found) == {(int(i), int(j)) for i, j in expected}
    np.testing.assert_allclose(
        found.scores, cosines[found.first, found.second], atol=1e-6
    )
    others = np.concatenate(
        [unit_rows(np.random.default_rng(1), 60, dim), rows[:30]]
    )
    found = near_pairs.pairs_above(rows, threshold, others)
    expected = np.argwhere(rows @ others.T >= threshold)
    assert as_set(found) == {tuple(pair) for pair in expected.tolist()}


def test_equal_rows_stop_the_search_at_its_limit():
    rows = np.tile(unit_rows(np.random.default_rng(0), 1, 16), (3000, 1))
    found = near_pairs.pairs_above(rows, 0.98, max_pairs=500)
    assert not found.is_complete
    assert len(found.first) == 500


def test_groups_are_what_hangs_together():
    none = np.zeros(4, np.float32)
    pairs = near_pairs.NearPairs(
        np.array([9, 1, 4, 2]), np.array([11, 2, 5, 7]), none, True
    )
    groups = [group.tolist() for group in near_pairs.groups(pairs)]
    assert groups == [[1, 2, 7], [4, 5], [9, 11]]


def test_thresholds_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"Received: threshold=1\.5"):
        near_pairs.pairs_above(np.zeros([2, 2]), 1.5)


def plant(folder, count):
    """Every fifth picture has four near-duplicates."""
    for seed in range(count):
        original = picture(seed, size=80)
        save_picture(folder, f"{seed}.png", original)
        if seed % 5:
            continue
        image = Image.fromarray(original)
        image.resize((120, 120), Image.BICUBIC).save(folder / f"{seed}_big.png")
        image.save(folder / f"{seed}_jpeg.jpg", quality=40)
        ImageOps.mirror(image).save(folder / f"{seed}_flip.png")
        image.crop((2, 2, 78, 78)).save(folder / f"{seed}_crop.png")


def test_planted_duplicates_are_found(tmp_path):
    plant(tmp_path / "images", 60)
    run = make_run(tmp_path / "run", tmp_path / "images")
    images = duplicates.training_images(run_images.open_images(run), run)
    found = duplicates.find_duplicates(images, 0.98)
    origins = np.array(
        [
            str(name).replace(".", "_").split("_")[0]
            for name in images.bank.names
        ]
    )
    same = np.triu(origins[:, None] == origins, 1)
    planted = {tuple(pair) for pair in np.argwhere(same).tolist()}
    assert len(planted) == 12 * 10
    pairs = as_set(near_pairs.pairs_above(images.bank.rows, 0.98))
    assert len(pairs & planted) / len(planted) >= 0.99, "recall"
    assert len(pairs & planted) / len(pairs) >= 0.9, "precision"
    assert found.num_pairs == len(pairs)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("duplicates")
    fill_folder(root / "images", NASTY_NAMES)
    return make_run(root / "run", root / "images")


def test_images_of_a_test_folder_that_were_trained_on(run, tmp_path):
    save_picture(tmp_path / "test", "leak <b>.png", picture(3))
    save_picture(tmp_path / "test", "new.png", picture(99))
    train = run.read_flags()["images"]
    result = command(
        "duplicates",
        f"--run_dir={run.path}",
        f"--folders={train},{tmp_path / 'test'}",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "duplicates.tsv", encoding="utf-8") as file:
        lines = list(
            csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        )
    assert [(line["place"], line["name"]) for line in lines] == [
        (train, NASTY_NAMES[3]),
        (str(tmp_path / "test"), "leak <b>.png"),
    ]
    page = (tmp_path / "duplicates.html").read_text("utf-8")
    assert "leak &lt;b&gt;.png" in page
    assert "leak <b>" not in page
    assert page.count("<img") == 2


def test_a_collapsed_bank_says_that_there_is_more(run):
    images = run_images.open_images(run)
    bank = images.bank
    equal = bank.__class__(
        np.tile(bank.rows[:1], (len(bank.rows), 1)),
        bank.instance_ids,
        bank.names,
        bank.labels,
        bank.class_names,
    )
    collection = duplicates.Collection(
        equal, run_images.RunImages(equal, images.flags), "run"
    )
    found = duplicates.find_duplicates(collection, 0.98, max_pairs=5)
    assert "there are more" in duplicate_page.summary(found, 0.98)
    page = duplicate_page.duplicates_page(found, 0.98, "run", 16)
    assert page.count("<img") == len(found.groups[0])
