"""Released checkpoints to run directories; PyTorch is the oracle."""

import sys
import types

import numpy as np
import pytest

import tf_instdisc
from tests import torch_files
from tests.finished_run import command, picture, save_picture
from tests.test_encoders import images_of
from tests.torch_files import Call, Module, Named
from tf_instdisc import run_directory
from tf_instdisc.convert.checkpoint import convert
from tf_instdisc.convert.pickles import CheckpointError
from tf_instdisc.run_directory import RunDirectoryError

NORM = ("weight", "bias", "running_mean", "running_var")
PARAMS = np.array([4096, 0.07, 2876934.2, 0.5], np.float32)

# === Without PyTorch: the layout of PyTorch 0.4, written by the tests ===


def torch_state(encoder):
    """An encoder's weights by torchvision's names, in torchvision's axes."""
    state = {}

    def put(torch_name, layer_name):
        weights = encoder.get_layer(layer_name).get_weights()
        if layer_name.endswith("_bn"):
            for name, value in zip(NORM, weights, strict=True):
                state[f"{torch_name}.{name}"] = value
        else:
            state[f"{torch_name}.weight"] = weights[0].transpose(3, 2, 0, 1)

    put("conv1", "conv1_conv")
    put("bn1", "conv1_bn")
    for stage in range(1, 5):
        for block in range(2):
            ours, theirs = (
                f"conv{stage + 1}_block{block + 1}",
                f"layer{stage}.{block}",
            )
            for number in (1, 2):
                put(f"{theirs}.conv{number}", f"{ours}_{number}_conv")
                put(f"{theirs}.bn{number}", f"{ours}_{number}_bn")
            if stage > 1 and block == 0:
                put(f"{theirs}.downsample.0", f"{ours}_0_conv")
                put(f"{theirs}.downsample.1", f"{ours}_0_bn")
    kernel, bias = encoder.get_layer("projection").get_weights()
    state["fc.weight"], state["fc.bias"] = kernel.T.copy(), bias
    return state


@pytest.fixture(scope="module")
def encoder():
    encoder = tf_instdisc.build_encoder(
        "resnet18", image_size=64, width=4, stem="imagenet", embedding_dim=8
    )
    rng = np.random.default_rng(0)
    for weight in encoder.weights:
        scale = (2 / max(1, np.prod(weight.shape[:-1]))) ** 0.5
        value = rng.normal(scale=scale, size=weight.shape)
        if len(weight.shape) == 1:
            value = rng.uniform(0.5, 1.5, weight.shape)
        weight.assign(value)
    return encoder


def checkpoint(encoder, **changes):
    memory = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    buffers = Call(
        Named("collections", "OrderedDict"),
        [["params", PARAMS], ["memory", memory]],
    )
    state = {f"module.{k}": v for k, v in torch_state(encoder).items()}
    content = {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": state,
        "lemniscate": Module(
            "lib.NCEAverage", "NCEAverage", {"_buffers": buffers, "K": 4096}
        ),
        "best_prec1": 0.41,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
        **changes,
    }
    return content, memory


def write(tmp_path, content):
    path = tmp_path / "authors.pth.tar"
    path.write_bytes(torch_files.legacy_bytes(content))
    return str(path)


def test_the_authors_file_becomes_a_run(tmp_path, encoder):
    content, memory = checkpoint(encoder)
    path = write(tmp_path, content)
    run = convert(path, str(tmp_path / "run"), image_size=64)
    images = images_of(3, 64)
    loaded = tf_instdisc.load_encoder(run.path)
    np.testing.assert_allclose(loaded(images), encoder(images), atol=1e-6)
    bank = run.load_bank()
    lengths = np.linalg.norm(memory, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.rows, memory / lengths, rtol=1e-6)
    assert bank.instance_ids.tolist() == list(range(6))
    assert bank.names.tolist() == list("012345")
    assert (bank.labels == -1).all()
    flags = run.read_flags()
    for name, value in {
        "image_size": "64",
        "crop_fraction": "0.875",
        "encoder": "resnet18",
        "width": "4",
        "stem": "imagenet",
        "embedding_dim": "8",
        "objective": "nce",
        "num_negatives": "4096",
        "temperature": "0.07",
        "bank_momentum": "0.5",
    }.items():
        assert flags[name] == value
    with pytest.raises(RunDirectoryError, match="missing or empty"):
        convert(path, str(tmp_path / "run"), image_size=64)


def test_a_softmax_bank_has_two_parameters(tmp_path, encoder):
    buffers = {
        "params": np.array([0.1, 0.5], np.float32),
        "memory": np.eye(8, dtype=np.float32),
    }
    bank = Module("lib.LinearAverage", "LinearAverage", {"_buffers": buffers})
    content, _ = checkpoint(encoder, lemniscate=bank)
    run = convert(write(tmp_path, content), str(tmp_path / "run"), 64)
    flags = run.read_flags()
    assert flags["objective"] == "softmax"
    assert flags["temperature"] == "0.1"
    assert "num_negatives" not in flags


