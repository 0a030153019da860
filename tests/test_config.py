"""Settings: ranges, their forms as JSON and flags, and what may change."""

import dataclasses
import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from tf_instdisc import config
from tf_instdisc.config import fields
from tf_instdisc.config.run import differences, from_flagfile, from_json
from tf_instdisc.errors import UsageError

ROOT = pathlib.Path(__file__).parent.parent
GROUPS = [
    (group.name, type(getattr(config.RunConfig(), group.name)))
    for group in dataclasses.fields(config.RunConfig)
]
FIELDS = [
    (kind, field) for _, kind in GROUPS for field in dataclasses.fields(kind)
]
IDS = [field.name for _, field in FIELDS]


def beyond(kind, field):
    """Values that a field must refuse."""
    rule = fields.rule_of(field)
    value_type, is_tuple = fields.kind_of(kind, field)
    found = [object(), b"bytes"]
    if rule.choices:
        found.append("no such choice")
    if value_type in (int, float):
        if rule.least is not None:
            found.append(value_type(rule.least - 1))
        if rule.most is not None:
            found.append(value_type(rule.most + 1))
            if rule.excludes_most:
                found.append(value_type(rule.most))
        found += [True, "1"]
    if value_type is int:
        found.append(1.5)
    if value_type is float:
        found += [float("nan"), float("inf")]
    if value_type is bool:
        found += [1, "true"]
    if rule.is_path:
        found.append("gs://bucket/folder")
    if is_tuple:
        found = [(value,) for value in found] + [(2, 2), (0, 1), 3]
    return found


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=IDS)
def test_each_field_refuses_what_is_out_of_range(kind, field):
    for value in beyond(kind, field):
        with pytest.raises(UsageError, match=field.name) as raised:
            kind(**{field.name: value})
        assert "Received" in str(raised.value)


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=IDS)
def test_each_field_has_help_and_a_unique_name(kind, field):
    text = fields.rule_of(field).help
    assert text.endswith(".")
    assert "Share" not in text
    names = [fields.flag_of(other) for _, other in FIELDS]
    assert names.count(fields.flag_of(field)) == 1


OTHER = config.RunConfig(
    data=config.DataConfig(dataset="cifar10", test_split="", image_size=64),
    augmentation=config.AugmentationConfig(flip=False, hue=0.0),
    encoder=config.EncoderConfig(backbone="resnet50", mean=(0.5, 0.5, 0.5)),
    method=config.MethodConfig(objective="softmax", temperature=0.1),
    optimizer=config.OptimizerConfig(schedule_epochs=(3, 5, 9), epochs=11),
    training=config.TrainingConfig(seed=5, keep_best=True),
)


@pytest.mark.parametrize("given", [config.RunConfig(), OTHER])
def test_settings_survive_json_and_flags(given):
    assert from_json(json.loads(json.dumps(dataclasses.asdict(given)))) == given
    assert from_flagfile(given.flagfile()) == given


@pytest.mark.parametrize(
    "path", sorted((ROOT / "flags").glob("*.flags")), ids=lambda p: p.stem
)
def test_recipes_are_settings(path):
    text = path.read_text(encoding="utf-8")
    given = from_flagfile(text)
    assert given != config.RunConfig()
    assert from_flagfile(given.flagfile()) == given
    known = {fields.flag_of(field) for _, field in FIELDS}
    assert set(fields.read_flagfile(text)) <= known


def test_the_last_value_of_a_flag_counts():
    given = from_flagfile("# comment\n--epochs=3\n--noflip\n", "--epochs=4\n")
    assert given.optimizer.epochs == 4
    assert not given.augmentation.flip


RATES = (("sgd", 0.03, 1e-4), ("adamw", 1e-3, 0.05))


@pytest.mark.parametrize(("optimizer", "rate", "decay"), RATES)
def test_rates_are_those_of_the_optimizer_unless_they_are_given(
    optimizer, rate, decay
):
    found = config.OptimizerConfig(optimizer=optimizer)
    assert (found.learning_rate, found.weight_decay) == (rate, decay)
    # The numbers are recorded, and shown in `--help`.
    assert dataclasses.asdict(found)["learning_rate"] == rate
    helps = {
        field.name: fields.rule_of(field).help
        for field in dataclasses.fields(config.OptimizerConfig)
    }
    assert f"{rate:g} for {optimizer}" in helps["learning_rate"]
    assert f"{decay:.4f}".rstrip("0") in helps["weight_decay"]
    given = config.OptimizerConfig(
        optimizer=optimizer, learning_rate=0, weight_decay=0.5
    )
    assert (given.learning_rate, given.weight_decay) == (0, 0.5)
    # As in a recipe that states no rates.
    from_file = from_flagfile(f"--dataset=cifar10\n--optimizer={optimizer}")
    assert from_file.optimizer == found


