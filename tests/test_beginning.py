"""How a run begins, and what its command says when it is given again."""

import dataclasses

import pytest

from tests.finished_run import fill_folder
from tests.test_finish import NUM_IMAGES, SIZE, labeled
from tf_instdisc.config import (
    DataConfig,
    EncoderConfig,
    MethodConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from tf_instdisc.errors import UsageError
from tf_instdisc.runs import checkpoints, update
from tf_instdisc.training import strategy as strategies
from tf_instdisc.training import train as training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shallow_resnet18"),
]

CONFIG = RunConfig(
    data=DataConfig(image_size=SIZE),
    encoder=EncoderConfig(width=4, embedding_dim=16),
    method=MethodConfig(objective="softmax"),
    optimizer=OptimizerConfig(epochs=1, batch_size=NUM_IMAGES // 2),
    training=TrainingConfig(num_neighbors=3),
)


def changed(config=CONFIG, **groups):
    """Changes settings: `changed(optimizer={"epochs": 2})`."""
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **settings)
            for name, settings in groups.items()
        },
    )


@pytest.mark.parametrize(("epochs", "fits"), [(1, False), (2, True)])
def test_a_run_that_would_update_nothing_is_refused(tmp_path, epochs, fits):
    config = changed(optimizer={"epochs": epochs, "accumulate_steps": 3})
    if fits:
        training.train(config, str(tmp_path / "run"), labeled())
        return
    with pytest.raises(UsageError, match=r"accumulate_steps=3, and 2 steps"):
        training.train(config, str(tmp_path / "run"), labeled())
    assert not (tmp_path / "run").exists()


def test_after_a_failed_first_start_any_setting_may_change(
    tmp_path, monkeypatch, capsys
):
    path = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(training, "_fit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            training.train(CONFIG, path, labeled())
    config = changed(encoder={"width": 2}, training={"seed": 1})
    run = training.train(config, path, labeled())
    said = capsys.readouterr().out
    assert "Nothing was trained yet" in said
    assert "width: 4 -> 2" in said
    assert run.read_config() == config
    with pytest.raises(UsageError, match="width: 2 -> 4"):
        training.train(CONFIG, path, labeled())


@pytest.mark.parametrize("epochs", [1, 2])
def test_images_that_were_moved_are_found_again(tmp_path, capsys, epochs):
    """After the first epoch of one, and of two with `finish`."""
    old, new = tmp_path / "old", tmp_path / "new"
    fill_folder(old, [f"{number}.png" for number in range(NUM_IMAGES)])
    path = str(tmp_path / "run")
    first = changed(data={"images": str(old)})
    training.train(first, path)
    old.rename(new)
    capsys.readouterr()
    again = changed(
        first,
        data={"images": str(new)},
        optimizer={"epochs": epochs, "learning_rate": 0.5},
    )
    for is_moved in (True, False):
        run = training.train(again, path, finish=epochs > 1)
        said = capsys.readouterr().out
        assert (f"images: {old} -> {new}" in said) == is_moved
        assert "learning_rate" not in said
        assert run.read_config() == changed(first, data={"images": str(new)})


def test_a_bank_that_was_updated_keeps_its_folder(tmp_path, capsys):
    old, grown = tmp_path / "old", tmp_path / "grown"
    names = [f"{number}.png" for number in range(NUM_IMAGES)]
    fill_folder(old, names)
    fill_folder(grown, [*names, "more.png"])
    config = changed(data={"images": str(old)})
    run = training.train(config, str(tmp_path / "run"))
    update.update_run(run, str(grown))
    training.train(config, str(tmp_path / "run"))
    assert "is finished after 1 epoch" in capsys.readouterr().out
    assert run.read_config().data.images == str(grown)


def test_baselines_of_a_run_that_continues_are_those_of_its_beginning(
    tmp_path, capsys
):
    def baselines(name, epochs, wanted):
        config = changed(
            optimizer={"epochs": epochs}, training={"baselines": wanted}
        )
        path = str(tmp_path / name)
        run = training.train(config, path, labeled(), labeled())
        lines = capsys.readouterr().out.splitlines()
        parts = ("| untrained encoder", "| raw pixels", "note: --baselines")
        shown = [line for line in lines if line.startswith(parts)]
        progress = checkpoints.newest_progress(run.checkpoints)
        return shown, progress["baselines"]

    expected = baselines("whole", 2, True)
    assert len(expected[0]) == len(expected[1]) == 2
    assert baselines("run", 1, False) == ([], {})
    (note,), found = baselines("run", 1, True)
    assert "instdisc evaluate" in note
    assert not found
    assert baselines("run", 2, True) == expected
    assert baselines("run", 2, True) == ([], expected[1])


@pytest.mark.parametrize(
    ("distribution", "logical_cpus", "replicas"),
    [("auto", 4, 4), ("auto", 1, 1), ("one_device", 4, 1), ("mirrored", 4, 4)],
)
def test_logical_cpus_are_used(distribution, logical_cpus, replicas):
    """The tests have split the CPU into four."""
    settings = TrainingConfig(
        distribution=distribution, logical_cpus=logical_cpus
    )
    found = strategies.strategy_of(settings).num_replicas_in_sync
    assert found == replicas
