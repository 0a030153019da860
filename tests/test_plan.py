"""The plan compared with what is actually built."""

import dataclasses
import os
import sys

import keras
import pytest
import tensorflow as tf

import tf_instdisc
from benchmarks import timing
from tests import commands
from tests.test_resume import ROOT
from tf_instdisc.cli import plan as plan_command
from tf_instdisc.config.run import from_flags
from tf_instdisc.method import fused_batch_norm
from tf_instdisc.training import plan

pytestmark = pytest.mark.slow

SETTINGS = {
    "encoder": "resnet18",
    "width": 4,
    "stem": "cifar",
    "embedding_dim": 16,
    "image_size": 8,
    "objective": "nce",
    "num_negatives": 64,
    "batch_size": 32,
}
MACHINES = [field.name for field in dataclasses.fields(plan.Machines)]


def make_plan(num_instances=1000, **changes):
    """Takes flags of instdisc-train, and fields of `Machines`."""
    machines = {n: changes.pop(n) for n in MACHINES if n in changes}
    flags = {name: str(v) for name, v in {**SETTINGS, **changes}.items()}
    return plan.make_plan(
        from_flags(flags), plan.Machines(**machines), num_instances
    )


def _make_step(backbone, width, stem, size, batch, precision):
    """A step of the encoder, forward and backward, as training makes it."""
    keras.mixed_precision.set_dtype_policy(precision)
    encoder = tf_instdisc.build_encoder(
        backbone, image_size=size, width=width, stem=stem, embedding_dim=32
    )
    call = fused_batch_norm.training_call(encoder)
    images = tf.ones([batch, size, size, 3])
    weights = [weight.value for weight in encoder.trainable_weights]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(call(images)[:, 0])
        return list(map(tf.reduce_sum, tape.gradient(loss, weights)))

    return step


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("backbone", "width", "stem", "size", "batch", "precision"),
    [
        ("resnet50", 16, "imagenet", 96, 32, "mixed_bfloat16"),
        ("vgg16", 8, "imagenet", 64, 32, "float32"),
        ("vit_small", 16, "cifar", 32, 64, "float32"),
    ],
)
def test_activations_are_those_that_a_step_takes(
    backbone, width, stem, size, batch, precision
):
    measured = timing.peak_megabytes(
        _make_step, backbone, width, stem, size, batch, precision
    )
    made = make_plan(
        encoder=backbone,
        width=width,
        stem=stem,
        embedding_dim=32,
        image_size=size,
        batch_size=batch,
        precision=precision,
    )
    assert made.activations / 1e6 == pytest.approx(measured, rel=0.25)


def test_what_activations_depend_on():
    def activations(**changes):
        return make_plan(**changes).activations

    whole = activations()
    assert activations(batch_size=64) == 2 * whole
    assert activations(batch_size=64, replicas_per_host=4) == whole / 2
    assert activations(precision="mixed_float16") == whole / 2
    # Crops are smaller than the encoder's input.
    assert activations(train_image_size=8, image_size=16) == whole
    assert activations(image_size=16) > 3 * whole
    assert activations(stem_width=8) > whole


@pytest.mark.parametrize("where", ["device_memory", "host_memory"])
def test_it_warns_of_activations_that_will_not_fit(where):
    settings = {"width": 64, "image_size": 224, "batch_size": 256}
    made = make_plan(**settings)
    needed = made.activations + made.head + made.state + made.bank_on_replica
    assert made.activations > 0.9 * needed
    for memory, warns in ((needed - 1, True), (needed, False)):
        text = " ".join(make_plan(**settings, **{where: memory}).warnings)
        assert ("--accumulate_steps" in text) == warns


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "accumulate_steps": 3},
        {"objective": "parametric"},
        {"bank_dtype": "bfloat16", "bank_placement": "host"},
    ],
)
def test_checkpoint_is_as_large_as_planned(changes):
    settings = {
        **{"optimizer": "sgd", "num_instances": 1000},
        **{"objective": "nce", "num_negatives": 64},
        **changes,
    }
    model = tf_instdisc.InstanceDiscrimination(
        tf_instdisc.build_encoder(
            image_size=8, width=4, stem="cifar", embedding_dim=16
        ),
        **{
            name: settings[name]
            for name in settings.keys()
            & {
                "num_instances",
                "objective",
                "num_negatives",
                "bank_dtype",
                "bank_placement",
                "accumulate_steps",
            }
        },
    )
    optimizers = {
        "sgd": keras.optimizers.SGD(momentum=0.9),
        "adamw": keras.optimizers.AdamW(),
    }
    model.compile(optimizer=optimizers[settings["optimizer"]])
    model.build_training_state()
    real = sum(
        v.shape.num_elements() * v.dtype.size
        for v in model.training_state().values()
    )
    # Counters are left out of the plan.
    assert make_plan(**settings).checkpoint == pytest.approx(real, abs=64)


