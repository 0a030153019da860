"""Checkpoints of the authors' cifar.py and of CMC's widened networks."""

import numpy as np
import pytest

import tf_instdisc
from tests import torch_files
from tests.test_encoders import images_of
from tests.torch_files import Call, Module, Named
from tests.torch_forward import (
    CIFAR_MEAN,
    CIFAR_STD,
    embeddings,
    random_state,
)
from tf_instdisc.runs.convert.checkpoint import convert
from tf_instdisc.runs.convert.records import CheckpointError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ORDERED = Named("collections", "OrderedDict")


def ordered(items):
    return Call(ORDERED, [[name, value] for name, value in items.items()])


def as_module(state):
    """The state as the nested modules in which `net` was first saved."""

    def build(prefix, module_name):
        names = [n.removeprefix(prefix) for n in state if n.startswith(prefix)]
        own = [name for name in names if "." not in name]
        children = dict.fromkeys(n.split(".")[0] for n in names if "." in n)
        buffers = [n for n in own if n.startswith(("running", "num_batches"))]
        parameters = {
            name: Call(
                Named("torch._utils", "_rebuild_parameter"),
                state[prefix + name],
                True,
                Call(ORDERED),
            )
            for name in own
            if name not in buffers
        }
        kind = "torch.nn.modules.container", "Sequential"
        if own:
            kind = "torch.nn.modules.conv", "Conv2d"
        elif module_name:
            kind = "models.resnet_cifar", module_name
        return Module(
            *kind,
            {
                "training": True,
                "_parameters": ordered(parameters),
                "_buffers": ordered({n: state[prefix + n] for n in buffers}),
                "_backward_hooks": Call(ORDERED),
                "_non_persistent_buffers_set": Call(
                    Named("__builtin__", "set"), []
                ),
                "_modules": ordered(
                    {
                        name: build(
                            f"{prefix}{name}.",
                            "BasicBlock" if name.isdigit() else "",
                        )
                        for name in children
                    }
                ),
            },
        )

    return build("", "ResNet")


def bank_of(memory, params=(0.1, 0.5)):
    buffers = {"params": np.float32(params), "memory": memory}
    return Module(
        "lib.LinearAverage", "LinearAverage", {"_buffers": ordered(buffers)}
    )


FORMS = {
    "module": as_module,
    "weights": lambda state: state,
    "weights of DataParallel": lambda state: {
        f"module.{name}": value for name, value in state.items()
    },
    "DataParallel": lambda state: Module(
        "torch.nn.parallel.data_parallel",
        "DataParallel",
        {
            "device_ids": [0],
            "src_device_obj": Call(Named("torch", "device"), "cuda", 0),
            "_modules": ordered({"module": as_module(state)}),
        },
    ),
}


@pytest.mark.exhaustive_variants("module", "weights")
@pytest.mark.parametrize("form", FORMS)
def test_cifars_checkpoint_becomes_a_run(tmp_path, form):
    state = random_state(
        "basic", (2, 2, 2, 2), 4, 4, 3, shortcut="shortcut", linear="linear"
    )
    memory = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    path = tmp_path / "ckpt.t7"
    path.write_bytes(
        torch_files.legacy_bytes(
            {
                "net": FORMS[form](state),
                "lemniscate": bank_of(memory),
                "acc": 0.805,
                "epoch": 199,
            }
        )
    )
    run = convert(str(path), str(tmp_path / "run"))
    images = images_of(3, 32)
    expected = embeddings(
        state, images, CIFAR_MEAN, CIFAR_STD, "shortcut", "linear"
    )
    assert np.ptp(expected, axis=0).max() > 1e-2
    encoder = tf_instdisc.load_encoder(run.path)
    np.testing.assert_allclose(encoder(images), expected, rtol=0, atol=1e-5)
    bank = run.load_bank()
    lengths = np.linalg.norm(memory, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.rows, memory / lengths, rtol=1e-6)
    flags = run.read_config().flags()
    for name, value in {
        "image_size": "32",
        "crop_fraction": "1.0",
        "encoder": "resnet18",
        "width": "4",
        "stem": "cifar",
        "mean": "cifar10",
        "std": "cifar10",
        "objective": "softmax",
        "temperature": "0.1",
        "bank_momentum": "0.5",
    }.items():
        assert flags[name] == value
    assert "stem_width" not in flags


