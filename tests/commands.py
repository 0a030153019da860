"""Runs command lines, each in a fork of a process that has TensorFlow.

Importing TensorFlow takes longer than most commands in the tests. The process
imports it once and computes nothing, because a process that has started to
compute cannot be forked.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import traceback

COMPLETE = {
    "convert": ["--from=file", "--to=new"],
    "diff": ["run", "run"],
    "duplicates": ["--run_dir=run"],
    "embed": ["--run_dir=run", "--images=images", "--output=out.npz"],
    "evaluate": ["--run_dir=run"],
    "export": ["--run_dir=run", "--export_dir=model"],
    "index": ["--run_dir=run", "--output=index"],
    "neighbors": ["--run_dir=run"],
    "plan": ["--run_dir=new", "--images=images"],
    "reproduce": ["--table=layers"],
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
PLAIN_GRAPHS = "INSTDISC_TESTS_PLAIN_GRAPHS"
_BUG = "planted: not the user's"
_LONGEST = 600  # seconds


def run(
    name: str, *arguments: str, cwd: str | os.PathLike | None = None
) -> subprocess.CompletedProcess:
    """Runs a command in a process of its own.

    Args:
        name: Such as "train".
        *arguments: Its flags and arguments.
        cwd: Where it runs; where the tests do by default.
    """
    case = {"command": name, "arguments": [str(part) for part in arguments]}
    return run_all([case], cwd)[0]


def run_all(cases: list[dict], cwd=None) -> list[subprocess.CompletedProcess]:
    """Runs commands one after the other.

    Args:
        cases: Each with `command`, such as "train", `arguments`, and perhaps
            `bug`, "module:name" of a function that is to fail, and `absent`,
            names of packages that are treated as not installed.
        cwd: Where they run; where the tests do by default.

    Returns:
        What each printed, and its exit status.
    """
    return [_run(_parent(), case, cwd) for case in cases]


def _run(parent, case, cwd):
    request = {**case, "cwd": str(cwd or os.getcwd()), "env": dict(os.environ)}
    print(json.dumps(request), file=parent.stdin, flush=True)
    result = json.loads(parent.stdout.readline())
    return subprocess.CompletedProcess(case, *result)


@functools.cache
def _parent():
    """The process that is forked; it ends with this one."""
    root = str(pathlib.Path(__file__).parent.parent)
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.commands"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": root,
            "PYTHONUTF8": "1",
            "TF_ENABLE_ONEDNN_OPTS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
    )
    atexit.register(parent.kill)
    return parent


def _fork(case):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            signal.alarm(_LONGEST)
            _become(case)
        _, status = os.waitpid(pid, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return [os.waitstatus_to_exitcode(status), *texts]


def _become(case):
    os.chdir(case["cwd"])
    os.environ.clear()
    os.environ.update(case["env"])
    sys.argv = [f"instdisc-{case['command']}", *case["arguments"]]
    status = 0
    if absent := case.get("absent"):
        for name in list(sys.modules):
            if name.partition(".")[0] in ("tf_instdisc", *absent):
                del sys.modules[name]
        sys.modules.update(dict.fromkeys(absent))
    try:
        if case.get("bug"):
            name, _, attribute = case["bug"].partition(":")
            setattr(importlib.import_module(name), attribute, _fail)
        importlib.import_module("tf_instdisc.cli.instdisc").main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _fail(*args, **kwargs):
    raise ValueError(_BUG)


def use_plain_graphs():
    """Runs graphs as they were traced, if the environment says so."""
    import tensorflow as tf

    if os.environ.get(PLAIN_GRAPHS):
        tf.config.optimizer.set_experimental_options(
            {"disable_meta_optimizer": True}
        )


def session():
    """A session of an empty graph, which runs as `use_plain_graphs` says."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto()
    options = config.graph_options.rewrite_options
    options.disable_meta_optimizer = bool(os.environ.get(PLAIN_GRAPHS))
    return tf.compat.v1.Session(graph=tf.Graph(), config=config)


def _import_ahead():
    """Imports what commands import, which takes longer than most of them."""
    import tf_instdisc

    names = [
        *("sklearn.cluster", "sklearn.manifold", "sklearn.model_selection"),
        *("sklearn.svm", "pyarrow.parquet", "tensorflow_datasets"),
    ]
    root = pathlib.Path(tf_instdisc.__path__[0])
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        names.append(name.removesuffix(".__init__"))
    for name in names:
        with contextlib.suppress(ImportError, ValueError):  # No such extra.
            importlib.import_module(name)


def main():
    _import_ahead()
    use_plain_graphs()
    gc.freeze()  # A collection in a fork would copy the pages it marks.
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
