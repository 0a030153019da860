"""The memory bank against loops, on one device and on two replicas."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_instdisc.method import memory_bank

N, DIM = 20, 8


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embeddings(batch, seed=0):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(batch, DIM))).astype(np.float32)


def updated(rows, ids, new, momentum):
    """The rows after an update, one example at a time."""
    last = dict(zip(ids, new, strict=True))
    rows = rows.astype(np.float64)
    for i, v in last.items():
        rows[i] = unit(momentum * rows[i] + (1 - momentum) * v)
    return rows


def update(bank, ids, new):
    bank.update(tf.constant(ids, tf.int64), tf.constant(new, tf.float32))


# === Rows ===


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_rows_are_random_and_of_unit_length_from_the_start(dtype):
    rows = [
        memory_bank.MemoryBank(1000, 128, seed=seed, dtype=dtype).rows.numpy()
        for seed in (0, 0, 1)
    ]
    assert rows[0].shape == (1000, 128)
    assert rows[0].dtype == dtype
    np.testing.assert_allclose(np.linalg.norm(rows[0], axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.isclose(rows[0], rows[2]).all(axis=1).any()
    # Uniform on the sphere: the mean of 1000 rows is of length 1000**-0.5,
    # and no two rows are near each other.
    assert np.linalg.norm(rows[0].mean(axis=0)) < 2 * 1000**-0.5
    assert np.max(np.abs(rows[0] @ rows[0].T - np.eye(1000))) < 0.6


def test_lookup_gives_rows_in_the_shape_of_the_ids():
    bank = memory_bank.MemoryBank(N, DIM)
    rows = bank.rows.numpy()
    for ids in (np.array([3, 0, 19, 3]), np.array([[1, 2, 1], [19, 0, 5]])):
        found = bank.lookup(tf.constant(ids))
        assert found.shape == (*ids.shape, DIM)
        np.testing.assert_array_equal(found, rows[ids])


@pytest.mark.parametrize("momentum", (0.0, 0.5, 0.99))
@pytest.mark.parametrize("in_graph", (False, True))
def test_update_equals_loop(momentum, in_graph):
    bank = memory_bank.MemoryBank(N, DIM, momentum=momentum)
    expected = bank.rows.numpy()
    step = tf.function(bank.update) if in_graph else bank.update
    for seed in range(3):
        rng = np.random.default_rng(seed)
        # 15 of 20 ids: some occur more than once in the batch.
        ids = rng.integers(N, size=15)
        assert len(np.unique(ids)) < 15
        new = embeddings(15, seed)
        before = bank.rows.numpy()
        step(tf.constant(ids), tf.constant(new))
        expected = updated(expected, ids, new, momentum)
        # float32 against float64, three steps: some roundings of 6e-8.
        np.testing.assert_allclose(bank.rows, expected, rtol=0, atol=1e-6)
        untouched = np.setdiff1d(np.arange(N), ids)
        assert untouched.size
        np.testing.assert_array_equal(
            bank.rows.numpy()[untouched], before[untouched]
        )
    np.testing.assert_allclose(np.linalg.norm(bank.rows, axis=1), 1, rtol=1e-6)


def test_last_embedding_of_a_repeated_id_wins():
    bank = memory_bank.MemoryBank(N, DIM, momentum=0.0)
    new = embeddings(5)
    update(bank, [7, 7, 3, 7, 0], new)
    np.testing.assert_allclose(bank.rows[7], new[3], rtol=1e-6)
    np.testing.assert_allclose(bank.rows[3], new[2], rtol=1e-6)
    np.testing.assert_allclose(bank.rows[0], new[4], rtol=1e-6)


# === Normalizer ===


def normalizer_steps(estimates, **options):
    bank = memory_bank.MemoryBank(N, DIM, **options)
    used = [
        float(bank.update_log_z(tf.constant(e), training=True))
        for e in estimates
    ]
    return bank, used


@pytest.mark.parametrize("momentum", (0.0, 0.5, 0.99))
# Around log n; at temperature 0.01, where Z overflows float32; below 1.
@pytest.mark.parametrize("level", (3.0, 110.0, -100.0))
def test_moving_average_equals_loop(momentum, level):
    rng = np.random.default_rng(0)
    estimates = (level + 5 * rng.normal(size=20)).astype(np.float32)
    bank, used = normalizer_steps(estimates, normalizer_momentum=momentum)
    # In linear space: exp(125) is no trouble for float64.
    z = None
    for estimate, log_z in zip(estimates.tolist(), used, strict=True):
        new = math.exp(estimate)
        z = new if z is None else momentum * z + (1 - momentum) * new
        # Each step rounds log Z to float32.
        assert log_z == pytest.approx(math.log(z), rel=0, abs=2e-6 * abs(level))
    assert float(bank.log_normalizer) == used[-1]


def test_first_batch_freezes_the_normalizer():
    bank, used = normalizer_steps([5.0, 7.0, 110.0], normalizer_momentum=1.0)
    assert used == [5, 5, 5]
    assert float(bank.log_normalizer) == 5


@pytest.mark.parametrize("momentum", (0.99, 1.0))
@pytest.mark.parametrize("bad", (math.nan, -math.inf, math.inf))
def test_an_estimate_that_is_not_finite_changes_nothing(momentum, bad):
    bank, used = normalizer_steps([5.0, bad], normalizer_momentum=momentum)
    assert used == [5, 5]
    # The next estimate counts as the first.
    bank, used = normalizer_steps([bad, 7.0], normalizer_momentum=momentum)
    assert used[1] == 7
    assert float(bank.log_normalizer) == 7


@pytest.mark.parametrize("known", (math.nan, 5.0))
def test_evaluation_changes_nothing(known):
    bank = memory_bank.MemoryBank(N, DIM)
    bank.log_normalizer.assign(known)
    used = float(bank.update_log_z(tf.constant(7.0), training=False))
    assert used == (7 if math.isnan(known) else 5)
    np.testing.assert_array_equal(bank.log_normalizer, known)


@pytest.mark.parametrize("steps", (0, 3))
def test_checkpoint_restores_bit_for_bit(tmp_path, steps):
    bank = memory_bank.MemoryBank(N, DIM)
    for seed in range(steps):
        update(bank, [1, 2, 1], embeddings(3, seed))
        bank.update_log_z(tf.constant(3.0 + seed / 7), training=True)
    path = tf.train.Checkpoint(bank=bank).write(str(tmp_path / "bank"))
    other = memory_bank.MemoryBank(N, DIM, seed=1)
    status = tf.train.Checkpoint(bank=other).read(path)
    status.assert_consumed()
    assert other.rows.numpy().tobytes() == bank.rows.numpy().tobytes()
    # Bytes: before the first estimate it is NaN.
    saved = bank.log_normalizer.numpy().tobytes()
    assert other.log_normalizer.numpy().tobytes() == saved


# === Two replicas ===


@pytest.mark.parametrize(
    "parts",
    (
        ([1, 2, 3], [4, 5, 6]),
        ([7], [7]),
        ([7, 8, 7], [9, 7, 2]),
    ),
    ids=("different", "the same", "repeated"),
)
def test_replicas_stay_equal_to_one_device(two_replicas, parts):
    strategy = two_replicas
    with strategy.scope():
        bank = memory_bank.MemoryBank(N, DIM)
    single = memory_bank.MemoryBank(N, DIM)
    before = single.rows.numpy()

    ids = np.concatenate(parts).astype(np.int64)

    @tf.function
    def step(ids, new):
        strategy.run(bank.update, (ids, new))

    for seed in range(2):
        new = embeddings(len(ids), seed)
        columns = [np.split(x, 2) for x in (ids, new)]  # [column][replica]
        step(
            *(
                strategy.experimental_distribute_values_from_function(
                    lambda c, column=column: tf.constant(
                        column[c.replica_id_in_sync_group]
                    )
                )
                for column in columns
            )
        )
        update(single, ids, new)

    copies = [
        copy.numpy() for copy in strategy.experimental_local_results(bank.rows)
    ]
    assert len(copies) == 2
    assert copies[0].tobytes() == copies[1].tobytes()
    assert copies[0].tobytes() == single.rows.numpy().tobytes()
    changed = np.flatnonzero((copies[0] != before).any(axis=1))
    assert changed.tolist() == sorted(set(ids.tolist()))


def test_normalizer_is_one_for_both_replicas(two_replicas):
    strategy = two_replicas
    with strategy.scope():
        bank = memory_bank.MemoryBank(N, DIM)
    single = memory_bank.MemoryBank(N, DIM)

    @tf.function
    def step(estimate):
        return strategy.run(bank.update_log_z, (estimate, True))

    for estimate in (3.0, 110.0, -math.inf, 4.0):
        used = strategy.experimental_local_results(step(tf.constant(estimate)))
        expected = single.update_log_z(tf.constant(estimate), True).numpy()
        assert [x.numpy() for x in used] == [expected, expected]
    copies = strategy.experimental_local_results(bank.log_normalizer)
    assert [c.numpy() for c in copies] == [single.log_normalizer.numpy()] * 2
