"""Random streams of one run share no bits."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_instdisc import Augmentation, array_source
from tf_instdisc import random_streams as streams
from tf_instdisc.data import pipeline
from tf_instdisc.method import memory_bank, objectives

STREAMS = (
    streams.EPOCH_ORDER,
    streams.AUGMENTATION,
    streams.NEGATIVES,
    streams.BANK_ROWS,
    streams.CLASS_WEIGHTS,
)


def test_no_two_draws_have_one_seed():
    draws = itertools.product(
        STREAMS, (0, 1, 2**31 - 1), (0, 1, 2**32), (0, 1, 2**24 - 1)
    )
    seeds = [tuple(streams.seed_of(*draw).numpy()) for draw in draws]
    assert len(set(seeds)) == len(seeds) == 5 * 27
    assert min(map(min, seeds)) >= 0


@pytest.mark.parametrize("seed", (-1, 2**31))
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=f"Received: seed={seed}"):
        streams.seed_of(streams.NEGATIVES, seed)


def spied_seeds(monkeypatch, draw):
    """The seeds that TensorFlow's stateless generators are given."""
    found = set()
    for module, name in (
        (tf.random, "stateless_uniform"),
        (tf.random, "stateless_normal"),
        (tf.random.experimental, "stateless_shuffle"),
    ):
        original = getattr(module, name)

        def spy(*args, original=original, **kwargs):
            seed = kwargs.get("seed", args[1] if len(args) > 1 else None)
            tf.py_function(
                lambda value: found.add(tuple(value.numpy().tolist())),
                [seed],
                [],
            )
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, spy)
    draw()
    monkeypatch.undo()
    return found


def test_parts_of_a_run_draw_from_different_seeds(monkeypatch):
    images = np.zeros((8, 4, 4, 3), np.uint8)

    def read():
        list(
            pipeline.training_dataset(
                array_source(images), Augmentation(4), 4, epochs=2, seed=1
            )
        )

    def draw_negatives():
        for step in range(4):
            objectives.draw_negatives(1, tf.constant(step, tf.int64), 8, [3])

    parts = [
        spied_seeds(monkeypatch, draw)
        for draw in (
            read,
            draw_negatives,
            lambda: memory_bank.MemoryBank(8, 4, seed=1),
            lambda: streams.class_weights(1, 1.0)((8, 4), "float32"),
        )
    ]
    # Two orders and 16 crops; four steps; one part of the bank.
    assert [len(part) for part in parts] == [18, 4, 1, 1]
    assert len(set.union(*parts)) == 24
