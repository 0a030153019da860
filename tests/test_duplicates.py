"""Near-duplicates: the exact search, planted duplicates, the command."""

import csv
import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests import commands
from tests.finished_run import (
    NASTY_NAMES,
    fill_folder,
    linear_encoder,
    make_run,
    picture,
    save_picture,
)
from tf_instdisc.config import AugmentationConfig, DataConfig, RunConfig
from tf_instdisc.retrieval import (
    duplicate_lines,
    duplicates,
    local_scale,
    near_pairs,
    pair_groups,
)
from tf_instdisc.retrieval.pages import duplicate_page
from tf_instdisc.runs import images as run_images
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.encoding import encode_folder

pytestmark = pytest.mark.slow


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


def pairs_above(rows, threshold, split=None, **options):
    radii = np.full(len(rows), np.sqrt(2 * (1 - threshold) + 1e-5))
    return near_pairs.pairs_within(rows, radii, split, **options)


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
    found = pairs_above(rows, threshold)
    assert found.is_complete
    assert as_set(found) == {(int(i), int(j)) for i, j in expected}
    np.testing.assert_allclose(
        found.scores, cosines[found.first, found.second], atol=1e-6
    )
    others = np.concatenate(
        [unit_rows(np.random.default_rng(1), 60, dim), rows[:30]]
    )
    found = pairs_above(np.concatenate([rows, others]), threshold, len(rows))
    expected = np.argwhere(rows @ others.T >= threshold).tolist()
    assert as_set(found) == {(i, len(rows) + j) for i, j in expected}


def test_equal_rows_stop_the_search_at_its_limit():
    rows = np.tile(unit_rows(np.random.default_rng(0), 1, 16), (3000, 1))
    found = pairs_above(rows, 0.98, max_pairs=500)
    assert not found.is_complete
    assert len(found.first) == 500


def test_rows_need_not_have_exactly_unit_length():
    rows = crowded_rows(0, 300, 24).astype(np.float16).astype(np.float32)
    radii = np.full(len(rows), 0.2)
    # The distance of this pair is the radius, up to its rounding.
    close = np.linalg.norm(rows[:, None] - rows, axis=-1)
    radii[:] = np.sort(close[np.triu_indices(len(rows), 1)])[40] + 1e-6
    found = near_pairs.pairs_within(rows, radii)
    expected = np.argwhere(np.triu(close <= radii[0], 1)).tolist()
    assert as_set(found) == {tuple(pair) for pair in expected}


@pytest.mark.parametrize("dim", [3, 8, 40])
def test_every_row_has_a_radius_of_its_own(monkeypatch, dim):
    monkeypatch.setattr(near_pairs, "_BLOCK", 50)
    monkeypatch.setattr(near_pairs, "_OTHER_BLOCK", 70)
    rows = np.concatenate([crowded_rows(0, 200, dim), crowded_rows(1, 90, dim)])
    radii = np.random.default_rng(2).random(len(rows))
    for split in (None, 266, 0, len(rows)):
        found = near_pairs.pairs_within(rows, radii, split)
        expected = set()
        for i, row in enumerate(rows[:split]):
            for j in range(i + 1 if split is None else split, len(rows)):
                limit = min(radii[i], radii[j])
                if np.linalg.norm(row - rows[j]) <= limit:
                    expected.add((i, j))
        assert as_set(found) == expected
        assert len(found.first) == len(expected)


def groups_of(ends, scores, is_of_second=None):
    first, second = np.array(ends, np.int64).reshape([-1, 2]).T
    return pair_groups.groups(first, second, np.array(scores), is_of_second)


def test_a_chain_is_not_a_group():
    groups = groups_of([(0, 1), (1, 2), (2, 3)], [0.9, 0.8, 0.99])
    # 2-3 comes first, then 0-1; 1-2 joins neither.
    assert groups.tolist() == [1, 2, 0]


def test_all_pairs_of_some_rows_are_a_group():
    ends = [(0, 1), (0, 2), (1, 2), (5, 7)]
    groups = groups_of(ends, [0.5, 0.7, 0.6, 0.9])
    assert groups.tolist() == [1, 1, 1, 0]
    assert groups_of([], []).tolist() == []


def test_rows_of_two_sides_are_a_group_without_pairs_of_one_side():
    ends = [(0, 5), (1, 5), (0, 6), (1, 6), (2, 6)]
    groups = groups_of(ends, np.linspace(1, 0.5, 5), SIDES)
    assert groups.tolist() == [0, 0, 0, 0, 1]


SIDES = np.arange(8) >= 4


