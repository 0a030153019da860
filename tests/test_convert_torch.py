"""Outputs equal to PyTorch's, from files that PyTorch writes."""

import argparse
import sys
import types

import numpy as np
import pytest

import tf_instdisc
from tests.finished_run import picture
from tests.torch_forward import CIFAR_MEAN, CIFAR_STD, embeddings
from tf_instdisc.runs.convert.checkpoint import convert

torch = pytest.importorskip("torch", reason="torch writes and computes")

PARAMS = np.array([4096, 0.07, 2876934.2, 0.5], np.float32)


def torch_resnet(
    block, counts, width=64, embedding_dim=128, stem_width=None, is_cifars=False
):
    """The authors' network (He et al. 2016 in torchvision's layout).

    That of their cifar.py has a small stem and other names.
    """
    nn = torch.nn
    stem_width = stem_width or width

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
            shortcut = nn.Sequential()
            if stride != 1 or inputs != outputs:
                shortcut = nn.Sequential(
                    conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
                )
            setattr(self, "shortcut" if is_cifars else "downsample", shortcut)

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            if block == "bottleneck":
                y = self.bn3(self.conv3(torch.relu(y)))
            shortcut = self.shortcut if is_cifars else self.downsample
            return torch.relu(y + shortcut(x))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            size, stride = (3, 1) if is_cifars else (7, 2)
            self.conv1 = nn.Conv2d(
                3, stem_width, size, stride, padding=size // 2, bias=False
            )
            self.bn1 = nn.BatchNorm2d(stem_width)
            channels = stem_width
            for stage, count in enumerate(counts):
                blocks = []
                for index in range(count):
                    stride = 2 if stage and not index else 1
                    planes = width * 2**stage
                    blocks.append(Residual(channels, planes, stride))
                    channels = planes * (4 if block == "bottleneck" else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            projection = nn.Linear(channels, embedding_dim)
            setattr(self, "linear" if is_cifars else "fc", projection)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            if not is_cifars:
                x = nn.functional.max_pool2d(x, 3, 2, padding=1)
            for stage in range(1, 5):
                x = getattr(self, f"layer{stage}")(x)
            projection = self.linear if is_cifars else self.fc
            x = projection(x.mean(dim=(2, 3)))
            return x / x.pow(2).sum(1, keepdim=True).pow(0.5)

    torch.manual_seed(0)
    network = Network()
    if is_cifars:
        for name, kind in {"ResNet": Network, "BasicBlock": Residual}.items():
            kind.__module__ = "models.resnet_cifar"
            kind.__qualname__ = kind.__name__ = name
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not is_cifars:
            # As the authors do: the image is still seen at the end. Their
            # cifar.py leaves it to torch.
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.1, 0.1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def torch_embeddings(network, images, mean_and_std=IMAGENET):
    """The authors' transforms after decoding, then the network."""
    mean, std = (torch.tensor(v)[:, None, None] for v in mean_and_std)
    x = torch.tensor(images.transpose(0, 3, 1, 2)).float() / 255
    with torch.no_grad():
        return network((x - mean) / std).numpy()


def spread(network, images, mean_and_std=IMAGENET):
    """Subtracts most of the mean output over all images from the last bias.

    Otherwise, an untrained network would give nearly equal embeddings.
    """
    seen = []
    projection = network.fc if hasattr(network, "fc") else network.linear
    hook = projection.register_forward_hook(lambda *x: seen.append(x[2]))
    torch_embeddings(network, images, mean_and_std)
    hook.remove()
    with torch.no_grad():
        projection.bias -= 0.9 * seen[0].mean(dim=0)


@pytest.fixture
def lemniscate(monkeypatch):
    """Makes the authors' bank, of modules of their names."""

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
def test_outputs_are_equal(tmp_path, lemniscate, arch, block, counts, is_zip):
    # Narrow in the second format, as the first one has tested the sizes.
    width = 8 if is_zip else 64
    network = torch_resnet(block, counts, width)
    images = np.stack([picture(seed, 224) for seed in range(2)])
    spread(network, images)
    bank = lemniscate(128, 20)
    optimizer = torch.optim.SGD(network.parameters(), 0.0, momentum=0.9)
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
    embeddings = tf_instdisc.load_encoder(run.path)(images)
    expected = torch_embeddings(network, images)
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-4)
    rows = torch.nn.functional.normalize(bank.memory).numpy()
    np.testing.assert_allclose(run.load_bank().rows, rows, atol=1e-6)
    assert run.read_config().flags()["encoder"] == arch