def test_a_moco_queue_is_no_bank(tmp_path, encoder):
    content, memory = checkpoint(encoder)
    state = {
        name.replace("module.", "encoder.module."): value
        for name, value in content["state_dict"].items()
    }
    options = Module("argparse", "Namespace", {"moco": True}, is_torch=False)
    path = write(
        tmp_path,
        {"model": state, "contrast": {"memory": memory}, "opt": options},
    )
    run = convert(path, str(tmp_path / "run"), 64)
    assert run.encoder.exists()
    assert not run.bank.exists()


def changed(encoder, changes):
    content, _ = checkpoint(encoder)
    for name, change in changes.items():
        key = f"module.{name}"
        content["state_dict"][key] = change(content["state_dict"].get(key))
    content["state_dict"] = {
        k: v for k, v in content["state_dict"].items() if v is not None
    }
    return content


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"layer2.0.bn1.bias": lambda _: None}, "no layer2.0.bn1.bias"),
        ({"extra.weight": lambda _: np.zeros(2, "float32")}, "extra.weight"),
        ({"fc.weight": lambda x: x[:, :-1]}, "fc.weight must be of shape"),
        ({"fc.weight": lambda _: None}, "must hold fc.weight"),
        ({"bn1.weight": lambda x: x * np.nan}, "bn1.weight holds NaN"),
        ({"conv1.weight": lambda x: x[..., :5, :5]}, "side 5"),
        ({"conv1.weight": lambda x: x[:2]}, "2 filters.* then 4"),
        ({"layer1.0.conv1.weight": lambda _: None}, "one ResNet"),
        ({"layer4.1.conv1.weight": lambda _: None}, r"\(2, 2, 2, 1\)"),
    ),
)
def test_other_networks_are_refused(tmp_path, encoder, changes, message):
    path = write(tmp_path, changed(encoder, changes))
    with pytest.raises(CheckpointError, match=message):
        convert(path, str(tmp_path / "run"), 64)
    assert not (tmp_path / "run").exists()


def test_a_bank_that_does_not_fit_is_refused(tmp_path, encoder):
    for memory in (np.ones((6, 7), "float32"), np.zeros((6, 8), "float32")):
        bank = Module(
            "lib.NCEAverage", "NCEAverage", {"_buffers": {"memory": memory}}
        )
        content, _ = checkpoint(encoder, lemniscate=bank)
        with pytest.raises(CheckpointError, match="bank"):
            convert(write(tmp_path, content), str(tmp_path / "run"), 64)


def test_the_command_names_rows_by_a_folder(tmp_path, encoder):
    content, _ = checkpoint(encoder)
    path = write(tmp_path, content)
    folder = tmp_path / "images"
    # torchvision goes class by class: "a" before "a b".
    names = ["a/2.png", "a/3.png", "a b/1.png", "c/1.png", "c/2.png"]
    for seed, name in enumerate(names):
        save_picture(folder, name, picture(seed))
    with pytest.raises(ValueError, match=r"each of its 6 rows.*5 images"):
        convert(path, str(tmp_path / "run"), 64, str(folder))
    assert not (tmp_path / "run").exists()
    save_picture(folder, "c/3.png", picture(9))
    flags = [f"--from={path}", f"--to={tmp_path}/run", "--image_size=64"]
    result = command("convert", *flags, f"--images={folder}")
    assert result.returncode == 0, result.stderr
    assert "6 rows" in result.stdout
    bank = run_directory.load(f"{tmp_path}/run").load_bank()
    assert bank.names.tolist() == [*names, "c/3.png"]
    assert bank.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert bank.class_names == ("a", "a b", "c")


def test_the_command_refuses_what_would_be_run(tmp_path):
    payload = Call(Named("os", "system"), f"touch {tmp_path}/ran")
    path = write(tmp_path, {"state_dict": {}, "lemniscate": payload})
    result = command("convert", f"--from={path}", f"--to={tmp_path}/run")
    assert result.returncode == 2
    assert "os.system" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run").exists()


# === With PyTorch: files that it writes, outputs that it computes ===


