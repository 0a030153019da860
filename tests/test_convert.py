"""Checkpoints in PyTorch 0.4's layout, written by the tests."""

import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests import commands, torch_files
from tests.finished_run import picture, save_picture
from tests.test_encoders import images_of
from tests.torch_files import Call, Module, Named
from tf_instdisc.retrieval import duplicates
from tf_instdisc.runs import images as run_images
from tf_instdisc.runs import opening
from tf_instdisc.runs.convert.checkpoint import convert
from tf_instdisc.runs.convert.records import CheckpointError
from tf_instdisc.runs.directory import RunDirectoryError
from tf_instdisc.serving.options import ExportOptions
from tf_instdisc.serving.saved_model import export_run

NORM = ("weight", "bias", "running_mean", "running_var")
PARAMS = np.array([4096, 0.07, 2876934.2, 0.5], np.float32)


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
    flags = run.read_config().flags()
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
    flags = run.read_config().flags()
    assert flags["objective"] == "softmax"
    assert flags["temperature"] == "0.1"


def test_a_moco_queue_is_not_a_bank(tmp_path, encoder):
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
        ({"conv1.weight": lambda x: x[:2]}, "bn1.weight must be of shape"),
        ({"conv1.weight": lambda x: x[:0]}, "empty weights"),
        ({"conv1.weight": lambda x: x[:, :1]}, "1 channels, such as L"),
        ({"conv1.weight": lambda x: x[..., :5]}, "conv1.weight must be of"),
        ({"layer1.0.conv1.weight": lambda _: None}, "one ResNet"),
        ({"layer4.1.conv1.weight": lambda _: None}, r"\(2, 2, 2, 1\)"),
    ),
)
def test_other_networks_are_refused(tmp_path, encoder, changes, message):
    path = write(tmp_path, changed(encoder, changes))
    with pytest.raises(CheckpointError, match=message):
        convert(path, str(tmp_path / "run"), 64)
    assert not (tmp_path / "run").exists()


def fill(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


LAB = "encoder.module.l_to_ab.layer1.0.conv1.weight"
OTHERS = {
    "a Lab ResNet": ({"model": {LAB: fill(2, 2, 3, 3)}}, "L and ab"),
    "a Lab AlexNet": (
        {"model": {"module.ab_to_l.conv_block_1.0.weight": fill(2, 2, 3, 3)}},
        "L and ab",
    ),
    "half an AlexNet": (
        {"model": {"conv_block_1.0.weight": fill(2, 1, 3, 3)}},
        "half of CMC's AlexNet",
    ),
    "an AlexNet": (
        {"state_dict": {"features.module.0.weight": fill(2, 3, 3, 3)}},
        "AlexNet or VGG",
    ),
    "a VGG": ({"state_dict": {"features.0.weight": fill(1)}}, "AlexNet or VGG"),
    "a ViT": ({"model": {"patch_embed.proj.weight": fill(1)}}, "transformer"),
    "MoCo": (
        {
            "state_dict": {
                f"module.encoder_{k}.layer1.0.conv1.weight": fill(2, 2, 3, 3)
                for k in "qk"
            }
        },
        "two encoders and a queue",
    ),
    "two ResNets": (
        {
            "model": {
                f"{k}.layer1.0.conv1.weight": fill(2, 2, 3, 3) for k in "ab"
            }
        },
        "one ResNet",
    ),
    "a classifier": (
        {"opt": None, "classifier": {"w": fill(1)}},
        "linear classifier",
    ),
    "a bank alone": ({"contrast": {"memory": fill(3, 8)}}, "but no network"),
    "no network": ({"epoch": 3, "acc": 0.5}, "must hold `state_dict` or `net`"),
    "an empty network": ({"net": {}}, "no weights"),
    "a number": ({"net": 3}, "no weights"),
    "a weight that is a number": ({"net": {"a": 3}}, "'a' is not a tensor"),
    "a list": ([1], "dictionary"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_files_that_cannot_be_converted_are_reported(tmp_path, case):
    content, message = OTHERS[case]
    with pytest.raises(CheckpointError, match=message) as error:
        convert(write(tmp_path, content), str(tmp_path / "run"))
    assert len(str(error.value)) < 500
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
    # torchvision goes class by class: "a" before "a b". In one class, a
    # directory's own images come before those of its subfolders.
    names = ["a/2.png", "a/3.png", "a b/1.png", "c/z.png", "c/a/2.png"]
    for seed, name in enumerate(names):
        save_picture(folder, name, picture(seed))
    with pytest.raises(ValueError, match=r"each of its 6 rows.*5 images"):
        convert(path, str(tmp_path / "run"), 64, str(folder))
    assert not (tmp_path / "run").exists()
    save_picture(folder, "c/a b/1.png", picture(9))
    flags = [f"--from={path}", f"--to={tmp_path}/run", "--image_size=64"]
    result = commands.run("convert", *flags, f"--images={folder}")
    assert result.returncode == 0, result.stderr
    assert "6 rows" in result.stdout
    bank = opening.load(f"{tmp_path}/run").load_bank()
    assert bank.names.tolist() == [*names, "c/a b/1.png"]
    assert bank.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert bank.class_names == ("a", "a b", "c")


def test_a_folder_at_a_url_is_listed_and_not_copied(tmp_path):
    import fsspec

    from tests.buckets import machine

    fs = fsspec.filesystem("memory")
    names = ["a/1.png", "b/2.png"]
    for name in names:
        fs.pipe_file(f"/convert/pictures/{name}", b"png")
    with machine(tmp_path / "machine"):
        rows = np.eye(2, dtype=np.float32)
        bank = run_images.name_rows(rows, "memory://convert/pictures")
    assert bank.names.tolist() == names
    assert not list(tmp_path.rglob("*.png"))


def test_the_command_refuses_what_would_be_run(tmp_path):
    payload = Call(Named("os", "system"), f"touch {tmp_path}/ran")
    path = write(tmp_path, {"state_dict": {}, "lemniscate": payload})
    result = commands.run("convert", f"--from={path}", f"--to={tmp_path}/run")
    assert result.returncode == 2
    assert "os.system" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
def test_a_converted_run_is_exported_and_searched(tmp_path, encoder, capsys):
    content, _ = checkpoint(encoder)
    run = convert(write(tmp_path, content), str(tmp_path / "run"), 64)
    version = export_run(
        run, str(tmp_path / "model"), ExportOptions(batch_sizes=(1,))
    )
    model = tf.saved_model.load(str(version))
    served = model.signatures["serving_default"](tf.constant(images_of(1, 64)))
    np.testing.assert_allclose(
        served["embedding"], encoder(images_of(1, 64)), atol=1e-5
    )
    # Without images, all are missing, which is reported where they are needed.
    images = run_images.open_images(run)
    pictures, found = images.read(np.arange(6), size=8)
    assert not found.any()
    assert (pictures == pictures[0, 0, 0, 0]).all()
    # The checkpoint's rows are those of training; no image can be encoded.
    assert len(duplicates.training_images(images, run).bank.rows) == 6
    assert "None of the 6 images" in capsys.readouterr().err
