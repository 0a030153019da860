"""Search of a bank in partitions, against NumPy."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests import commands, exported, finished_run
from tf_instdisc.runs.bank import Bank, quantize
from tf_instdisc.serving import partitions, saved_model
from tf_instdisc.serving.bank_index import BankIndex, read_bank
from tf_instdisc.serving.options import ExportOptions
from tf_instdisc.serving.partitioned_index import (
    PartitionedIndex,
    build_index,
)
from tf_instdisc.serving.partitions import Partitions, Probes

pytestmark = pytest.mark.slow

DIM = 16
NUM_GROUPS = 40


def _unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _grouped(number, seed=0):
    """Unit rows around a few dozen directions, as those of an encoder."""
    centers = np.random.default_rng(7).normal(size=[NUM_GROUPS, DIM])
    rng = np.random.default_rng(seed)
    rows = centers[rng.integers(0, NUM_GROUPS, number)]
    return _unit(rows + rng.normal(size=rows.shape))


def _bank(rows, labels=None):
    size = len(rows)
    return Bank(
        rows=rows,
        instance_ids=np.arange(size) * 10,
        names=np.array([f"é{i}.png" for i in range(size)]),
        labels=np.arange(size) % 2 if labels is None else np.asarray(labels),
        class_names=("a", "b"),
    )


def _index(bank, number, probes, dtype="float32"):
    found = partitions.cluster(bank.rows, number)
    probes = Probes(min(probes, len(found.centroids)), 10, 1.0)
    return PartitionedIndex(bank, dtype, found, probes, probes)


def _search(index, queries, number, labeled=False):
    """Scores and instance ids, as a graph returns them."""

    @tf.function(input_signature=[tf.TensorSpec([None, DIM], tf.float32)])
    def search(queries):
        return index.search(queries, number, labeled)

    scores, positions = search(queries)
    return scores.numpy(), index.instance_ids.numpy()[positions.numpy()]


def _exhaustive(queries, rows, ids, number):
    similarities = queries @ rows.T
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :number]
    return np.take_along_axis(similarities, best, axis=1), ids[best]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("labeled", [False, True])
def test_all_partitions_together_are_an_exhaustive_search(dtype, labeled):
    rows, queries = _grouped(700), _grouped(33, seed=1)
    labels = np.random.default_rng(2).integers(-1, 2, len(rows))
    bank = _bank(rows, labels)
    index = _index(bank, 20, probes=20, dtype=dtype)
    scores, ids = _search(index, queries, 12, labeled)
    levels, scales = quantize(rows, dtype)
    kept = levels.astype(np.float32)
    kept = kept if scales is None else kept * scales[:, None]
    chosen = labels >= 0 if labeled else slice(None)
    expected = _exhaustive(queries, kept[chosen], bank.instance_ids[chosen], 12)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_allclose(scores, expected[0], atol=1e-5)


def test_a_search_returns_the_best_rows_of_the_nearest_partitions():
    # Two partitions of two rows each, and a query between them.
    rows = _unit([[1, 0.1], [1, 0.9], [0.1, 1], [0.7, 1]])
    found = Partitions(np.eye(2, dtype=np.float32), np.array([0, 0, 1, 1]))
    one, two = Probes(1, 2, 1.0), Probes(2, 2, 1.0)
    query = tf.constant(_unit([[1, 0.95]]))
    for probes, expected in ((one, [1, 0]), (two, [1, 3])):
        index = PartitionedIndex(_bank(rows), "float32", found, probes, probes)
        _, positions = index.search(query, 2)
        assert positions.numpy().tolist() == [expected]


@pytest.mark.parametrize("labeled", [False, True])
def test_there_are_as_many_neighbors_as_requested(labeled):
    rows, queries = _grouped(200), _grouped(5, seed=1)
    labels = np.where(np.arange(200) % 3, -1, 0)
    index = _index(_bank(rows, labels), 50, probes=1)
    ids = index.instance_ids.numpy()
    for number in (1, 30, 66, 500):
        scores, found = _search(index, queries, number, labeled)
        most = 67 if labeled else 200
        assert found.shape == (5, min(number, most))
        assert all(len(set(line)) == len(line) for line in found)
        assert (np.diff(scores, axis=1) <= 0).all()
        assert set(found.ravel()) <= set(ids)
        if labeled:
            assert not (found // 10 % 3).any()


@pytest.mark.parametrize(
    ("size", "number", "most"), [(3, 8, 3), (1, 5, 1), (60, 32, 5)]
)
def test_empty_partitions_are_dropped(size, number, most):
    rows = _grouped(5)[np.arange(size) % 5]
    bank = _bank(rows)
    index = build_index(bank, min(number, size))
    assert index.num_partitions <= most
    scores, ids = _search(index, rows[:5], 1)
    np.testing.assert_allclose(scores, 1, atol=1e-6)
    np.testing.assert_array_equal(bank.rows[ids[:, 0] // 10], rows[:5])


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_the_recall_reaches_the_target(target):
    rows, queries = _grouped(4000), _grouped(400, seed=1)
    bank = _bank(rows)
    index = build_index(
        bank, 64, target_recall=target, num_neighbors=10, num_votes=50
    )
    for number, labeled, probes in (
        (10, False, index.probes),
        (50, True, index.labeled_probes),
    ):
        assert probes.recall >= target
        assert probes.num_neighbors == number
        # On other queries than its own sample too, without reading everything.
        assert probes.number < 64
        _, found = _search(index, queries, number, labeled)
        _, exact = _exhaustive(queries, rows, bank.instance_ids, number)
        hits = [
            len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)
        ]
        assert np.mean(hits) / number >= target - 0.03


def test_few_rows_are_not_divided_unless_requested():
    assert partitions.number_of_partitions("auto", 99_999) == 0
    assert partitions.number_of_partitions("auto", 1_000_000) == 2048
    assert partitions.number_of_partitions("none", 10**9) == 0
    assert partitions.number_of_partitions("7", 4) == 4
    index = build_index(_bank(_grouped(50)), 0)
    assert type(index) is BankIndex


@pytest.mark.parametrize("value", ["0", "-3", "many", "1.5", ""])
def test_another_number_of_partitions_is_refused(value):
    with pytest.raises(ValueError, match=f"Received: partitions={value!r}"):
        ExportOptions(partitions=value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("partitions")
    names = [f"{kind}/{i}.png" for kind in ("cats", "dogs") for i in range(30)]
    finished_run.fill_folder(place / "images", names)
    return finished_run.make_run(place / "run", place / "images")


@pytest.mark.exhaustive
def test_an_exported_model_searches_its_partitions(run, tmp_path):
    options = ExportOptions(
        partitions="6",
        target_recall=0.9,
        bank_dtype="int8",
        batch_sizes=(3,),
    )
    version = saved_model.export_run(run, str(tmp_path / "m"), options)
    card = (version / "model_card.md").read_text()
    assert re.search(r"in 6 partitions, .* (\d) \(recall@10 0.9\d\d\)", card)
    model = tf.saved_model.load(str(version))
    images = np.stack([finished_run.picture(seed, 16) for seed in range(5)])
    images = tf.constant(images)
    queries = model.signatures["serving_default"](images=images)["embedding"]
    found = model.signatures["neighbors"](images=images)
    bank = run.load_bank()
    _, exact = _exhaustive(
        queries.numpy(), bank.rows, bank.instance_ids, number=10
    )
    ids = found["instance_ids"].numpy()
    hits = [len(np.intersect1d(a, b)) for a, b in zip(ids, exact, strict=True)]
    assert np.mean(hits) >= 8
    files = [*map(exported.encode, images.numpy()), b"no image"]
    votes = model.signatures["classify_bytes"](image_bytes=tf.constant(files))
    sums = votes["scores"].numpy().sum(axis=1)
    np.testing.assert_allclose(sums, [1] * 5 + [0], atol=1e-5)
    read = read_bank(model)
    np.testing.assert_array_equal(read.instance_ids, bank.instance_ids)
    np.testing.assert_array_equal(read.names, bank.names)
    np.testing.assert_allclose(read.rows, bank.rows, atol=0.01)


def test_without_faiss_the_extra_is_named(run, tmp_path):
    (result,) = commands.run_all(
        [
            {
                "command": "export",
                "arguments": [
                    f"--run_dir={run.path}",
                    f"--export_dir={tmp_path / 'm'}",
                    "--partitions=8",
                ],
                "absent": ["faiss"],
            }
        ]
    )
    assert result.returncode == 2
    assert "tf_instdisc[index]" in result.stderr
