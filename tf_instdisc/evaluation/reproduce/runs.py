"""The runs of a table: their directories, flags and training."""

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

from tf_instdisc import progress, remote
from tf_instdisc.config import RunConfig
from tf_instdisc.config.run import differences, from_flagfile
from tf_instdisc.errors import DamagedFileError, UsageError
from tf_instdisc.evaluation.reproduce.tables import Row, Table
from tf_instdisc.runs.directory import RunDirectory

Train = Callable[[str, Sequence[str], dict[str, str]], None]
"""Trains a run, given its directory, training flags and environment."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed.

    Attributes:
        flags: All flags of instdisc-train, with the recipe's flagfile first.
        config: The settings that these flags give.
    """

    row: Row
    seed: int
    directory: RunDirectory
    flags: tuple[str, ...]
    config: RunConfig = dataclasses.field(default_factory=RunConfig)

    @property
    def name(self) -> str:
        """The path of the directory, or its URL."""
        return remote.named(str(self.directory.path))

    @property
    def changes(self) -> list[str]:
        """The flags with which the run changes its recipe."""
        return [
            flag
            for flag in self.flags[1:]
            if not flag.startswith(("--run_dir", "--seed", "--data_dir"))
        ]

    @property
    def is_finished(self) -> bool:
        """Whether the run has the results of all its epochs."""
        if not self.directory.bank.exists():
            return False
        try:
            _, _, encoded_by = self.directory.read_bank_ids()
        except (OSError, DamagedFileError):
            return False  # Training rewrites a damaged file.
        if encoded_by is None or encoded_by.epochs < 0:
            return True
        return (
            encoded_by.epochs >= self.config.optimizer.epochs
            and encoded_by.encoder == self.directory.encoder_digest()
        )


@dataclasses.dataclass(frozen=True)
class Training:
    """How the runs of tables are trained.

    Attributes:
        more: Flags of instdisc-train that are added to every run.
        num_seeds: Number of seeds for each row.
        num_jobs: Number of runs that are trained at the same time.
    """

    more: Sequence[str]
    num_seeds: int
    runs_dir: pathlib.Path
    train: Train
    num_jobs: int = 1


def recipe_config(path: pathlib.Path, more: Sequence[str]) -> RunConfig:
    """Returns the settings of a recipe, changed by flags."""
    return from_flagfile(path.read_text(encoding="utf-8"), *more)


def plan_runs(
    table: Table,
    recipe: pathlib.Path,
    more: Sequence[str],
    num_images: int,
    num_seeds: int,
    runs_dir: pathlib.Path,
) -> list[Run]:
    """Returns all runs of a table, ordered by seed."""
    split = recipe_config(recipe, more).data.split.split("[")[0]
    runs = []
    for seed in range(num_seeds):
        for row in table.rows:
            flags = [f"--flagfile={recipe}", *more, *row.flags]
            if row.fraction < 1:
                # The paper does not say how long it trained on a fraction of
                # the images. Here, the number of epochs is the same.
                count = max(2, round(row.fraction * num_images))
                flags.append(f"--split={split}[:{count}]")
            path = pathlib.Path(runs_dir, recipe.stem, row.run, f"seed{seed}")
            flags += [f"--seed={seed}", f"--run_dir={path}"]
            config = recipe_config(recipe, flags[1:])
            runs.append(
                Run(row, seed, RunDirectory(path), tuple(flags), config)
            )
    return runs


def require_planned_settings(runs: Sequence[Run]) -> None:
    """Raises UsageError if a finished run was trained with other settings.

    The table would list the flags of the plan beside its numbers.
    """
    for run in runs:
        if not run.is_finished:
            continue
        config = run.directory.read_config()
        changed, refused = differences(config, run.config)
        found = {**changed, **refused}
        if run.config.encoder.precision == "auto":
            found.pop("precision", None)
        if config.data.split != run.config.data.split:
            found["split"] = config.data.split, run.config.data.split
        folders = config.data.images, run.config.data.images
        # The run's folder may have been resolved from another directory.
        if len({folder and os.path.abspath(folder) for folder in folders}) > 1:
            found["images"] = folders
        if found:
            details = ", ".join(
                f"{name}={old} instead of {new}"
                for name, (old, new) in found.items()
            )
            raise UsageError(
                "A finished run must have been trained with the settings of "
                f"the table. Received: run_dir={run.name}, with {details}. "
                "Give another --runs_dir, the same --train_flag as before, or "
                "remove the run to train it again."
            )


def train_missing(
    runs: Sequence[Run],
    train: Train,
    num_jobs: int,
) -> None:
    """Trains the runs that are not finished; `num_jobs` divide the cores.

    `train` begins no further run after one has failed or was stopped.
    """
    missing = {r.directory.path: r for r in runs if not r.is_finished}
    environment = dict(os.environ)
    if num_jobs > 1:
        cores = max(1, (os.cpu_count() or 1) // num_jobs)
        for kind in ("INTRAOP", "INTEROP"):
            environment.setdefault(f"TF_NUM_{kind}_THREADS", str(cores))

    def train_one(run: Run) -> None:
        train(str(run.directory.path), run.flags, environment)

    with (
        progress.tracking("training runs", len(missing)) as advance,
        concurrent.futures.ThreadPoolExecutor(num_jobs) as pool,
    ):
        running = {pool.submit(train_one, run) for run in missing.values()}
        try:
            while running:
                # Without a timeout, a signal that arrives just before the wait
                # is handled only after it.
                done, running = concurrent.futures.wait(
                    running, 1, concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    future.result()
                    advance(1)
        finally:
            pool.shutdown(cancel_futures=True)
