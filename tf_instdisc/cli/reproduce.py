"""instdisc-reproduce: makes the paper's tables again."""

import pathlib
import signal
import subprocess
import sys

from tf_instdisc.cli import interrupt
from tf_instdisc.cli.flag_groups import reproduce
from tf_instdisc.cli.launch import launch
from tf_instdisc.errors import RunStoppedError, UsageError

_SUMMARY = """
Trains what a table of the paper needs and is not there, measures it, and
writes tables/NAME.md with the paper's numbers beside. The same command again
goes on where it was stopped.

  instdisc-reproduce --table=cifar10_objectives --seeds=3 --jobs=2
"""


def main() -> None:
    """Entry point of `instdisc-reproduce`."""
    launch(_reproduce, _SUMMARY, (reproduce,))


def _reproduce() -> None:
    from tf_instdisc.evaluation.reproduce import runs, tables
    from tf_instdisc.evaluation.reproduce.make import make_table

    scale = tables.SCALES[reproduce.SCALE.value]
    recipes = runs.find_recipes(reproduce.RECIPES_DIR.value)
    more = list(reproduce.TRAIN_FLAG.value)
    if reproduce.DATA_DIR.value:
        more.insert(0, f"--data_dir={reproduce.DATA_DIR.value}")
    trainer = _Trainer()
    signal.signal(signal.SIGTERM, trainer.stop)
    signal.signal(signal.SIGINT, trainer.interrupt)
    for name in dict.fromkeys(reproduce.TABLE.value or ()):
        make_table(
            name,
            scale,
            recipes,
            more,
            reproduce.SEEDS.value,
            pathlib.Path(reproduce.RUNS_DIR.value),
            pathlib.Path(reproduce.TABLES_DIR.value),
            command=_command(name),
            train=trainer.train,
            num_jobs=reproduce.JOBS.value,
            rows=reproduce.ROWS.value,
        )


def _command(name):
    return (
        f"instdisc-reproduce --table={name} --scale={reproduce.SCALE.value} "
        f"--seeds={reproduce.SEEDS.value}"
    )


class _Trainer:
    """Runs instdisc-train; processes of their own start from a clean state."""

    def __init__(self):
        self._running: set[subprocess.Popen] = set()

    def train(self, run_dir, train_flags, environment):
        """Trains one run; its output goes beside its directory."""
        log_path = f"{run_dir}.log"
        pathlib.Path(log_path).parent.mkdir(parents=True, exist_ok=True)
        with open(log_path, "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tf_instdisc.cli.train", *train_flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            self._running.add(process)
            status = process.wait()
            self._running.discard(process)
        if status:
            ends = {RunStoppedError.exit_status, -signal.SIGTERM}
            kind = RunStoppedError if status in ends else UsageError
            raise kind(
                f"Training ended with status {status}; {log_path} says why. "
                "The same command again goes on."
            )

    def interrupt(self, *_):
        """Stops the runs, which save, and then this command."""
        signal.signal(signal.SIGINT, lambda *_: interrupt.end_at_once())
        for process in tuple(self._running):
            process.terminate()
        raise interrupt.Interrupted

    def stop(self, *_):
        """Stops the runs, which save; ends at once where there is none."""
        for process in tuple(self._running):
            process.terminate()
        if not self._running:
            raise RunStoppedError("Stopped; the same command again goes on.")


if __name__ == "__main__":
    main()
