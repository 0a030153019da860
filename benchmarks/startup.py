"""The time of importing the package and of `--help` of each command."""

import subprocess
import sys

from benchmarks import timing
from tf_instdisc.cli.instdisc import COMMANDS

_COMMANDS = {
    "import tensorflow, keras": ["-c", "import tensorflow, keras"],
    "... and tf_instdisc": [
        "-c",
        "import tensorflow, keras, tf_instdisc",
    ],
    "... and its public names": [
        "-c",
        "import tensorflow, keras, tf_instdisc as t; "
        "[getattr(t, name) for name in t.__all__]",
    ],
}
_COMMANDS |= {
    f"instdisc {name} --help": ["-m", "tf_instdisc", name, "--help"]
    for name in COMMANDS
}


def main() -> None:
    """Prints the table."""
    tiny = timing.parser(__doc__).parse_args().tiny
    functions = {
        name: lambda flags=flags: subprocess.run(
            [sys.executable, *flags], check=True, capture_output=True
        )
        for name, flags in _COMMANDS.items()
        if not tiny or "--help" in flags
    }
    seconds = timing.compare(functions, 1 if tiny else 7)
    timing.print_table(
        ["process", "seconds", "CPU seconds"],
        [
            [name, f"{value.clock:.2f}", f"{value.cpu:.2f}"]
            for name, value in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
