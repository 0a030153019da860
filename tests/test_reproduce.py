import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import commands
from tests.finished_run import linear_encoder
from tf_instdisc import build_encoder
from tf_instdisc.cli import reproduce
from tf_instdisc.errors import RunError, UsageError
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.reproduce import measure, runs, show, tables
from tf_instdisc.evaluation.reproduce.make import make_table
from tf_instdisc.runs import directory, opening
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.embedding import embed
from tf_instdisc.runs.record import RunRecord

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
TINY = (
    "--dataset=instdisc_digits",
    "--split=train[:60]",
    "--test_split=test[:40]",
    "--image_size=16",
)


class Trainer:
    """Makes run directories without training; ends after some if told to."""

    def __init__(self, stop_after=None):
        self.trained = []
        self.stop_after = stop_after

    def __call__(self, run_dir, flags, environment):
        if len(self.trained) == self.stop_after:
            raise RuntimeError("stopped")
        self.trained.append(run_dir)
        recipe = pathlib.Path(flags[0].removeprefix("--flagfile="))
        config = runs.recipe_config(recipe, flags[1:])
        run = opening.open_run(run_dir, RunRecord(config))
        rng = np.random.default_rng(len(run_dir))
        for epoch in range(1, 9):
            loss = 10 - epoch + rng.uniform()
            run.append_metrics(
                {"epoch": epoch, "loss": loss, "images_per_second": 50.0}
            )
        run.save_encoder(linear_encoder())
        rows = rng.normal(size=(3, 32)).astype(np.float32)
        run.save_bank(
            Bank(
                rows,
                np.arange(3),
                np.array(list("abc")),
                np.zeros(3, int),
                tuple("0123456789"),
            )
        )


def make(name, folder, trainer, seeds=2, rows=None, more=()):
    flags = (*TINY, *more)
    make_table(
        name,
        tables.SCALES["small"],
        runs.Training(flags, seeds, folder / "runs", trainer),
        folder / "tables",
        command="instdisc-reproduce ...",
        rows=rows,
    )
    return (folder / "tables" / f"{name}.md").read_text()


def plan(name, scale="small", more=(), num_images=10_000, seeds=1):
    table = tables.TABLES[name]
    chosen = tables.SCALES[scale]
    recipe = ROOT / "flags" / chosen.recipes[table.recipe]
    return runs.plan_runs(
        table, recipe, more, num_images, seeds, pathlib.Path("runs")
    )


def kept_in(folder, name):
    """What is kept of a table, by the directories of its runs."""
    files = (folder / "tables" / name).glob("*.json")
    return {one["run"]: one for one in map(json.loads, map(read, files))}


def read(path):
    return path.read_text()


@pytest.mark.parametrize("scale", tables.SCALES)
@pytest.mark.parametrize("name", tables.TABLES)
def test_every_row_has_a_run_and_tables_share_them(name, scale):
    planned = plan(name, scale, seeds=2)
    assert len(planned) == 2 * len(tables.TABLES[name].rows)
    assert len({r.directory.path for r in planned}) == len(planned)
    if name != "proximal":
        base = {r.directory.path.parent.name for r in planned}
        assert "base" in base


def test_a_fraction_of_the_images_is_trained_like_all_of_them():
    planned = {r.row.fraction: r.flags for r in plan("training_size")}
    assert "--split=train[:3000]" in planned[0.3]
    assert "--split=train[:10]" in planned[0.001]
    assert not any(flag.startswith("--split") for flag in planned[1])
    for flags in planned.values():
        assert not any(flag.startswith("--epochs") for flag in flags)
    at_paper_scale = plan("training_size", "paper", num_images=1_281_167)
    assert "--split=train[:1281]" in at_paper_scale[0].flags