@pytest.mark.exhaustive_variants("resnet50*")
@pytest.mark.parametrize(
    ("backbone", "block", "sizes"),
    [
        ("resnet34", "basic", (3, 4, 6, 3)),
        ("resnet50", "bottleneck", (3, 4, 6, 3)),
    ],
)
def test_their_other_cifar_networks(tmp_path, backbone, block, sizes):
    state = random_state(block, sizes, 2, 2, 3, "shortcut", "linear")
    path = tmp_path / "ckpt.t7"
    path.write_bytes(torch_files.zip_bytes({"net": state}))
    run = convert(str(path), str(tmp_path / "run"))
    images = images_of(2, 32)
    expected = embeddings(
        state, images, CIFAR_MEAN, CIFAR_STD, "shortcut", "linear"
    )
    encoder = tf_instdisc.load_encoder(run.path)
    np.testing.assert_allclose(encoder(images), expected, rtol=0, atol=1e-5)
    assert run.read_config().flags()["encoder"] == backbone
    assert not run.bank.exists()


@pytest.mark.exhaustive_variants(
    "basic-sizes1-16",
    "basic-sizes1-2",
    "bottleneck-sizes0-16",
    "bottleneck-sizes0-8",
)
@pytest.mark.parametrize("width", [2, 8, 16])
@pytest.mark.parametrize(
    ("block", "sizes"),
    [("bottleneck", (3, 4, 6, 3)), ("basic", (2, 2, 2, 2))],
)
def test_widened_networks_keep_their_stem(tmp_path, block, sizes, width):
    """x0.5, x2 and x4 of a stem of 4, which is 64 in CMC's."""
    state = random_state(block, sizes, width, 4, 7, "downsample", "fc")
    path = tmp_path / "ckpt.pth"
    weights = {f"encoder.module.{k}": v for k, v in state.items()}
    path.write_bytes(torch_files.legacy_bytes({"model": weights}))
    run = convert(str(path), str(tmp_path / "run"), 64)
    images = images_of(2, 64)
    expected = embeddings(
        state, images, *IMAGENET, "downsample", "fc", stem="imagenet"
    )
    assert np.ptp(expected, axis=0).max() > 1e-2
    encoder = tf_instdisc.load_encoder(run.path)
    np.testing.assert_allclose(encoder(images), expected, rtol=0, atol=1e-5)
    flags = run.read_config().flags()
    assert (flags["width"], flags["stem_width"]) == (str(width), "4")


def test_a_stems_width_belongs_to_resnets():
    with pytest.raises(ValueError, match="stem_width"):
        tf_instdisc.build_encoder("vgg16", stem_width=4, image_size=32)
    with pytest.raises(ValueError, match="stem_width"):
        tf_instdisc.build_encoder("resnet18", stem_width=0, image_size=32)


def nested(depth):
    module = Module("torch.nn.modules.conv", "Conv2d", {"_modules": {}})
    for _ in range(depth):
        module = Module(
            "torch.nn.modules.container",
            "Sequential",
            {"_modules": {"x" * 50: module}},
        )
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nested(40), "too deeply"),
        (nested(1), "no weights"),
        (
            Module(
                "torch.nn.modules.conv",
                "Conv2d",
                {"_parameters": {"x" * 501: np.zeros(1, np.float32)}},
            ),
            "no name",
        ),
    ],
)
def test_modules_that_are_not_a_network(tmp_path, module, message):
    path = tmp_path / "ckpt.t7"
    path.write_bytes(torch_files.legacy_bytes({"net": module}))
    with pytest.raises(CheckpointError, match=message):
        convert(str(path), str(tmp_path / "run"))