@pytest.mark.parametrize("density", [0.05, 0.4, 0.9])
def test_each_pair_is_in_one_group_and_all_pairs_of_a_group_are_there(density):
    rng = np.random.default_rng(0)
    first, second = np.nonzero(np.triu(rng.random([30, 30]) < density, 1))
    scores = rng.random(len(first))
    groups = pair_groups.groups(first, second, scores)
    best = []
    for group in range(groups.max() + 1):
        chosen = groups == group
        members = np.unique([first[chosen], second[chosen]])
        assert chosen.sum() == len(members) * (len(members) - 1) // 2
        best.append(scores[chosen].max())
    assert best == sorted(best, reverse=True)


def test_thresholds_out_of_range_are_refused(tmp_path):
    collection = bare_collection(np.eye(2, dtype=np.float32), tmp_path)
    for threshold in (0, 1.5):
        with pytest.raises(ValueError, match=f"threshold={threshold}$"):
            duplicates.find_duplicates(collection, threshold)


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


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Images with planted copies, rows of an encoder, groups of copies."""
    root = tmp_path_factory.mktemp("planted")
    plant(root / "images", 60)
    run = make_run(root / "run", root / "images")
    images = run_images.open_images(run)
    collection = duplicates.training_images(images, run)
    origins = np.array(
        [
            str(name).replace(".", "_").split("_")[0]
            for name in collection.bank.names
        ]
    )
    same = np.triu(origins[:, None] == origins, 1)
    expected = {tuple(pair) for pair in np.argwhere(same).tolist()}
    assert len(expected) == 12 * 10
    return collection, expected


def with_rows(collection, rows):
    bank = dataclasses.replace(collection.bank, rows=rows)
    return dataclasses.replace(collection, bank=bank)


@pytest.mark.exhaustive_variants("0")
@pytest.mark.parametrize("in_common", [0, 3, 30])
def test_planted_duplicates_are_found_by_default(planted, in_common):
    collection, expected = planted
    # A component that all rows share, as with a hardly trained encoder.
    rows = collection.bank.rows + in_common * np.eye(32, dtype=np.float32)[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if in_common:
        assert (rows @ rows.T).min() > 0.5
    found = duplicates.find_duplicates(with_rows(collection, rows))
    pairs = as_set(found.pairs)
    assert len(pairs & expected) / len(expected) >= 0.9, "recall"
    assert len(pairs & expected) / len(pairs) >= 0.95, "precision"
    assert max(len(group) for group in found.groups) <= 6
    in_groups = [{m.position for m in group} for group in found.groups]
    assert all(any({i, j} <= group for group in in_groups) for i, j in pairs)
    assert found.pairs.scores.tolist() == sorted(
        found.pairs.scores.tolist(), reverse=True
    )


def test_different_images_of_a_collapsed_encoder_form_no_group(planted):
    collection, expected = planted
    rng = np.random.default_rng(0)
    rows = np.ones([len(collection.bank.rows), 32]) + rng.normal(size=32) / 1e3
    rows += rng.normal(size=rows.shape) / 1e4
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    found = duplicates.find_duplicates(with_rows(collection, rows))
    assert as_set(found.pairs) <= expected
    chained = duplicates.find_duplicates(with_rows(collection, rows), 0.95)
    assert len(chained.groups[0]) == len(rows)


def test_a_threshold_takes_cosines_and_nothing_else(planted):
    collection, _ = planted
    found = duplicates.find_duplicates(collection, 0.98)
    assert as_set(found.pairs) == as_set(
        pairs_above(collection.bank.rows, 0.98)
    )
    assert found.least_similarity is None
    np.testing.assert_array_equal(found.pairs.scores, found.pairs.cosines)


def test_altered_copies_show_what_the_encoder_can_find(planted):
    collection, _ = planted
    config = dataclasses.replace(
        collection.config, augmentation=AugmentationConfig(flip=True)
    )
    flipping = dataclasses.replace(collection, config=config)
    radii = duplicates.find_duplicates(collection).radii
    fraction = duplicates.fraction_of_copies_found(
        flipping, linear_encoder(), radii
    )
    assert fraction > 0.9

    class Blind:
        def predict_on_batch(self, images):
            return unit_rows(np.random.default_rng(0), len(images), 32)

    fraction = duplicates.fraction_of_copies_found(collection, Blind(), radii)
    assert fraction < 0.1


def test_rows_alone_find_certain_near_duplicates(tmp_path):
    rng = np.random.default_rng(0)
    rows = unit_rows(rng, 3000, 6)
    copies = rows[:40] + rng.normal(size=[40, 6]).astype(np.float32) / 1000
    copies /= np.linalg.norm(copies, axis=1, keepdims=True)
    found = duplicates.find_duplicates(
        bare_collection(np.concatenate([rows, copies]), tmp_path)
    )
    pairs = as_set(found.pairs)
    planted = {(i, 3000 + i) for i in range(40)}
    assert len(pairs & planted) >= 38
    assert len(pairs & planted) / len(pairs) >= 0.9
    assert found.least_similarity is None
    assert "embeddings alone" in duplicate_lines.summary(found)
    none = duplicates.find_duplicates(bare_collection(rows, tmp_path))
    assert len(none.pairs) <= 2


def test_a_large_group_of_copies_is_found(tmp_path):
    rng = np.random.default_rng(0)
    rows = unit_rows(rng, 500, 8)
    rows[:30] = rows[0] + rng.normal(size=[30, 8]) / 1e4
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = duplicates.find_duplicates(bare_collection(rows, tmp_path))
    assert {m.position for m in found.groups[0]} == set(range(30))


@pytest.mark.exhaustive_variants("1", "3", "4", "5")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_handful_of_images(tmp_path, count):
    for number in range(count):
        save_picture(tmp_path, f"{number}.png", picture(min(number, 3)))
    folder = str(tmp_path)
    config = RunConfig(DataConfig(images=folder, image_size=16))
    images = encode_folder(folder, config, linear_encoder())
    found = duplicates.find_duplicates(images)
    assert as_set(found.pairs) == ({(3, 4)} if count == 5 else set())


def bare_collection(rows, folder):
    """Rows without pictures."""
    names = np.array([f"{i}.png" for i in range(len(rows))])
    bank = Bank(rows, np.arange(len(rows)), names, np.full(len(rows), -1))
    config = RunConfig(DataConfig(images=str(folder), image_size=8))
    return run_images.RunImages(bank, config, title="x")


def test_the_local_scale_equals_loops():
    rows = crowded_rows(3, 60, 5)
    scale = local_scale.local_scale(rows)
    kth, ratios = [], []
    for i, row in enumerate(rows):
        distances = sorted(
            np.linalg.norm(row - other)
            for j, other in enumerate(rows)
            if j != i
        )
        kth.append(distances[19])
        ratios.append(np.log(distances[19] / distances[5]))
    kth = np.maximum(kth, np.quantile(kth, 0.1))
    dimension = np.log(20 / 6) / np.median(ratios)
    np.testing.assert_allclose(scale.distances, kth, rtol=1e-4)
    assert scale.count == 20
    assert scale.dimension == pytest.approx(dimension, rel=1e-3)
    first, second = np.triu_indices(len(rows), 1)
    closer = scale.expected_closer(
        first, second, (rows @ rows.T)[first, second]
    )
    for i, j, found in zip(first, second, closer, strict=True):
        distance = np.linalg.norm(rows[i] - rows[j])
        expected = 20 * (distance / min(kth[i], kth[j])) ** dimension
        assert found == pytest.approx(expected, rel=0.02, abs=1e-3)
    # So many are expected within the radius.
    np.testing.assert_allclose(
        20 * (scale.radii(2) / kth) ** dimension, 2, rtol=1e-3
    )


def test_a_sample_of_references_gives_the_scale_of_all(monkeypatch):
    rows = unit_rows(np.random.default_rng(0), 4000, 5)
    whole = local_scale.local_scale(rows)
    monkeypatch.setattr(local_scale, "_NUM_REFERENCES", 400)
    part = local_scale.local_scale(rows)
    assert part.count == 10 * whole.count
    assert part.dimension == pytest.approx(whole.dimension, rel=0.1)
    ratio = np.median(part.radii(2) / whole.radii(2))
    assert ratio == pytest.approx(1, rel=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("duplicates")
    fill_folder(root / "images", NASTY_NAMES)
    return make_run(root / "run", root / "images")


@pytest.mark.exhaustive
def test_images_of_a_test_folder_that_were_trained_on(run, tmp_path):
    save_picture(tmp_path / "test", "leak <b>.png", picture(3))
    save_picture(tmp_path / "test", "new.png", picture(99))
    train = run.read_config().data.images
    result = commands.run(
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


def test_a_collapsed_bank_reports_that_there_are_more_pairs(run):
    images = run_images.open_images(run)
    bank = images.bank
    equal = bank.__class__(
        np.tile(bank.rows[:1], (len(bank.rows), 1)),
        bank.instance_ids,
        bank.names,
        bank.labels,
        bank.class_names,
    )
    collection = dataclasses.replace(images, bank=equal, title="run")
    found = duplicates.find_duplicates(collection, 0.98, max_pairs=5)
    assert duplicate_lines.summary(found).endswith(
        "or raise its `--threshold`."
    )
    by_itself = dataclasses.replace(found, threshold=None)
    assert duplicate_lines.summary(by_itself).endswith(
        "so pairs may be missing. Raise `--max_pairs` of instdisc-duplicates, "
        "or set its `--threshold`."
    )
    page = duplicate_page.duplicates_page(found, "run")
    assert page.count("<img") == sum(map(len, found.groups))
