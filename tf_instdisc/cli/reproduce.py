"""Trains and measures the missing runs of a table of the paper.

It writes tables/NAME.md, which includes the paper's numbers. After an
interruption, the same command continues.

Example:
  instdisc-reproduce --table=cifar10_objectives --seeds=3 --jobs=2
"""

import dataclasses
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tf_instdisc import remote
from tf_instdisc.cli import interrupt
from tf_instdisc.config.fields import Settings, setting, text_of
from tf_instdisc.errors import RunError, RunStoppedError, UsageError
from tf_instdisc.evaluation.reproduce import tables
from tf_instdisc.paths import local_path
from tf_instdisc.text import shown


@dataclasses.dataclass(frozen=True)
class ReproduceOptions(Settings):
    """Tables"""

    table: tuple[str, ...] = setting(
        None,
        "Tables to make; repeatable.",
        choices=tuple(tables.TABLES),
        is_required=True,
        is_repeatable=True,
    )
    scale: str = setting(
        "small",
        "small: 10,000 images of CIFAR-10 and a narrow network, for two "
        "cores. paper: the data and networks of the paper, for GPUs.",
        choices=tuple(tables.SCALES),
    )
    seeds: int = setting(
        1, "Number of seeds for each row; they start at 0.", least=1
    )
    data_dir: str | None = setting(
        None,
        "Where TFDS keeps its data; by default, its own directory.",
        is_path=True,
    )
    runs_dir: str = setting(
        "runs/reproduce",
        "Directory of the runs; finished ones are not trained again.",
        is_path=True,
    )
    tables_dir: str = setting(
        "tables",
        "Directory of NAME.md, its plot and, in NAME, its numbers.",
        is_path=True,
    )
    jobs: int = setting(
        1,
        "Number of runs at the same time, which divide the cores. Two runs on "
        "one core each are faster than one after the other on both.",
        least=1,
    )
    rows: tuple[str, ...] | None = setting(
        None,
        "Runs of the table to make, by the names of their folders, such as "
        "base,nce-512; this spreads a table over several machines.",
    )
    train_flag: tuple[str, ...] = setting(
        (),
        "A flag of instdisc-train for all runs, such as "
        "--train_flag=--epochs=2; repeatable.",
        is_repeatable=True,
    )


SETTINGS = [ReproduceOptions]


def main(options: ReproduceOptions) -> None:
    """Makes the tables."""
    from tf_instdisc.evaluation.reproduce import runs
    from tf_instdisc.evaluation.reproduce.make import make_table

    more = list(options.train_flag)
    if options.data_dir:
        more.insert(0, f"--data_dir={options.data_dir}")
    trainer = Trainer()
    signal.signal(signal.SIGTERM, trainer.stop)
    signal.signal(signal.SIGINT, trainer.interrupt)
    training = runs.Training(
        more,
        options.seeds,
        pathlib.Path(options.runs_dir),
        trainer.train,
        options.jobs,
    )
    tables_dir = pathlib.Path(
        local_path(options.tables_dir, "tables_dir", "output")
    )
    for name in dict.fromkeys(options.table):
        make_table(
            name,
            tables.SCALES[options.scale],
            training,
            tables_dir,
            command(name, options),
            options.rows,
        )
        remote.send(tables_dir)


def command(name: str, options: ReproduceOptions) -> str:
    """Returns the command that makes a table."""
    flags = [
        f"--table={name}",
        f"--scale={options.scale}",
        f"--seeds={options.seeds}",
        *(f"--train_flag={flag}" for flag in options.train_flag),
    ]
    if options.rows is not None:
        flags.append(f"--rows={text_of(options.rows)}")
    return shlex.join(["instdisc-reproduce", *flags])


class Trainer:
    """Runs instdisc-train in separate processes, which start clean."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        self._is_stopping = False
        self._error: RunError | None = None  # The first one.

    def train(
        self,
        run_dir: str,
        train_flags: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        """Trains one run; writes its output next to its directory."""
        self._end_if_stopped()
        print(f"training {shown(remote.named(run_dir))}", flush=True)
        log_path = f"{run_dir}.log"
        pathlib.Path(log_path).parent.mkdir(parents=True, exist_ok=True)
        with open(log_path, "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tf_instdisc", "train", *train_flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            self._running.add(process)
            if self._is_stopping:
                process.terminate()  # The signal came before the process.
            status = process.wait()
            self._running.discard(process)
        remote.send(log_path)
        if status:
            error = RunError(
                f"Training ended with status {status}; see {log_path}. The "
                "same command continues it."
            )
            if status == -signal.SIGTERM:  # It had nothing to save yet.
                status = RunStoppedError.exit_status
            if status == -signal.SIGKILL:  # As when memory runs out.
                status = UsageError.exit_status
            error.exit_status = max(status, RunError.exit_status)
            self._error = self._error or error
            self._terminate()  # The other runs save their state.
            raise self._error

    def interrupt(self, *_: object) -> None:
        """Stops the runs, which save their state, and then this command."""
        signal.signal(signal.SIGINT, lambda *_: interrupt.end_at_once())
        self._terminate()
        raise interrupt.Interrupted

    def stop(self, *_: object) -> None:
        """Stops the runs, which save their state; ends if there are none."""
        self._terminate()
        if not self._running:
            self._end_if_stopped()

    def _terminate(self) -> None:
        self._is_stopping = True
        for process in tuple(self._running):
            process.terminate()

    def _end_if_stopped(self) -> None:
        if self._is_stopping:
            stopped = RunStoppedError("Stopped; the same command continues.")
            raise self._error or stopped
