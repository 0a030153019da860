"""The memory bank against loops, on one device and on two replicas."""

import math
import os
import pathlib
import subprocess
import sys

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


def updated(rows, ids, new, valid, momentum):
    """The rows after an update, one example at a time."""
    last = {}
    for i, v, is_valid in zip(ids, new, valid, strict=True):
        if is_valid:
            last[i] = v
    rows = rows.astype(np.float64)
    for i, v in last.items():
        rows[i] = unit(momentum * rows[i] + (1 - momentum) * v)
    return rows


def update(bank, ids, new, valid=None):
    valid = np.ones(len(ids), bool) if valid is None else valid
    bank.update(
        tf.constant(ids, tf.int64, [len(ids)]),
        tf.constant(new, tf.float32, [len(ids), DIM]),
        tf.constant(valid, tf.bool, [len(ids)]),
    )


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
        # 30 ids of 20: many stand in the batch more than once.
        ids, valid = rng.integers(N, size=30), rng.random(30) < 0.5
        new = embeddings(30, seed)
        before = bank.rows.numpy()
        step(tf.constant(ids), tf.constant(new), tf.constant(valid))
        expected = updated(expected, ids, new, valid, momentum)
        # float32 against float64, three steps: some roundings of 6e-8.
        np.testing.assert_allclose(bank.rows, expected, rtol=0, atol=1e-6)
        untouched = np.setdiff1d(np.arange(N), ids[valid])
        assert untouched.size
        np.testing.assert_array_equal(
            bank.rows.numpy()[untouched], before[untouched]
        )
    np.testing.assert_allclose(np.linalg.norm(bank.rows, axis=1), 1, rtol=1e-6)


def test_last_valid_embedding_of_a_repeated_id_wins():
    bank = memory_bank.MemoryBank(N, DIM, momentum=0.0)
    new = embeddings(4)
    update(bank, [7, 7, 3, 7], new, [True, True, True, False])
    np.testing.assert_allclose(bank.rows[7], new[1], rtol=1e-6)
    np.testing.assert_allclose(bank.rows[3], new[2], rtol=1e-6)


def test_invalid_examples_do_not_touch_row_zero():
    # The model maps the id of an unreadable image to 0, and marks it invalid;
    # its embedding may be anything.
    bank = memory_bank.MemoryBank(N, DIM)
    before = bank.rows.numpy()
    update(bank, [0, 0], np.full([2, DIM], np.nan), [False, False])
    np.testing.assert_array_equal(bank.rows, before)


# === Normalizer ===


def normalizer_steps(estimates, **options):
    bank = memory_bank.MemoryBank(N, DIM, **options)
    used = [float(bank.update_normalizer(tf.constant(e))) for e in estimates]
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
    bank, used = normalizer_steps([5.0, 7.0, 110.0], normalizer="first_batch")
    assert used == [5, 5, 5]
    assert float(bank.log_normalizer) == 5


@pytest.mark.parametrize("normalizer", ("ema", "first_batch"))
@pytest.mark.parametrize("bad", (math.nan, -math.inf, math.inf))
def test_no_estimate_leaves_the_normalizer_alone(normalizer, bad):
    bank, used = normalizer_steps([5.0, bad], normalizer=normalizer)
    assert used == [5, 5]
    # Before the first estimate the loss must be finite, and the next estimate
    # must count as the first.
    bank, used = normalizer_steps([bad, 7.0], normalizer=normalizer)
    assert math.isfinite(used[0])
    assert used[1] == 7
    assert float(bank.log_normalizer) == 7


@pytest.mark.parametrize("steps", (0, 3))
def test_checkpoint_restores_bit_for_bit(tmp_path, steps):
    bank = memory_bank.MemoryBank(N, DIM)
    for seed in range(steps):
        update(bank, [1, 2, 1], embeddings(3, seed))
        bank.update_normalizer(tf.constant(3.0 + seed / 7))
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
        ([1, 2, 3, 4, 5], [6]),
        ([1, 2, 3], []),
        ([], [4, 5, 6]),
        ([7, 8, 7], [9, 7, 2]),
    ),
    ids=("even", "uneven", "second empty", "first empty", "repeated"),
)
@pytest.mark.parametrize("last_is_valid", (True, False))
def test_replicas_stay_equal_to_one_device(two_replicas, parts, last_is_valid):
    strategy = two_replicas
    with strategy.scope():
        bank = memory_bank.MemoryBank(N, DIM)
    single = memory_bank.MemoryBank(N, DIM)
    before = single.rows.numpy()

    ids = np.concatenate(parts).astype(np.int64)
    valid = np.ones(len(ids), bool)
    valid[-1] = last_is_valid
    sizes = [len(part) for part in parts]

    @tf.function
    def step(ids, new, valid):
        strategy.run(bank.update, (ids, new, valid))

    for seed in range(2):
        new = embeddings(len(ids), seed)
        columns = [
            np.split(x, [sizes[0]]) for x in (ids, new, valid)
        ]  # of [column][replica]
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
        update(single, ids, new, valid)

    copies = [
        copy.numpy() for copy in strategy.experimental_local_results(bank.rows)
    ]
    assert len(copies) == 2
    assert copies[0].tobytes() == copies[1].tobytes()
    assert copies[0].tobytes() == single.rows.numpy().tobytes()
    changed = np.flatnonzero((copies[0] != before).any(axis=1))
    assert changed.tolist() == sorted(set(ids[valid].tolist()))


def test_normalizer_is_one_for_both_replicas(two_replicas):
    strategy = two_replicas
    with strategy.scope():
        bank = memory_bank.MemoryBank(N, DIM)
    single = memory_bank.MemoryBank(N, DIM)

    @tf.function
    def step(estimate):
        return strategy.run(bank.update_normalizer, (estimate,))

    for estimate in (3.0, 110.0, -math.inf, 4.0):
        used = strategy.experimental_local_results(step(tf.constant(estimate)))
        expected = single.update_normalizer(tf.constant(estimate)).numpy()
        assert [x.numpy() for x in used] == [expected, expected]
    copies = strategy.experimental_local_results(bank.log_normalizer)
    assert [c.numpy() for c in copies] == [single.log_normalizer.numpy()] * 2


def test_batch_without_a_valid_example_leaves_both_replicas_alone():
    # In a process of its own, as it may take its process with it.
    code = """if True:
        import conftest
        import numpy as np
        import tensorflow as tf
        from tf_instdisc.method import memory_bank

        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            bank = memory_bank.MemoryBank(20, 8)
        before = strategy.experimental_local_results(bank.rows)[0].numpy()

        @tf.function
        def step(*args):
            strategy.run(bank.update, args)

        ids, new = tf.constant([0, 0], tf.int64), tf.ones([2, 8])
        step(
            *(
                strategy.experimental_distribute_values_from_function(
                    lambda _, value=value: tf.identity(value)
                )
                for value in (ids, new, tf.constant([False, False]))
            )
        )
        for copy in strategy.experimental_local_results(bank.rows):
            np.testing.assert_array_equal(copy, before)
    """
    tests = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent)])
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
    )
