"""Converts each file of a folder in a process of bounded memory and time.

    python -m tests.bounded_convert FOLDER

Prints a JSON object for each file: the error's name and message, the memory
that was taken, in bytes, and the seconds of CPU. Each is a fork of one process,
which has imported all that it takes.
"""

import json
import os
import pathlib
import resource
import sys
import tempfile

from tf_instdisc.runs.convert.checkpoint import convert

# To protect the machine; what is allowed is less, and measured.
_MEMORY = 2**30
_SECONDS = 40


def _convert(path, write_end):
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = used * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    with tempfile.TemporaryDirectory() as folder:
        try:
            if path:
                convert(str(path), f"{folder}/run")
            said = ("", "")
        except Exception as error:
            said = (type(error).__name__, str(error)[:100_000])
    os.write(write_end, json.dumps(said).encode()[:60_000])


def _bounded(path):
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            _convert(path, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    _, status, usage = os.wait4(child, 0)
    with os.fdopen(read_end, "rb") as file:
        said = file.read()
    error, message = json.loads(said) if said else (f"killed, {status}", "")
    seconds = usage.ru_utime + usage.ru_stime
    return error, message, usage.ru_maxrss * 1024, seconds


def main(folder):
    _, _, idle, _ = _bounded(None)
    for path in sorted(pathlib.Path(folder).iterdir()):
        error, message, memory, seconds = _bounded(path)
        line = {
            "case": path.name,
            "error": error,
            "message": message,
            "memory": memory - idle,
            "seconds": seconds,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
