"""`--precision=auto`: chosen by a trial, printed, recorded and kept."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tf_instdisc.config import EncoderConfig, RunConfig
from tf_instdisc.errors import UsageError
from tf_instdisc.training import auto_precision

AUTO = RunConfig(encoder=EncoderConfig(precision="auto", width=2))


@pytest.fixture
def trial(monkeypatch):
    """Sets the outcome of the trial, and counts the trials."""
    calls = []

    def set_ratio(ratio):
        def seconds_in(dtype):
            if dtype == tf.float32:
                return 1.0
            calls.append(ratio)
            return ratio

        monkeypatch.setattr(auto_precision, "seconds_in", seconds_in)
        return calls

    return set_ratio


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("ratio", "chosen"), [(0.5, "mixed_bfloat16"), (0.95, "float32")]
)
def test_a_run_records_the_choice_and_keeps_it(
    tmp_path, capsys, trial, ratio, chosen
):
    calls = trial(ratio)
    images = np.random.default_rng(0).integers(0, 255, [8, 16, 16, 3])
    source = tf_instdisc.array_source(images.astype(np.uint8))
    optimizer = tf_instdisc.OptimizerConfig(epochs=1, batch_size=4)
    data = tf_instdisc.DataConfig(image_size=16)
    config = dataclasses.replace(AUTO, optimizer=optimizer, data=data)
    run = tf_instdisc.train(config, tmp_path, source)
    assert run.config.encoder.precision == chosen
    assert f"precision: {chosen}" in capsys.readouterr().out

    trial(2 - ratio)  # The other choice, on another machine.
    longer = dataclasses.replace(
        config, optimizer=dataclasses.replace(optimizer, epochs=2)
    )
    run = tf_instdisc.train(longer, tmp_path, source)
    assert run.config.encoder.precision == chosen
    assert len(run.metrics) == 2
    assert calls == [ratio]


def test_both_precisions_can_be_timed():
    assert auto_precision.seconds_in(tf.float32) > 0
    assert auto_precision.seconds_in(tf.bfloat16) > 0


def test_several_hosts_need_a_precision():
    training = tf_instdisc.TrainingConfig(distribution="multi_worker")
    with pytest.raises(UsageError, match="all hosts need the same"):
        dataclasses.replace(AUTO, training=training)
