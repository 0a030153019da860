"""Copies a run's training images without their near-duplicates.

    python examples/clean_a_dataset.py RUN_DIR FOLDER CLEAN_FOLDER

Of each group of near-duplicates, the first image by name is kept.
"""

import pathlib
import shutil
import sys

import tf_instdisc


def main(run_dir: str, folder: str, clean_folder: str) -> None:
    run = tf_instdisc.Run(run_dir)
    dropped = set()
    for group in run.duplicates().groups:
        names = {member.name for member in group} - dropped
        if len(names) > 1:  # An image may belong to several groups.
            kept, *others = sorted(names)
            print(f"{kept}: dropped {', '.join(others)}")
            dropped.update(others)
    for name in run.load_bank().names:
        if name not in dropped:
            target = pathlib.Path(clean_folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pathlib.Path(folder, name), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
