"""Training steps that do not wait for values; curves within an epoch."""

import types

import keras
import pytest
import tensorflow as tf

import tf_instdisc
from tests.finished_run import fill_folder
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.training import callbacks, saving, train
from tf_instdisc.training.callbacks import StepCurves
from tf_instdisc.training.strategy import mirrored_cpus

pytestmark = pytest.mark.slow

STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    fill_folder(path, [f"{i}.png" for i in range(4 * STEPS)])
    return path


class Reads(keras.callbacks.Callback):
    """Counts the values of tensors that Python asked for before each step."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.total = 0
        self.epochs = []
        kind = type(tf.constant(0)).__mro__[1]
        numpy = kind._numpy

        def counted(tensor):
            self.total += 1
            return numpy(tensor)

        monkeypatch.setattr(kind, "_numpy", counted)
        before = self.total
        assert float(tf.constant(2.0)) == int(tf.Variable(2)) == 2
        assert self.total == before + 2

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append([])

    def on_train_batch_end(self, batch, logs=None):
        self.epochs[-1].append(self.total)


def settings(folder, flags=""):
    return from_flagfile(
        f"--images={folder}\n--image_size=8\n--width=1\n--embedding_dim=4\n"
        "--batch_size=4\n--epochs=2\n--num_negatives=4\n--precision=float32\n"
        f"--nobaselines\n{flags}"
    )


def observe(monkeypatch, callback):
    """Adds a callback to those of `train`."""
    made = train._callbacks
    monkeypatch.setattr(
        train, "_callbacks", lambda *args: [*made(*args), callback]
    )


@pytest.mark.exhaustive_variants("accumulated-2", "each*")
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    "flags", ["", "--accumulate_steps=2\n"], ids=["each", "accumulated"]
)
def test_no_step_waits_for_a_value(
    folder, tmp_path, monkeypatch, replicas, flags
):
    reads = Reads(monkeypatch)
    observe(monkeypatch, reads)
    for module in (saving, callbacks):
        clock = types.SimpleNamespace(monotonic=lambda: 0.0)
        monkeypatch.setattr(module, "time", clock)
    strategy = None
    if replicas > 1:
        strategy = mirrored_cpus([f"CPU:{i}" for i in range(replicas)])
    config = settings(folder, flags)
    train.train(config, str(tmp_path / "run"), strategy=strategy)
    assert len(reads.epochs) == 2
    for counts in reads.epochs:
        assert len(counts) == STEPS
        # The first two steps compile, and the last one is checked.
        assert len(set(counts[1:-1])) == 1


@pytest.mark.exhaustive
def test_values_are_read_at_each_check(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "_SECONDS_OF_CHECKS", 0.0)
    reads = Reads(monkeypatch)
    observe(monkeypatch, reads)
    train.train(settings(folder), str(tmp_path / "run"))
    assert len(set(reads.epochs[0])) == STEPS


@pytest.mark.exhaustive
def test_tensorboard_gets_steps_within_the_epoch(folder, tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    encoder = tf_instdisc.build_encoder(image_size=8, width=1, embedding_dim=4)
    model = tf_instdisc.InstanceDiscrimination(encoder, 4 * STEPS)
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    source = tf_instdisc.folder_source(str(folder))
    dataset = tf_instdisc.training_dataset(
        source, tf_instdisc.Augmentation(8), 4, epochs=2
    )
    model.fit(
        dataset,
        steps_per_epoch=STEPS,
        epochs=2,
        verbose=0,
        callbacks=[StepCurves(tmp_path, seconds=0.0)],
    )
    events = event_accumulator.EventAccumulator(str(tmp_path), {"tensors": 0})
    events.Reload()
    assert "loss" in events.Tags()["tensors"]
    found = [event.step for event in events.Tensors("loss")]
    assert found == list(range(1, 2 * STEPS + 1))
    assert "images_per_second" in events.Tags()["tensors"]


@pytest.mark.exhaustive
def test_an_epoch_of_one_step_has_a_speed(folder, tmp_path):
    flags = f"--batch_size={4 * STEPS}\n"
    run = train.train(settings(folder, flags), str(tmp_path / "run"))
    found = run.read_metrics()
    assert [metrics["step"] for metrics in found] == [1, 2]
    assert all(metrics["images_per_second"] > 0 for metrics in found)
