"""A bank divided among replicas against loops and the bank on each of them."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests.finished_run import training_rows
from tests.small_run import linear_encoder
from tests.test_memory_bank import embeddings, unit, updated
from tf_instdisc.method import sharded_bank
from tf_instdisc.method.memory_bank import MemoryBank
from tf_instdisc.runs import checkpoints
from tf_instdisc.training.strategy import mirrored_cpus

pytestmark = pytest.mark.slow

N, DIM, BATCH, M = 21, 8, 8, 5
TEMPERATURE = 0.07


@pytest.fixture(scope="module")
def strategies(two_replicas):
    four = mirrored_cpus([f"CPU:{i}" for i in range(4)])
    return {2: two_replicas, 4: four}


def bank_of(strategy, n=N, **arguments):
    with strategy.scope():
        return sharded_bank.bank_type("sharded")(n, DIM, **arguments)


def parts(strategy, value):
    """Divides a batch among the replicas."""
    divided = np.split(value, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(divided[context.replica_id_in_sync_group])
    )


def joined(strategy, value):
    return np.concatenate(strategy.experimental_local_results(value))


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.exhaustive_variants("4-*")
@pytest.mark.parametrize(
    ("replicas", "n", "absent_ids"),
    [
        (2, 21, ()),
        (4, 21, (0, 5, 6, 7, 20)),
        (4, 9, ()),  # Three rows each, and none for the last.
    ],
)
def test_a_step_equals_loops(strategies, replicas, n, absent_ids):
    strategy = strategies[replicas]
    bank = bank_of(strategy, n, absent_ids=absent_ids)
    rows = bank.rows.numpy()
    np.testing.assert_array_equal(rows, MemoryBank(n, DIM).rows)
    rng = np.random.default_rng(0)
    present = np.setdiff1d(np.arange(n), absent_ids)
    ids = rng.choice(present, BATCH)
    ids[-1] = ids[0]  # Of two replicas; the last one wins.
    v = embeddings(BATCH)
    shared = rng.choice(present, M)
    upstream = rng.normal(size=(BATCH, M)).astype(np.float32)

    @tf.function
    def step(*columns):
        def replica_step(ids, v, upstream):
            values = {"lookup": bank.lookup(ids)}
            for name, function, weights in (
                ("softmax", lambda: bank.log_sum_exp(v, TEMPERATURE), 0),
                (
                    "shared",
                    lambda: bank.negative_logits(v, shared, TEMPERATURE),
                    upstream,
                ),
            ):
                with tf.GradientTape() as tape:
                    tape.watch(v)
                    values[name] = function()
                    if name == "softmax":
                        weights = upstream[:, 0]
                    total = tf.reduce_sum(values[name] * weights)
                values[f"{name} gradient"] = tape.gradient(total, v)
            bank.update(ids, v)
            return values

        return strategy.run(replica_step, columns)

    found = step(*(parts(strategy, x) for x in (ids, v, upstream)))
    found = {name: joined(strategy, value) for name, value in found.items()}
    exact, wide = rows.astype(np.float64), v.astype(np.float64)
    logits = wide @ exact[present].T / TEMPERATURE
    negatives = exact[shared]
    expected = {
        "lookup": exact[ids],
        "softmax": np.log(np.exp(logits).sum(axis=1)),
        "softmax gradient": softmax(logits)
        @ exact[present]
        * upstream[:, :1]
        / TEMPERATURE,
        "shared": wide @ negatives.T / TEMPERATURE,
        "shared gradient": upstream @ negatives / TEMPERATURE,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-5, atol=1e-5, err_msg=name
        )
    np.testing.assert_allclose(
        bank.rows, updated(rows, ids, v, bank.momentum), atol=1e-6
    )


def fitted(strategy, bank_placement, **arguments):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = tf_instdisc.InstanceDiscrimination(
            linear_encoder(),
            N,
            num_negatives=M,
            temperature=0.3,
            bank_placement=bank_placement,
            proximal_weight=0.5,
            **arguments,
        )
        model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    # All batches are full, so that one graph is traced.
    images = np.random.default_rng(0).uniform(0, 255, (3 * BATCH, 2, 2, 3))
    ids = np.arange(3 * BATCH) % (N - 3)
    history = model.fit(
        images, ids, batch_size=BATCH, epochs=3, shuffle=False, verbose=0
    ).history
    return [history["loss"], *model.get_weights()]


@pytest.mark.exhaustive
@pytest.mark.parametrize("replicas", [4, 2])
@pytest.mark.parametrize("objective", ["softmax", "nce", "info_nce"])
def test_training_equals_a_bank_on_each_device(strategies, replicas, objective):
    one, other = (
        fitted(strategies[replicas], placement, objective=objective)
        for placement in ("device", "sharded")
    )
    assert len(one) == len(other)
    for expected, found in zip(one, other, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_replica_holds_its_part_of_the_rows(strategies, replicas, dtype):
    strategy = strategies[replicas]
    bank = bank_of(strategy, rows_dtype=dtype)
    size = {"float32": 4, "bfloat16": 2}[dtype]
    held = collections.Counter()
    for variable in bank.weights:
        for copy in strategy.experimental_local_results(variable.value):
            held[copy.device] += copy.numpy().nbytes
    assert len(held) == replicas
    log_normalizer = 4
    expected = -(-N // replicas) * DIM * size + log_normalizer
    assert set(held.values()) == {expected}


def test_rows_are_copied_in_blocks(strategies, monkeypatch):
    monkeypatch.setattr(sharded_bank, "_BLOCK", 4)
    bank = bank_of(strategies[4])
    rows = unit(np.random.default_rng(1).normal(size=(N, DIM)))
    rows = rows.astype(np.float32)
    bank.rows.assign(rows)
    np.testing.assert_array_equal(bank.rows, rows)
    with pytest.raises(ValueError, match="Received: value"):
        bank.rows.assign(rows[:-1])


def test_checkpoints_are_those_of_a_whole_bank(strategies, tmp_path):
    def model(replicas, placement, seed):
        strategy = strategies.get(replicas, tf.distribute.get_strategy())
        with strategy.scope():
            made = tf_instdisc.InstanceDiscrimination(
                linear_encoder(), N, bank_placement=placement, seed=seed
            )
            made.compile(optimizer="sgd")
        made.build_training_state()
        return made

    def save(saved):
        state = tf.train.Checkpoint(**saved.training_state())
        checkpoints.write(tmp_path, state, {}, keep=1)
        return checkpoints.find_newest(tmp_path)[0]

    first = model(4, "sharded", 1)
    rows = first.memory_bank.rows.numpy()
    saved = save(first)
    for replicas, placement in ((1, "device"), (2, "sharded"), (4, "sharded")):
        read = training_rows(saved)
        np.testing.assert_array_equal(read, rows)
        other = model(replicas, placement, 2)
        assert not np.isclose(other.memory_bank.rows, rows).any(axis=1).all()
        other.restore_training_state(
            lambda state, saved=saved: checkpoints.restore(saved, state)
        )
        np.testing.assert_array_equal(other.memory_bank.rows, rows)
        saved = save(other)


def test_tensorflow_checkpoints_a_model_with_its_whole_bank(
    strategies, tmp_path
):
    def model(seed):
        with strategies[4].scope():
            return tf_instdisc.InstanceDiscrimination(
                linear_encoder(), N, bank_placement="sharded", seed=seed
            )

    first, second = model(1), model(2)
    path = tf.train.Checkpoint(first).write(str(tmp_path / "model"))
    tf.train.Checkpoint(second).read(path).assert_consumed()
    for saved, read in zip(
        first.get_weights(), second.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(saved, read)


def test_one_replica_keeps_the_whole_bank():
    assert sharded_bank.bank_type("sharded") is MemoryBank


@pytest.mark.parametrize(
    ("placement", "objective", "negatives"),
    [
        ("device", "softmax", "shared"),
        ("device", "nce", "shared"),
        ("device", "nce", "per_example"),
        ("sharded", "softmax", "shared"),
        ("sharded", "nce", "shared"),
    ],
)
def test_a_step_reads_only_the_rows_that_it_needs(
    strategies, placement, objective, negatives
):
    strategy = strategies[2]
    with strategy.scope():
        model = tf_instdisc.InstanceDiscrimination(
            linear_encoder(),
            N,
            objective=objective,
            negatives=negatives,
            num_negatives=M,
            bank_dtype="bfloat16",  # No other variable has this type.
            bank_placement=placement,
        )
        model.compile(optimizer="sgd")
    model.build_training_state()

    @tf.function
    def step(images, ids):
        return strategy.run(model.train_step, [(images, ids)])

    batch = tf.zeros([BATCH, 2, 2, 3]), tf.zeros([BATCH], tf.int64)
    graph = step.get_concrete_function(*batch).graph.as_graph_def()
    nodes = list(graph.node)
    for function in graph.library.function:
        nodes += function.node_def
    read = collections.Counter(
        node.op
        for node in nodes
        if tf.bfloat16.as_datatype_enum
        in (node.attr["dtype"].type, node.attr["Tparams"].type)
    )
    assert read["ResourceGather"]
    assert read["ResourceScatterUpdate"]
    assert not read["ReadVariableOp"]