def test_a_table_has_ours_beside_the_papers(tmp_path):
    trainer = Trainer()
    text = make("embedding_size", tmp_path, trainer)
    assert len(trainer.trained) == 8
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0].startswith("|  | kNN | paper: kNN | seeds | flags |")
    rows = {line.split(" | ")[0]: line for line in lines[2:]}
    assert "| 34.0 | 2 | `--dataset=instdisc_digits`" in rows["| 32"]
    assert "`--embedding_dim=32`" in rows["| 32"]
    # The same number as a hand-made vote over the same embeddings.
    planned = plan("embedding_size", more=TINY, num_images=60)
    path = tmp_path / planned[0].directory.path
    run = directory.RunDirectory(path)
    inputs = EvaluationInputs(run)
    train, test = (
        embed(inputs.encoder, inputs.images(source))
        for source in (inputs.source, inputs.test_source)
    )
    hits = 0
    for query, label in zip(test.embeddings, test.labels, strict=True):
        votes = np.zeros(10)
        for row, row_label in zip(train.embeddings, train.labels, strict=True):
            votes[row_label] += np.exp((query @ row) / 0.1)
        hits += votes.argmax() == label
    (cell,) = kept_in(tmp_path, "embedding_size")[str(path)]["values"]
    assert cell == ["32", "kNN", pytest.approx(hits / 40)]
    assert (tmp_path / "tables/embedding_size.png").stat().st_size > 5000


@pytest.mark.exhaustive
def test_a_stopped_table_is_continued(tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        make("proximal", tmp_path, Trainer(stop_after=3), seeds=1)
    rest = Trainer()
    text = make("proximal", tmp_path, rest, seeds=1)
    assert len(rest.trained) == len(tables.TABLES["proximal"].rows) - 3
    before = kept_in(tmp_path, "proximal")
    again = Trainer()
    assert make("proximal", tmp_path, again, seeds=1) == text
    assert not again.trained
    assert kept_in(tmp_path, "proximal") == before

    # Another encoder in the place of one is measured again.
    run = next((tmp_path / "runs").rglob("encoder.keras")).parent
    encoder = linear_encoder()
    encoder.set_weights([w * 2 + 0.1 for w in encoder.get_weights()])
    directory.RunDirectory(run).save_encoder(encoder)
    make("proximal", tmp_path, again, seeds=1)
    after = kept_in(tmp_path, "proximal")
    assert [one for one in after if after[one] != before[one]] == [str(run)]


def test_machines_that_share_a_table_keep_each_others_rows(
    tmp_path, monkeypatch
):
    """Each has runs of its own; the last one shows the rows of both."""

    def rows_of(text):
        lines = [line for line in text.splitlines() if line[:2] == "| "]
        return [line.split(" | ")[0][2:] for line in lines[2:]]

    for machine, row, shown in (
        ("one", "base", ["128"]),
        ("other", "embedding_dim-32", ["32", "128"]),
    ):
        place = tmp_path / machine
        place.mkdir()
        (place / "tables").symlink_to(tmp_path)
        text = make("embedding_size", place, Trainer(), 1, [row])
        assert rows_of(text) == shown
    # Rows of runs that were trained otherwise are not shown.
    text = make("embedding_size", place, Trainer(), 1, ["embedding_dim-64"])
    assert rows_of(text) == ["32", "64", "128"]
    # Also a row that is measured while this machine measures its own.
    (file,) = (tmp_path / "embedding_size").glob("*-base-*.json")
    late = file.rename(tmp_path / "late.json")
    measured = measure.measure

    def measure_slowly(*arguments):
        late.rename(file)
        return measured(*arguments)

    monkeypatch.setattr(measure, "measure", measure_slowly)
    (own,) = (tmp_path / "embedding_size").glob("*-embedding_dim-64-*.json")
    own.write_text("{")  # It is damaged, and measured again.
    text = make("embedding_size", place, Trainer(), 1, ["embedding_dim-64"])
    assert rows_of(text) == ["32", "64", "128"]
    monkeypatch.undo()
    more = ["--epochs=7"]
    text = make(
        "embedding_size", place, Trainer(), 1, ["embedding_dim-256"], more
    )
    assert rows_of(text) == ["256"]


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("--learning_rate=0.03", "--learning_rate=0.1", "=0.03 instead of 0.1"),
        ("--epochs=9", "--epochs=8", "epochs=9 instead of 8"),
        (
            "--split=train[:50]",
            "--split=train[:60]",
            "split=train[:50] instead",
        ),
    ],
)
def test_a_table_does_not_list_flags_its_runs_were_not_trained_with(
    before, after, found, tmp_path
):
    def make_with(flag):
        make("embedding_size", tmp_path, trainer, 1, ["base"], [flag])

    trainer = Trainer()
    make_with(before)
    with pytest.raises(UsageError, match="another --runs_dir") as raised:
        make_with(after)
    assert found in str(raised.value)
    make_with(before)
    assert len(trainer.trained) == 1


