"""Runs many command lines, each in a fork of a process with TensorFlow.

python -m tests.commands < CASES.json > RESULTS.json
"""

import json
import os
import subprocess
import sys
import tempfile

COMPLETE = {
    "convert": ["--from=file", "--to=new"],
    "diff": ["run", "run"],
    "duplicates": ["--run_dir=run"],
    "embed": ["--run_dir=run", "--images=images", "--output=out.npz"],
    "evaluate": ["--run_dir=run"],
    "export": ["--run_dir=run", "--export_dir=model"],
    "neighbors": ["--run_dir=run"],
    "plan": ["--run_dir=new", "--images=images"],
    "reproduce": ["--table=layers", "--recipes_dir=recipes"],
    "report": ["--run_dir=run"],
    "train": [
        "--run_dir=new",
        "--images=images",
        "--image_size=16",
        "--epochs=1",
    ],
    "update": ["--run_dir=run", "--images=images"],
}
"""Arguments with which a command begins its work, by name of the command."""
_BUG = "planted: not the user's"


def run_all(cases: list[dict], cwd=None) -> list[subprocess.CompletedProcess]:
    """Runs commands; importing TensorFlow once for all of them.

    Args:
        cases: Each with `command`, such as "train", `arguments`, and perhaps
            `bug`, "module:name" of a function that is to fail.
        cwd: Where they run.

    Returns:
        What each printed, and its exit status.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.commands"],
        input=json.dumps(cases),
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "2"},
        timeout=600,
        check=True,
    )
    return [
        subprocess.CompletedProcess(case, *result)
        for case, result in zip(cases, json.loads(done.stdout), strict=True)
    ]


def _run(case):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _become(case)
        _, status = os.waitpid(pid, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return [os.waitstatus_to_exitcode(status), *texts]


def _become(case):
    import importlib
    import traceback

    sys.argv = [f"instdisc-{case['command']}", *case["arguments"]]
    status = 0
    try:
        if case.get("bug"):
            name, _, attribute = case["bug"].partition(":")
            setattr(importlib.import_module(name), attribute, _fail)
        module = importlib.import_module(f"tf_instdisc.cli.{case['command']}")
        module.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _fail(*args, **kwargs):
    raise ValueError(_BUG)


def main():
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    cases = json.load(sys.stdin)
    json.dump([_run(case) for case in cases], sys.stdout)


if __name__ == "__main__":
    main()
