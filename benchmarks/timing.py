"""Compares the run times of functions and measures their memory."""

import argparse
import dataclasses
import importlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

from tf_instdisc import text

_REST = 0.25  # seconds; OpenMP's threads wait for 0.2 by default
_TURN = 0.1  # seconds


def parser(doc: str) -> argparse.ArgumentParser:
    """Returns a parser of `--tiny`, which all benchmarks have."""
    made = argparse.ArgumentParser(description=doc)
    made.add_argument(
        "--tiny", action="store_true", help="use small sizes, as a smoke test"
    )
    return made


def optional(module: str):
    """Returns a module, or `None` if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


@dataclasses.dataclass(frozen=True)
class Times:
    """Run times of one function in seconds.

    Attributes:
        clock: Median wall time.
        cpu: Minimum CPU time, summed over all threads. It excludes the work of
            other processes but includes threads that wait in a loop.
    """

    clock: float
    cpu: float


def compare(
    functions: dict[str, Callable[[], object]], repeats: int
) -> dict[str, Times]:
    """Times each function.

    The functions take turns, so that other work on the machine affects all of
    them, and there is a pause before each turn, because the threads of a
    library wait in a loop for a while after their work and would occupy a core.
    A turn consists of as many calls as take a tenth of a second.

    Args:
        functions: Functions to time, each of which must wait for its result.
        repeats: Number of turns of each function, after two warm-up calls.

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


def _cpu():
    """Returns the CPU seconds of this process and its finished children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def ratios(times: Times, other: Times | None) -> list[str]:
    """Returns cells with the ratios of wall times and of CPU times."""
    if other is None:
        return ["-", "-"]
    return [
        f"{times.clock / other.clock:.2f}",
        f"{times.cpu / other.cpu:.2f}",
    ]


def milliseconds(times: Times) -> list[str]:
    """Returns cells with the wall time and the CPU time."""
    return [f"{times.clock * 1e3:.1f}", f"{times.cpu * 1e3:.1f}"]


def peak_megabytes(make: Callable[..., Callable], *args) -> float:
    """Measures the peak memory of a function in its own process.

    Args:
        make: Returns the function when it is called with `args` in the process.
            Its own allocations are not counted.
        *args: Arguments of `make`.

    Returns:
        Megabytes (10^6 bytes) of resident memory above those before the
        second call.
    """
    return in_own_process(_peak, make, args)


def in_own_process(function: Callable, *args):
    """Calls a function in its own process, which returns freed memory."""
    # Large blocks are returned to the system as soon as they are freed, rather
    # than to the pool that TensorFlow keeps with oneDNN.
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
    """Returns the megabytes of a call at its peak above those before it."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # Resets the peak (Linux).
    before = _status("VmRSS")
    function()
    return max(_status("VmHWM") - before, 0) / 1e6


def _status(name):
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines[name].split()[0]) * 1024


def print_table(head: list[str], rows: list[list[object]]) -> None:
    """Prints a Markdown table."""
    print(text.markdown_table(head, rows), flush=True)