def test_a_run_with_a_damaged_bank_is_trained_again(tmp_path):
    recipe = f"--flagfile={ROOT / 'flags/cifar10_sweep.flags'}"
    Trainer()(str(tmp_path / "run"), [recipe, "--epochs=1"], {})
    run = runs.Run(None, 0, directory.RunDirectory(tmp_path / "run"), ())
    assert run.is_finished
    content = bytearray(run.directory.bank.read_bytes())
    content[len(content) // 2] ^= 1
    run.directory.bank.write_bytes(content)
    assert not run.is_finished


def test_curves_are_kept_and_their_fluctuation_measured(tmp_path):
    text = make("proximal", tmp_path, Trainer(), seeds=1)
    assert "| kNN | last loss | fluctuation of the loss |" in text
    for entry in kept_in(tmp_path, "proximal").values():
        curve = entry["curve"]
        wanted = np.mean(
            [
                abs(curve[i] - (curve[i - 1] + curve[i + 1]) / 2)
                for i in range(3, 7)
            ]
        )
        (found,) = (v for _, c, v in entry["values"] if "fluctuation" in c)
        assert found == pytest.approx(wanted)
    assert measure.fluctuation([5, 4, 3, 2, 1, 0]) == pytest.approx(0)


def test_seeds_give_mean_and_deviation():
    table = tables.TABLES["cifar10_objectives"]
    row = table.rows[1]
    measured = [
        (
            runs.Run(row, seed, directory.RunDirectory(pathlib.Path()), ()),
            measure.Measured({(row.label, "kNN"): value}),
        )
        for seed, value in enumerate((0.40, 0.42, 0.44))
    ]
    text = show.markdown(table, measured, "command", None)
    assert "| exact softmax | 42.0 ± 2.0 | 80.8 | 3 |" in text


def test_each_line_has_the_flags_of_its_run():
    table = tables.TABLES["layers"]
    path = directory.RunDirectory(pathlib.Path())
    run = runs.Run(table.rows[0], 0, path, ("--flagfile=x", "--width=8"))
    measured = measure.Measured({("linear, conv1", "top1"): 0.5})
    text = show.markdown(table, [(run, measured)], "command", None)
    assert "| 1 | `--width=8` |" in text


@pytest.mark.exhaustive
def test_the_command_trains_what_is_missing(tmp_path):
    small = (
        *("--split=train[:60]", "--test_split=test[:40]", "--image_size=16"),
        *("--train_image_size=16", "--width=4", "--epochs=2"),
        *("--dataset=instdisc_digits", "--batch_size=16"),
    )
    arguments = [
        *("--table=embedding_size", "--rows=base"),
        f"--runs_dir={tmp_path / 'runs'}",
        f"--tables_dir={tmp_path / 'tables'}",
        *(f"--train_flag={flag}" for flag in small),
    ]
    result = commands.run("reproduce", *arguments)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs/cifar10_sweep/base/seed0"
    finished = directory.RunDirectory(run)
    assert finished.load_bank().rows.shape == (60, 128)
    assert len(finished.read_metrics()) == 2
    text = (tmp_path / "tables/embedding_size.md").read_text()
    assert "'--train_flag=--split=train[:60]' '--train" in text
    assert "--rows=base" in text
    assert "| 128 | " in text
    assert "| 32 | " not in text


@pytest.mark.exhaustive
def test_layers_are_measured_beside_an_untrained_network(tmp_path):
    text = make("layers", tmp_path, Trainer(), seeds=1)
    # The stand-in encoder has no other layer of a name.
    assert "| linear, embedding | " in text
    assert "| linear, embedding, untrained | " in text
    assert text.count("`--dataset=instdisc_digits`") == 2
    assert not list(tmp_path.rglob("*.npy"))  # Large, and never read again.


@pytest.mark.exhaustive
def test_networks_are_measured_with_their_size_and_speed(tmp_path):
    class Networks(Trainer):
        def __call__(self, run_dir, flags, environment):
            super().__call__(run_dir, flags, environment)
            run = directory.RunDirectory(pathlib.Path(run_dir))
            encoder = build_encoder("resnet18", image_size=16, width=4)
            run.save_encoder(encoder)

    rows = ["base", "network-vgg16"]
    text = make("networks", tmp_path, Networks(), seeds=1, rows=rows)
    lines = text.splitlines()
    (vgg16,) = [line for line in lines if line.startswith("| vgg16 | ")]
    cells = [cell.strip() for cell in vgg16.split("|")[2:]]
    assert (cells[1], cells[3]) == ("33.9", "39.2")
    size = build_encoder("resnet18", image_size=16, width=4).count_params()
    assert float(cells[4]) == pytest.approx(size / 1e6, abs=1e-3)
    assert float(cells[5]) == 50
    assert "`--encoder=vgg16`" in vgg16


def test_unknown_rows_are_reported(tmp_path):
    with pytest.raises(ValueError, match="nce-4096"):
        make("cifar10_objectives", tmp_path, Trainer(), rows=["nce-7"])


@pytest.mark.parametrize(
    ("end", "status"),
    [("sys.exit(74)", 74), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 2)],
)
def test_a_failed_run_gives_its_exit_status(tmp_path, monkeypatch, end, status):
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport os, sys\n{end}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RunError, match=r"seed0\.log") as error:
        reproduce.Trainer().train(str(tmp_path / "seed0"), [], {})
    assert error.value.exit_status == status