@pytest.mark.parametrize(("optimizer", "rate", "decay"), RATES)
def test_flags_of_commands_have_the_rates_of_the_optimizer(
    optimizer, rate, decay
):
    code = (
        "import sys; from absl import flags;"
        "from tf_instdisc.cli import setting_flags;"
        "from tf_instdisc.config import OptimizerConfig;"
        "groups = setting_flags.define([OptimizerConfig]);"
        "flags.FLAGS(sys.argv); found = groups[OptimizerConfig].read();"
        "print(found.learning_rate, found.weight_decay)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, f"--optimizer={optimizer}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert result.stdout == f"{rate} {decay}\n"


def test_another_optimizer_differs_in_its_rates():
    old = config.RunConfig()
    adamw = config.OptimizerConfig(optimizer="adamw")
    changed, refused = differences(old, config.RunConfig(optimizer=adamw))
    assert set(changed) == {"learning_rate", "weight_decay"}
    assert set(refused) == {"optimizer"}


def test_unknown_settings_are_refused():
    content = dataclasses.asdict(config.RunConfig())
    content["method"]["novelty"] = 1
    with pytest.raises(UsageError, match="novelty"):
        from_json(content)


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (config.DataConfig, {"dataset": "a", "images": "b"}, "either"),
        (config.DataConfig, {"images": "b", "split": "a"}, "split"),
        (config.DataConfig, {"images": "b", "label_key": "a"}, "label_key"),
        (config.DataConfig, {"test_images": "b"}, "test_images"),
        (
            config.EncoderConfig,
            {"jit_encoder": True, "sync_batch_norm": True},
            "XLA",
        ),
        (
            config.EncoderConfig,
            {"backbone": "vgg16", "stem_width": 64},
            "stem_width",
        ),
        (config.EncoderConfig, {"mean": "1,2"}, "mean"),
        (config.EncoderConfig, {"std": "0,0.5,0.5"}, "std"),
        (
            config.MethodConfig,
            {"objective": "softmax", "bank_placement": "host"},
            "device",
        ),
        (
            config.MethodConfig,
            {"negatives": "per_example", "bank_placement": "sharded"},
            "'host', or the negatives 'shared'",
        ),
    ],
)
def test_incompatible_settings_are_refused(kind, values, said):
    with pytest.raises(UsageError, match=said):
        kind(**values)


def test_sizes_must_fit_the_backbone():
    with pytest.raises(UsageError, match="image_size"):
        config.RunConfig(
            data=config.DataConfig(image_size=12),
            encoder=config.EncoderConfig(backbone="alexnet"),
        )


def test_home_directories_are_expanded():
    found = config.DataConfig(images="~/photos").images
    assert found == str(pathlib.Path("~/photos").expanduser())


def test_changeable_and_fixed_settings_are_distinguished():
    old = config.RunConfig()
    changed, refused = differences(old, OTHER)
    assert changed == {
        "epochs": (200, 11),
        "schedule_epochs": ((120, 160), (3, 5, 9)),
    }
    assert set(refused) == {
        *("dataset", "image_size", "flip", "hue", "backbone", "mean"),
        *("objective", "temperature", "seed"),
    }
    assert differences(old, old) == ({}, {})
    method = config.MethodConfig(bank_placement="sharded")
    elsewhere = {"bank_placement": ("device", "sharded")}
    moved = config.RunConfig(method=method)
    assert differences(old, moved) == (elsewhere, {})
    usual = config.RunConfig(data=config.DataConfig(image_key="image"))
    assert differences(old, usual) == ({}, {})


def test_settings_import_nothing_heavy():
    code = (
        "import sys, tf_instdisc.config\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'absl'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("a",),
        ("a", "b"),
        ("a,b", "c"),
        ('a "b", c',),
        ("a b", "c's"),
        ("line\nbreak, and comma", "b"),
    ],
)
def test_values_of_a_list_may_have_commas(values):
    assert tuple(fields.split(fields.text_of(values))) == values


def test_lists_are_split_at_commas():
    assert fields.split("a, b ,,c") == ["a", "b", "c"]
    assert fields.split('"a,b", c') == ["a,b", "c"]
    assert fields.split("a\nb,c") == ["a\nb", "c"]
    assert fields.split('"old" photos,b') == ['"old" photos', "b"]
    assert fields.split('"a') == ['"a']


def all_settings(kind=fields.Settings):
    for module in ("evaluation.protocol", "serving.options", "cli.train"):
        importlib.import_module(f"tf_instdisc.{module}")
    for subclass in kind.__subclasses__():
        yield from (subclass, *all_settings(subclass))


def test_all_paths_may_be_path_objects():
    found = []
    for kind in all_settings():
        for field in dataclasses.fields(kind):
            if (
                not fields.is_setting(field)
                or not fields.rule_of(field).is_path
            ):
                continue
            found.append(field.name)
            path = pathlib.Path("~/photos")
            texts = str(path), str(path.expanduser())
            _, is_tuple = fields.kind_of(kind, field)
            given, _, stored = (
                (value,) if is_tuple else value for value in (path, *texts)
            )
            assert fields.checked(kind, field, given) == stored, field.name
    names = {"images", "test_images", "data_dir", "init_run", "run_dir"}
    assert names <= set(found)
    with pytest.raises(UsageError, match="`dataset` must be of type str"):
        config.DataConfig(dataset=pathlib.Path("cifar10"))


def test_settings_of_path_objects_are_those_of_their_texts():
    one, other = (
        config.RunConfig(
            data=config.DataConfig(images=kind("photos")),
            encoder=config.EncoderConfig(init_encoder=kind("a/encoder.keras")),
        )
        for kind in (str, pathlib.Path)
    )
    assert one == other
    content = json.loads(json.dumps(dataclasses.asdict(other)))
    assert from_json(content) == one
