"""Environment of the tests: a CPU split into four logical devices."""

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from tf_instdisc.strategy import mirrored_cpus, split_cpu

# Before anything touches the device; strategies of the tests take two or four.
split_cpu(4)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests."""
    return mirrored_cpus(["CPU:0", "CPU:1"])
