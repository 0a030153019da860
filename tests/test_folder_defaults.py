"""What a run over a folder gets without any other flag."""

import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.buckets import machine
from tests.finished_run import SIZE, fill_folder, make_run, save_run
from tf_instdisc import build_encoder
from tf_instdisc.cli.folder_settings import (
    default_run_dir,
    folder_defaults,
    typical_shorter_side,
)
from tf_instdisc.config import DataConfig, recipes
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.runs import opening

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("num_images", "num_gpus", "width", "batch_size", "epochs"),
    (
        (50, 0, 32, 16, 200),
        (1_000, 0, 32, 32, 100),
        (100_000, 0, 16, 64, 20),
        (50, 1, 64, 32, 200),
        (1_000, 1, 64, 64, 200),
        (100_000, 1, 64, 256, 100),
        (100_000, 3, 64, 258, 100),
    ),
)
def test_sizes_follow_from_the_images_and_devices(
    num_images, num_gpus, width, batch_size, epochs
):
    found = folder_defaults(num_images, 400, num_gpus)
    assert found["width"] == width
    assert found["batch_size"] == batch_size
    assert found["epochs"] == epochs
    assert found["image_size"] == 128
    assert found["objective"] == ("nce" if num_images == 100_000 else "softmax")
    assert found["num_neighbors"] == min(200, num_images // 10)
    assert found["batch_size"] % max(num_gpus, 1) == 0


@pytest.mark.parametrize(
    ("shorter_side", "on_cpus", "on_a_gpu"),
    ((32, 32, 32), (64, 32, 64), (96, 128, 128)),
)
def test_small_images_are_not_enlarged_much(shorter_side, on_cpus, on_a_gpu):
    sizes = [folder_defaults(9, shorter_side, n)["image_size"] for n in (0, 1)]
    assert sizes == [on_cpus, on_a_gpu]


@pytest.mark.parametrize("num_images", (1, 2, 50, 1_000, 100_000, 10**7))
def test_the_settings_are_within_their_ranges(num_images):
    found = folder_defaults(num_images, 400)
    recipe = recipes.path_of("photos").read_text(encoding="utf-8")
    flags = [f"--{name}={value}" for name, value in found.items()]
    assert from_flagfile(recipe, *flags).optimizer.epochs == found["epochs"]


def test_the_shorter_side_is_read_from_headers(tmp_path):
    shapes = {"a.png": (30, 90), "b.jpg": (50, 40), "c.bmp": (70, 80)}
    for name, shape in shapes.items():
        Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "d.jpg").write_bytes(b"no image")
    assert typical_shorter_side(str(tmp_path), [*shapes, "d.jpg"]) == 40
    assert typical_shorter_side(str(tmp_path), ["d.jpg"]) is None


@pytest.mark.parametrize(
    ("data", "recipe", "path"),
    (
        (DataConfig(images="/some/holiday 2/"), "photos", "runs/holiday 2"),
        (DataConfig(dataset="instdisc_digits"), "digits", "runs/digits"),
        (DataConfig(dataset="voc/2012:5.0.0"), None, "runs/voc_2012_5.0.0"),
        (DataConfig(images="/"), None, "runs/images"),
    ),
)
def test_a_run_is_named_after_its_images(data, recipe, path):
    assert default_run_dir(data, recipe) == path


@pytest.mark.exhaustive
def test_a_folder_alone_is_enough_and_flags_take_precedence(tmp_path):
    fill_folder(tmp_path / "holiday", [f"{i}.png" for i in range(20)])
    small = ("--image_size=16", "--width=2", "--optimizer=sgd")
    again = ("--images=holiday", "--epochs=1")
    results = [
        commands.run("train", *flags, cwd=tmp_path)
        for flags in ((*again, *small), again)
    ]
    for result in results:
        assert result.returncode == 0, result.stderr
        assert "The run in runs/holiday is finished" in result.stdout
    first, second = (" ".join(r.stdout.split()) for r in results)
    said = first.partition("warmup")[0]
    assert "--batch_size=16" in said
    assert "--width" not in said
    assert "chosen for these images" not in second
    config = opening.load(str(tmp_path / "runs" / "holiday")).read_config()
    assert config.data.image_size == 16
    assert config.encoder.width == 2
    assert config.method.bank_init == "encode"  # Of the recipe.
    assert config.training.num_neighbors == 2
    assert config.optimizer.learning_rate == 0.03  # That of SGD.


def test_given_flags_are_not_chosen(tmp_path):
    fill_folder(tmp_path / "holiday", ["1.png", "2.png"])
    result = commands.run(
        *("plan", "--images=holiday", "--width=2", "--optimizer=sgd"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    chosen, _, plan = result.stdout.partition("images  ")
    assert "--batch_size=16" in chosen
    for given in ("--width", "--optimizer", "--learning_rate"):
        assert given not in chosen
    assert plan.split()[-1] == "200"  # Updates in 200 epochs.


def test_the_images_of_a_url_are_measured_too(tmp_path):
    fill_folder(tmp_path / "holiday", ["1.png", "2.png"])
    with machine(tmp_path / "machine"):
        result = commands.run(
            "plan", f"--images=file://{tmp_path}/holiday", cwd=tmp_path
        )
    assert result.returncode == 0, result.stderr
    assert "--image_size=32" in result.stdout


def test_the_default_optimizer_keeps_its_rate_if_it_is_named(tmp_path):
    fill_folder(tmp_path / "holiday", ["1.png", "2.png"])
    result = commands.run(
        *("plan", "--images=holiday", "--optimizer=adamw"), cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "--learning_rate=1e-3" in result.stdout
    assert "--weight_decay=0.05" in result.stdout


@pytest.mark.exhaustive_variants("adamw-*", "sgd-sgd-*")
@pytest.mark.parametrize(
    ("before", "given", "rate"),
    (("adamw", "adamw", 0.5), ("sgd", "sgd", 0.5), ("sgd", "adamw", 0.001)),
)
def test_only_the_rate_of_the_same_optimizer_is_continued(
    tmp_path, before, given, rate
):
    fill_folder(tmp_path / "images", [f"{n}.png" for n in range(8)])
    flags = f"--width=2\n--optimizer={before}\n--learning_rate=0.5"
    run = make_run(tmp_path / "run", tmp_path / "images", flags)
    encoder = build_encoder("resnet18", image_size=SIZE, width=2)
    save_run(run, encoder, tmp_path / "images")
    result = commands.run(
        *("train", "--images=images", "--run_dir=new", "--init_run=run"),
        *("--epochs=0", f"--optimizer={given}"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    config = opening.load(str(tmp_path / "new")).read_config()
    assert config.optimizer.learning_rate == rate


def test_a_recipe_takes_precedence(tmp_path):
    fill_folder(tmp_path / "holiday", ["1.png", "2.png"])
    result = commands.run(
        "plan", "--recipe=photos", "--images=holiday", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "chosen for" not in result.stdout
    assert result.stdout.split()[-1] == "50"  # Updates in 50 epochs.