def test_replicas_and_placement_decide_where_the_bank_is():
    def banks(**changes):
        made = make_plan(**changes)
        return made.bank_on_replica, made.bank_on_host

    size = 1000 * 16 * 4
    gpu = {"device_memory": plan.GIB, "replicas_per_host": 4}
    assert banks(**gpu) == (size, 0)
    assert banks(**gpu, bank_placement="host") == (0, size)
    assert banks(**gpu, bank_dtype="bfloat16") == (size // 2, 0)
    assert banks(replicas_per_host=4) == (size, 4 * size)
    # Two hosts; each copies the whole bank, and again in float32.
    gpu |= {"hosts": 2, "bank_placement": "sharded"}
    assert banks(**gpu) == (size // 8, 2 * size)
    half = size // 2
    assert banks(**gpu, bank_dtype="bfloat16") == (half // 8, half + size)


def test_the_exact_softmax_takes_no_more_memory_for_more_rows():
    for changes in ({}, {"bank_placement": "sharded", "replicas_per_host": 4}):
        heads = {
            make_plan(num_instances, objective="softmax", **changes).head
            for num_instances in (10**6, 10**9)
        }
        assert len(heads) == 1
        assert heads.pop() < 32 * 2**20


def test_it_warns_of_what_will_not_fit():
    made = make_plan(
        num_instances=10**8,
        objective="softmax",
        replicas_per_host=3,
        device_memory=4 * plan.GIB,
        host_memory=plan.GIB,
        disk=plan.GIB,
    )
    text = " ".join(made.warnings)
    for part in (
        "not a multiple of the 3",
        "Device",
        "Disk",
        "--bank_placement=sharded",
    ):
        assert part in text
    assert not make_plan(device_memory=plan.GIB).warnings


@pytest.mark.parametrize(
    ("replicas", "placement", "negatives", "other"),
    [
        (1, "device", "shared", "host"),
        (1, "host", "shared", None),
        (4, "device", "shared", "sharded"),
        (4, "device", "per_example", "host"),
        (4, "sharded", "shared", None),
    ],
)
def test_it_advises_another_placement_than_the_configured_one(
    replicas, placement, negatives, other
):
    warnings = make_plan(
        num_instances=10**8,
        replicas_per_host=replicas,
        bank_placement=placement,
        negatives=negatives,
        device_memory=2**20,
    ).warnings
    (device,) = (text for text in warnings if text.startswith("Device"))
    assert "--bank_dtype" in device or placement == "host"
    assert ("--bank_placement" in device) == (other is not None)
    assert other is None or f"--bank_placement={other}" in device


def test_the_command_runs_nothing(tmp_path):
    result = commands.run(
        "plan",
        f"--flagfile={ROOT}/flags/imagenet_resnet50.flags",
        "--num_instances=1281167",
        f"--run_dir={tmp_path}/run",
    )
    assert result.returncode == 0, result.stderr
    assert "1,281,167" in result.stdout
    assert "5,004" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("backbone", "status"), [("resnet50", 0), ("vgg16", 2)]
)
def test_the_command_takes_the_width_of_the_stem(backbone, status):
    def result(*more):
        return commands.run(
            "plan",
            *("--dataset=cifar10", "--num_instances=9", "--run_dir=run"),
            *(f"--encoder={backbone}", *more),
        )

    wide = result("--stem_width=640")
    assert wide.returncode == status
    if status:
        assert "--stem_width applies only to ResNets" in wide.stderr
    else:
        assert wide.stdout != result().stdout


@pytest.mark.parametrize(("epochs", "updates"), [(1, 0), (3, 1)])
def test_the_command_counts_whole_updates(epochs, updates):
    result = commands.run(
        *("plan", "--dataset=cifar10", "--num_instances=9", "--width=2"),
        *("--batch_size=3", "--accumulate_steps=8", f"--epochs={epochs}"),
    )
    assert result.returncode == 0, result.stderr
    assert f"updates of the run           {updates}\n" in result.stdout
    warning = "--accumulate_steps=8 is more than the 3 steps of the run"
    assert (warning in result.stdout) == (updates == 0)


@pytest.mark.parametrize(
    ("distribution", "replicas"), [("auto", 2), ("one_device", 1)]
)
def test_the_command_counts_logical_cpus(distribution, replicas):
    result = commands.run(
        *("plan", "--dataset=cifar10", "--num_instances=9", "--width=2"),
        *("--logical_cpus=2", f"--distribution={distribution}"),
    )
    assert f"hosts x replicas             1 x {replicas}\n" in result.stdout


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cluster": {}}'])
def test_the_command_needs_hosts_in_tf_config(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    result = commands.run(
        *("plan", "--dataset=cifar10", "--num_instances=9", "--width=2"),
        "--distribution=multi_worker",
    )
    assert result.returncode == 2
    assert f"TF_CONFIG={text!r}" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_counts_a_folder_of_images(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("x.png", "a/y.JPG", "z.txt"):
        (tmp_path / name).touch()
    result = commands.run(
        "plan", f"--images={tmp_path}", f"--run_dir={tmp_path}/run"
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["images", "2"] in lines
    assert "--device_gib plans for GPUs" in result.stdout
    result = commands.run(
        "plan", f"--images={tmp_path}", "--device_gib=80", "--num_instances=9"
    )
    assert "memory of each GPU           80.000 GiB" in result.stdout


_TWO_GPUS = """#!/bin/sh
echo "0, GPU-8932f937-d72c, 81920"
echo "1, GPU-0adb3e1f-11aa, 40960"
"""


@pytest.mark.parametrize(
    ("visible", "gibs"),
    (
        (None, [80, 40]),
        ("0", [80]),
        ("1,0", [40, 80]),
        ("GPU-0adb3e1f-11aa", [40]),
        ("GPU-0adb, 0", [40, 80]),
        ("", []),
        ("-1", []),
        # CUDA ignores what follows one that does not exist.
        ("0,2,1", [80]),
    ),
)
def test_the_gpus_are_those_that_cuda_shows(
    tmp_path, monkeypatch, visible, gibs
):
    (tmp_path / "nvidia-smi").write_text(_TWO_GPUS)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert plan_command._gpu_bytes() == [gib * 2**30 for gib in gibs]
