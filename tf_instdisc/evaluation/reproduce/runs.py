"""The runs of a table: where they lie, their flags, and training them."""

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

from tf_instdisc.config import RunConfig, recipes
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.errors import DamagedFileError, MissingFileError
from tf_instdisc.evaluation.reproduce.tables import Row, Table
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.text import shown

Train = Callable[[str, Sequence[str], dict[str, str]], None]
"""Given a run's directory, flags of instdisc-train, and the environment."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed.

    Attributes:
        row: What it is a run of.
        seed: Its seed.
        directory: Where it lies.
        flags: All flags of instdisc-train, the recipe's flagfile first.
        epochs: Epochs after which it is finished.
    """

    row: Row
    seed: int
    directory: RunDirectory
    flags: tuple[str, ...]
    epochs: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether there are results, and they are those of all epochs."""
        if not self.directory.bank.exists():
            return False
        try:
            _, _, encoded_by = self.directory.read_instances()
        except (OSError, DamagedFileError):
            return False  # Damaged: training writes it again.
        if encoded_by is None or encoded_by.epochs < 0:
            return True
        return (
            encoded_by.epochs >= self.epochs
            and encoded_by.encoder == self.directory.encoder_digest()
        )


@dataclasses.dataclass(frozen=True)
class Training:
    """How the runs of tables are trained.

    Attributes:
        recipes: The folder of the recipes.
        more: Flags of instdisc-train, added to every run.
        num_seeds: Seeds of each row.
        runs_dir: Where runs are kept.
        train: Trains a run.
        num_jobs: Runs trained at the same time.
    """

    recipes: pathlib.Path
    more: Sequence[str]
    num_seeds: int
    runs_dir: pathlib.Path
    train: Train
    num_jobs: int = 1


def find_recipes(recipes_dir: str | None) -> pathlib.Path:
    """The folder of flagfiles: the given one, or the package's own.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = (
        recipes.FOLDER if recipes_dir is None else pathlib.Path(recipes_dir)
    )
    if any(folder.glob("*.flags")):
        return folder
    raise MissingFileError(
        f"`recipes_dir` must hold the recipes (*.flags). Received: {folder}"
    )


def recipe_config(path: pathlib.Path, more: Sequence[str]) -> RunConfig:
    """The settings of a recipe, changed by flags."""
    return from_flagfile(path.read_text(encoding="utf-8"), *more)


def plan_runs(
    table: Table,
    recipe: pathlib.Path,
    more: Sequence[str],
    num_images: int,
    num_seeds: int,
    runs_dir: pathlib.Path,
) -> list[Run]:
    """Lists all runs of a table, seed by seed.

    Args:
        table: The table.
        recipe: The flagfile.
        more: Flags added to every run.
        num_images: Training images of the recipe.
        num_seeds: Seeds of each row, from 0.
        runs_dir: Where runs are kept.

    Returns:
        The runs.
    """
    split = recipe_config(recipe, more).data.split.split("[")[0]
    runs = []
    for seed in range(num_seeds):
        for row in table.rows:
            flags = [f"--flagfile={recipe}", *more, *row.flags]
            if row.share < 1:
                # The paper does not say how long it trained on a share of the
                # images; here it is for as many epochs as on all.
                count = max(2, round(row.share * num_images))
                flags.append(f"--split={split}[:{count}]")
            path = pathlib.Path(runs_dir, recipe.stem, row.run, f"seed{seed}")
            flags += [f"--seed={seed}", f"--run_dir={path}"]
            given = recipe_config(recipe, [*more, *row.flags])
            runs.append(
                Run(
                    row,
                    seed,
                    RunDirectory(path),
                    tuple(flags),
                    given.optimizer.epochs,
                )
            )
    return runs


def train_missing(
    runs: Sequence[Run],
    train: Train,
    num_jobs: int,
) -> None:
    """Trains the runs that are not finished.

    Args:
        runs: Runs; two of one directory are trained once.
        train: Trains a run in a process of its own; raises if that fails.
        num_jobs: Runs at the same time, each with its part of the cores.
    """
    missing = {r.directory.path: r for r in runs if not r.is_finished}
    environment = dict(os.environ)
    if num_jobs > 1:
        cores = max(1, (os.cpu_count() or 1) // num_jobs)
        for kind in ("INTRAOP", "INTEROP"):
            environment.setdefault(f"TF_NUM_{kind}_THREADS", str(cores))

    def train_one(run: Run) -> None:
        print(f"training {shown(str(run.directory.path))}", flush=True)
        train(str(run.directory.path), run.flags, environment)

    with concurrent.futures.ThreadPoolExecutor(num_jobs) as pool:
        started = [pool.submit(train_one, run) for run in missing.values()]
        try:
            for future in concurrent.futures.as_completed(started):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
