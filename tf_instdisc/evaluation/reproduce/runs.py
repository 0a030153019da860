"""The runs of a table: their directories, flags and training."""

import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Sequence

from tf_instdisc import remote
from tf_instdisc.config import RunConfig, recipes
from tf_instdisc.config.run import differences, from_flagfile
from tf_instdisc.errors import DamagedFileError, MissingFileError, UsageError
from tf_instdisc.evaluation.reproduce.tables import Row, Table
from tf_instdisc.paths import local_path
from tf_instdisc.progress import duration
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.text import shown

Train = Callable[[str, Sequence[str], dict[str, str]], None]
"""Trains a run, given its directory, training flags and environment."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed.

    Attributes:
        row: The row of the table.
        seed: The random seed.
        directory: The run directory.
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
        recipes: The folder of the recipes.
        more: Flags of instdisc-train that are added to every run.
        num_seeds: Number of seeds for each row.
        runs_dir: The directory of the runs.
        train: The function that trains a run.
        num_jobs: Number of runs that are trained at the same time.
    """

    recipes: pathlib.Path
    more: Sequence[str]
    num_seeds: int
    runs_dir: pathlib.Path
    train: Train
    num_jobs: int = 1


def find_recipes(recipes_dir: str | None) -> pathlib.Path:
    """Returns the given folder of flagfiles, or the package's own.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = recipes.FOLDER
    if recipes_dir is not None:
        folder = pathlib.Path(local_path(recipes_dir, "recipes_dir"))
    if any(folder.glob("*.flags")):
        return folder
    raise MissingFileError(
        f"`recipes_dir` must hold the recipes (*.flags). Received: {folder}"
    )


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
    """Trains the runs that are not finished; `num_jobs` divide the cores."""
    missing = {r.directory.path: r for r in runs if not r.is_finished}
    environment = dict(os.environ)
    if num_jobs > 1:
        cores = max(1, (os.cpu_count() or 1) // num_jobs)
        for kind in ("INTRAOP", "INTEROP"):
            environment.setdefault(f"TF_NUM_{kind}_THREADS", str(cores))

    def train_one(run: Run) -> None:
        print(f"training {shown(run.name)}", flush=True)
        train(str(run.directory.path), run.flags, environment)

    begin = time.monotonic()
    waiting, num_trained = iter(missing.values()), 0
    with concurrent.futures.ThreadPoolExecutor(num_jobs) as pool:
        first = itertools.islice(waiting, num_jobs)
        running = {pool.submit(train_one, run) for run in first}
        while running:
            # Without a timeout, a signal that arrives just before the wait is
            # handled only after it.
            done, running = concurrent.futures.wait(
                running, 1, concurrent.futures.FIRST_COMPLETED
            )
            # The pool gets another run only after one that has not failed.
            for future in done:
                future.result()
                num_trained += 1
                left = time.monotonic() - begin
                left *= len(missing) / num_trained - 1
                print(
                    f"trained {num_trained} of {len(missing)} runs"
                    + f", {duration(left)} left" * (left > 0),
                    flush=True,
                )
            more = itertools.islice(waiting, len(done))
            running |= {pool.submit(train_one, run) for run in more}