def test_a_failed_run_stops_the_others_and_no_further_one_begins(
    tmp_path, monkeypatch
):
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport pathlib, sys, time\n"
        f"begun = pathlib.Path({str(tmp_path / 'begun')!r})\n"
        "if 'fails' not in sys.argv:\n"
        "    begun.touch()\n"
        "    time.sleep(600)\n"
        "while not begun.exists():\n"
        "    time.sleep(0.01)\n"
        "sys.exit(3)\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    planned = [
        runs.Run(None, 0, directory.RunDirectory(tmp_path / name), (name,))
        for name in ("lasts", "fails", "waits")
    ]
    start = time.monotonic()
    with pytest.raises(RunError, match="status 3") as error:
        runs.train_missing(planned, reproduce.Trainer().train, num_jobs=2)
    assert error.value.exit_status == 3
    assert time.monotonic() - start < 300
    assert {path.stem for path in tmp_path.glob("*.log")} == {"lasts", "fails"}


def test_the_command_of_a_table_has_what_determines_it():
    options = reproduce.ReproduceOptions(
        table=("layers",), rows=("base",), train_flag=("--split=train[:9]",)
    )
    assert reproduce.command("layers", options) == (
        "instdisc-reproduce --table=layers --scale=small --seeds=1 "
        "'--train_flag=--split=train[:9]' --rows=base"
    )


def reproduce_arguments(folder, *train_flags):
    """The arguments of a table of several runs."""
    return [
        "--table=embedding_size",
        f"--runs_dir={folder / 'runs'}",
        f"--tables_dir={folder / 'tables'}",
        *(f"--train_flag={flag}" for flag in (*TINY, *train_flags)),
    ]


def test_a_failed_run_is_reported_with_its_log_and_no_other_starts(tmp_path):
    result = commands.run(
        "reproduce", *reproduce_arguments(tmp_path, "--no_such_flag")
    )
    assert result.returncode == 2
    (log,) = tmp_path.rglob("*.log")
    assert str(log) in result.stderr
    assert "no_such_flag" in log.read_text()


def test_no_run_begins_after_a_stop(tmp_path):
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tf_instdisc", "reproduce"),
            *reproduce_arguments(tmp_path, "--epochs=1000", "--width=4"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not list(tmp_path.rglob("*.log")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.terminate()
        try:
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 75, said
    assert len(list(tmp_path.rglob("*.log"))) == 1