def torch_resnet(torch, block, counts, width=64, embedding_dim=128):
    """The authors' network (He et al. 2016 in torchvision's layout)."""
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self, inputs, planes, stride):
            super().__init__()
            outputs = planes * (4 if block == "bottleneck" else 1)

            def conv(i, o, size, strides=1):
                return nn.Conv2d(
                    i, o, size, strides, padding=size // 2, bias=False
                )

            if block == "bottleneck":
                self.conv1 = conv(inputs, planes, 1)
                self.conv2 = conv(planes, planes, 3, stride)
                self.conv3 = conv(planes, outputs, 1)
                self.bn3 = nn.BatchNorm2d(outputs)
            else:
                self.conv1 = conv(inputs, planes, 3, stride)
                self.conv2 = conv(planes, planes, 3)
            self.bn1 = nn.BatchNorm2d(planes)
            self.bn2 = nn.BatchNorm2d(planes)
            self.downsample = None
            if stride != 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            if block == "bottleneck":
                y = self.bn3(self.conv3(torch.relu(y)))
            shortcut = x if self.downsample is None else self.downsample(x)
            return torch.relu(y + shortcut)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            channels = width
            for stage, count in enumerate(counts):
                blocks = []
                for index in range(count):
                    stride = 2 if stage and not index else 1
                    planes = width * 2**stage
                    blocks.append(Residual(channels, planes, stride))
                    channels = planes * (4 if block == "bottleneck" else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.fc = nn.Linear(channels, embedding_dim)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            x = nn.functional.max_pool2d(x, 3, 2, padding=1)
            for stage in range(1, 5):
                x = getattr(self, f"layer{stage}")(x)
            x = self.fc(x.mean(dim=(2, 3)))
            return x / x.pow(2).sum(1, keepdim=True).pow(0.5)

    torch.manual_seed(0)
    network = Network()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # As the authors do: the image is still seen at the end.
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.1, 0.1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def torch_embeddings(torch, network, images):
    """The authors' transforms after decoding, then the network."""
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = torch.tensor(images.transpose(0, 3, 1, 2)).float() / 255
    with torch.no_grad():
        return network((x - mean) / std).numpy()


@pytest.fixture
def lemniscate(monkeypatch):
    """Makes the authors' bank, of modules of their names."""
    torch = pytest.importorskip("torch", reason="torch writes and computes")

    class AliasMethod:
        def __init__(self, size):
            self.prob, self.alias = torch.ones(size), torch.zeros(size).long()

    class NCEAverage(torch.nn.Module):
        def __init__(self, dim, size):
            super().__init__()
            self.nLem = size
            self.unigrams = torch.ones(size)
            self.multinomial = AliasMethod(size)
            self.register_buffer("params", torch.tensor(PARAMS))
            self.register_buffer("memory", torch.randn(size, dim))

    for name, kind in (
        ("lib.alias_multinomial", AliasMethod),
        ("lib.NCEAverage", NCEAverage),
    ):
        module = types.ModuleType(name)
        kind.__module__, kind.__qualname__ = name, kind.__name__
        setattr(module, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "lib", types.ModuleType("lib"))
    return NCEAverage


@pytest.mark.parametrize("is_zip", (False, True))
@pytest.mark.parametrize(
    ("arch", "block", "counts"),
    (
        ("resnet18", "basic", (2, 2, 2, 2)),
        ("resnet50", "bottleneck", (3, 4, 6, 3)),
    ),
)
@pytest.mark.filterwarnings("ignore")
def test_outputs_are_torchs(tmp_path, lemniscate, arch, block, counts, is_zip):
    import torch

    # In the second format narrow: the first has shown the sizes.
    width = 8 if is_zip else 64
    network = torch_resnet(torch, block, counts, width)
    bank = lemniscate(128, 20)
    optimizer = torch.optim.SGD(network.parameters(), 0.03, momentum=0.9)
    network(torch.rand(1, 3, 64, 64)).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(
        {
            "epoch": 200,
            "arch": arch,
            "state_dict": torch.nn.DataParallel(network).state_dict(),
            "lemniscate": bank,
            "best_prec1": torch.tensor(0.41),
            "optimizer": optimizer.state_dict(),
        },
        path,
        _use_new_zipfile_serialization=is_zip,
    )
    run = convert(str(path), str(tmp_path / "run"))
    images = np.stack([picture(seed, 224) for seed in range(2)])
    embeddings = tf_instdisc.load_encoder(run.path)(images)
    expected = torch_embeddings(torch, network, images)
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-4)
    rows = torch.nn.functional.normalize(bank.memory).numpy()
    np.testing.assert_allclose(run.load_bank().rows, rows, atol=1e-6)
    assert run.read_flags()["encoder"] == arch


@pytest.mark.filterwarnings("ignore")
def test_cmcs_file_too(tmp_path):
    torch = pytest.importorskip("torch", reason="torch writes and computes")
    import argparse

    network = torch_resnet(torch, "bottleneck", (3, 4, 6, 3), width=8)
    model = torch.nn.Module()
    model.encoder = torch.nn.DataParallel(network)
    contrast = torch.nn.Module()
    contrast.register_buffer("params", torch.tensor(PARAMS))
    contrast.register_buffer("memory", torch.randn(7, 128))
    path = tmp_path / "InsDis.pth"
    torch.save(
        {
            "opt": argparse.Namespace(softmax=True, moco=False, nce_k=4096),
            "model": model.state_dict(),
            "contrast": contrast.state_dict(),
            "optimizer": {},
            "epoch": 200,
        },
        path,
        _use_new_zipfile_serialization=False,
    )
    run = convert(str(path), str(tmp_path / "run"), 64)
    images = np.stack([picture(seed, 64) for seed in range(2)])
    expected = torch_embeddings(torch, network, images)
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(
        tf_instdisc.load_encoder(run.path)(images), expected, rtol=0, atol=1e-4
    )
    assert len(run.load_bank().rows) == 7
    assert run.read_flags()["objective"] == "info_nce"