@pytest.mark.filterwarnings("ignore")
def test_cmc_outputs_are_equal(tmp_path):
    network = torch_resnet("bottleneck", (3, 4, 6, 3), width=8)
    images = np.stack([picture(seed, 64) for seed in range(2)])
    spread(network, images)
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
    expected = torch_embeddings(network, images)
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(
        tf_instdisc.load_encoder(run.path)(images), expected, rtol=0, atol=1e-4
    )
    assert len(run.load_bank().rows) == 7
    assert run.read_config().flags()["objective"] == "info_nce"


@pytest.mark.parametrize("is_zip", (False, True))
@pytest.mark.parametrize("is_module", (False, True))
@pytest.mark.filterwarnings("ignore")
def test_cifar_outputs(tmp_path, monkeypatch, lemniscate, is_module, is_zip):
    network = torch_resnet(
        "basic", (2, 2, 2, 2), width=8 if is_zip else 64, is_cifars=True
    )
    module = types.ModuleType("models.resnet_cifar")
    module.ResNet = type(network)
    module.BasicBlock = type(network.layer1[0])
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    monkeypatch.setitem(sys.modules, "models.resnet_cifar", module)
    images = np.stack([picture(seed, 32) for seed in range(3)])
    spread(network, images, (CIFAR_MEAN, CIFAR_STD))
    bank = lemniscate(128, 20)
    path = tmp_path / "ckpt.t7"
    torch.save(
        {
            "net": network if is_module else network.state_dict(),
            "lemniscate": bank,
            "acc": 0.8,
            "epoch": 199,
        },
        path,
        _use_new_zipfile_serialization=is_zip,
    )
    run = convert(str(path), str(tmp_path / "run"))
    expected = torch_embeddings(network, images, (CIFAR_MEAN, CIFAR_STD))
    assert np.ptp(expected, axis=0).max() > 1e-3
    encoder = tf_instdisc.load_encoder(run.path)
    np.testing.assert_allclose(encoder(images), expected, rtol=0, atol=1e-5)
    # The oracle of the tests that have no torch.
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    np.testing.assert_allclose(
        embeddings(state, images, CIFAR_MEAN, CIFAR_STD, "shortcut", "linear"),
        expected,
        rtol=0,
        atol=1e-5,
    )
    rows = torch.nn.functional.normalize(bank.memory).numpy()
    np.testing.assert_allclose(run.load_bank().rows, rows, atol=1e-6)


@pytest.mark.parametrize("width", (4, 16, 32))
@pytest.mark.filterwarnings("ignore")
def test_widened_outputs_are_equal(tmp_path, width):
    """As x0.5, x2 and x4, of a stem of 8."""
    network = torch_resnet(
        "bottleneck", (3, 4, 6, 3), width=width, stem_width=8
    )
    images = np.stack([picture(seed, 64) for seed in range(2)])
    spread(network, images)
    path = tmp_path / "InsDis.pth"
    model = torch.nn.Module()
    model.encoder = torch.nn.DataParallel(network)
    torch.save({"model": model.state_dict()}, path)
    run = convert(str(path), str(tmp_path / "run"), 64)
    expected = torch_embeddings(network, images)
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(
        tf_instdisc.load_encoder(run.path)(images), expected, rtol=0, atol=1e-4
    )
