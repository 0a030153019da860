"""Times functions side by side, and measures their memory."""

import argparse
import dataclasses
import importlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

_REST = 0.25  # seconds; OpenMP's threads wait for 0.2 by default
_TURN = 0.1  # seconds


def arguments(doc: str) -> argparse.Namespace:
    """Parses `--tiny`."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument(
        "--tiny", action="store_true", help="small sizes: does it start?"
    )
    return parser.parse_args()


def optional(module: str):
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one function.

    Attributes:
        clock: Median by the clock.
        cpu: The least CPU time of all threads together. It counts what a
            machine that is shared with others does for this process; a
            thread that waits in a loop counts as well.
    """

    clock: float
    cpu: float


def compare(
    functions: dict[str, Callable[[], object]], repeats: int
) -> dict[str, Times]:
    """Times each function.

    They take turns, so that what else the machine does meets all of them,
    and rest before each turn: a library's threads wait in a loop for a while
    after their work, and would take a core from the next one. A turn is as
    many calls as take a tenth of a second.

    Args:
        functions: What to time; each must wait for its result.
        repeats: Turns of each, after two calls that warm up.

    Returns:
        Times by name.
    """
    taken: dict[str, list[tuple[float, float]]] = {k: [] for k in functions}
    calls = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        calls[name] = math.ceil(_TURN / (time.perf_counter() - start))
    for _ in range(repeats):
        for name, function in functions.items():
            time.sleep(_REST)
            clock, cpu = time.perf_counter(), _cpu()
            for _ in range(calls[name]):
                function()
            clock, cpu = time.perf_counter() - clock, _cpu() - cpu
            taken[name].append((clock / calls[name], cpu / calls[name]))
    return {
        name: Times(
            statistics.median(clock for clock, _ in pairs),
            min(cpu for _, cpu in pairs),
        )
        for name, pairs in taken.items()
    }


def cpu_medians(
    functions: dict[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Median CPU seconds of each function, in this process.

    Args:
        functions: As in `compare`.
        repeats: As in `compare`.

    Returns:
        Seconds by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(s[1:]) for name, s in seconds.items()}


def _cpu():
    """CPU seconds of this process, and of its children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def ratios(times: Times, other: Times | None) -> list[str]:
    """Cells for time / other time, by the clock and in CPU seconds."""
    if other is None:
        return ["-", "-"]
    return [
        f"{times.clock / other.clock:.2f}",
        f"{times.cpu / other.cpu:.2f}",
    ]


def milliseconds(times: Times) -> list[str]:
    """Cells for both times."""
    return [f"{times.clock * 1e3:.1f}", f"{times.cpu * 1e3:.1f}"]


def peak_megabytes(make: Callable[..., Callable], *args) -> float:
    """Memory that a function takes at its peak, in a process of its own.

    Args:
        make: Called with `args`, in the process; gives the function. What it
            allocates is not counted.
        *args: Of `make`.

    Returns:
        Megabytes (10^6 bytes) of resident memory above those before the
        second call.
    """
    return in_own_process(_peak, make, args)


def in_own_process(function: Callable, *args):
    """Calls a function in a process of its own, which returns freed memory."""
    # Large blocks go back to the system as soon as they are freed, and not
    # into the pool that TensorFlow keeps with oneDNN.
    changes = {"MALLOC_MMAP_THRESHOLD_": "65536", "TF_ENABLE_ONEDNN_OPTS": "0"}
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(function, args)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _peak(make, args):
    function = make(*args)
    function()  # Compiles.
    return peak_of(function)


def peak_of(function: Callable[[], object]) -> float:
    """Megabytes that a call takes at its peak, above those before it."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # The peak starts anew (Linux).
    before = _status("VmRSS")
    function()
    return max(_status("VmHWM") - before, 0) / 1e6


def _status(name):
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines[name].split()[0]) * 1024


def print_table(head: list[str], rows: list[list[object]]) -> None:
    """Prints a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(str(cell) for cell in cells) + " |")
    print(flush=True)
