"""The cost of the report and the duplicates of a large bank without images.

    python -m benchmarks.large_bank [--rows=1000000] [--commands=report]

The bank contains random rows of 128 numbers and 100 planted pairs with a cosine
of at least 0.99. The commands run in their own processes.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

import tf_instdisc
from benchmarks import timing
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.runs import directory, opening
from tf_instdisc.runs.bank import Bank, EncodedBy
from tf_instdisc.runs.record import RunRecord

DIM = 128
NUM_PAIRS = 100


def make_run(path: pathlib.Path, num_rows: int) -> directory.RunDirectory:
    """Creates a random run in which rows i and num_rows - 1 - i are pairs."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal([num_rows, DIM], np.float32)
    noise = rng.standard_normal([NUM_PAIRS, DIM], np.float32)
    rows[: -NUM_PAIRS - 1 : -1] = rows[:NUM_PAIRS] + noise / 20
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    text = f"--images={path / 'missing'}\n--image_size=32\n"
    run = opening.open_run(str(path), RunRecord(from_flagfile(text)))
    run.path.mkdir(parents=True, exist_ok=True)
    tf_instdisc.build_encoder("resnet18", image_size=32, width=1).save(
        run.encoder
    )
    run.save_bank(
        Bank(
            rows,
            np.arange(num_rows),
            np.array([f"{i}.jpg" for i in range(num_rows)]),
            np.full(num_rows, -1),
            encoded_by=EncodedBy(run.encoder_digest()),
        )
    )
    return run


def main() -> None:
    """Prints the table."""
    parser = timing.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--commands", default="report,duplicates")
    parsed = parser.parse_args()
    num_rows = 300 if parsed.tiny else parsed.rows
    commands = "duplicates" if parsed.tiny else parsed.commands
    table = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        run = make_run(root / "run", num_rows)
        arguments = {
            "report": [],
            "duplicates": [f"--output={root / 'pairs.tsv'}"],
        }
        for name in commands.split(","):
            usage = _measure(name, f"--run_dir={run.path}", *arguments[name])
            outcome = ""
            if name == "duplicates":
                lines = (root / "pairs.tsv").read_text().splitlines()[1:]
                outcome = _outcome(lines, num_rows)
            else:
                outcome = f"{run.report.stat().st_size / 1e6:.1f} MB"
            table.append([name, f"{num_rows:,}", *usage, outcome])
    head = ["command", "rows", "CPU seconds", "seconds", "peak GB", "outcome"]
    timing.print_table(head, table)


def _measure(name: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "tf_instdisc", name, *arguments]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    seconds = time.perf_counter() - start
    cpu = usage.ru_utime + usage.ru_stime
    return [f"{cpu:.0f}", f"{seconds:.0f}", f"{usage.ru_maxrss / 1e6:.1f}"]


def _outcome(lines: list[str], num_rows: int) -> str:
    """Compares the groups of the TSV file with the planted pairs."""
    groups: dict[str, set[int]] = {}
    for line in lines:
        group, _, instance_id, *_ = line.split("\t")
        groups.setdefault(group, set()).add(int(instance_id))
    planted = [{i, num_rows - 1 - i} for i in range(NUM_PAIRS)]
    found = sum(pair in groups.values() for pair in planted)
    return f"{found} of {NUM_PAIRS} pairs, {len(groups) - found} others"


if __name__ == "__main__":
    main()
