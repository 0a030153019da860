"""The imports of the package as a graph: its rooms, and what they know of."""

import ast
import collections
import functools
import pathlib

PACKAGE = "tf_instdisc"
ROOT = pathlib.Path(__file__).parent.parent

# From the top: a file imports only from rooms below its own.
ROOMS = (
    "cli",
    "evaluation/reproduce",
    "evaluation",
    "training",
    "serving",
    "serving/client",
    "retrieval/browse",
    "retrieval/pages",
    "retrieval",
    "runs/convert",
    "runs",
    "data",
    "data/formats",
    "method",
    "method/encoders",
    ".",
)
# Settings, errors and what else every room uses.
SAME = {"config": "."}
# These define the public names of the package or start a command, and no other
# module of the package imports them.
DOORS = (
    PACKAGE,
    *(f"{PACKAGE}.{name}" for name in ("__main__", "run", "serving_client")),
)
MOST_ARROWS = 50


@functools.cache
def modules():
    """Files by the names of their modules."""
    import tf_instdisc

    folder = pathlib.Path(tf_instdisc.__file__).parent
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def room_of(module):
    folder = modules()[PACKAGE].parent
    room = modules()[module].parent.relative_to(folder).as_posix()
    return SAME.get(room, room)


def imported(module):
    for node in ast.walk(ast.parse(modules()[module].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@functools.cache
def arrows():
    """Pairs of rooms, and the imports that make each."""
    found = collections.defaultdict(set)
    for module in modules().keys() - set(DOORS):
        for name in imported(module):
            if name in modules() and room_of(name) != room_of(module):
                pair = room_of(module), room_of(name)
                found[pair].add(f"{module} imports {name}")
    return found


def test_every_file_is_in_a_room():
    assert {room_of(module) for module in modules()} == set(ROOMS)


def test_imports_point_downward():
    upwards = [
        sorted(imports)
        for (above, below), imports in arrows().items()
        if ROOMS.index(above) >= ROOMS.index(below)
    ]
    assert not upwards


def test_no_module_imports_through_a_door():
    through = [
        f"{module} imports {name}"
        for module in modules().keys() - set(DOORS)
        for name in imported(module)
        if name in DOORS
    ]
    assert not through


def test_few_rooms_know_of_each_other():
    assert len(arrows()) <= MOST_ARROWS, sorted(arrows())


def test_only_commands_touch_absl():
    touching = [
        module
        for module in modules()
        if room_of(module) != "cli"
        and any(name.split(".")[0] == "absl" for name in imported(module))
    ]
    assert not touching


# === Limits ===

MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 80  # without its docstring
MOST_PARAMETERS = 8
# They make a Keras object, or override what Keras calls with as many.
WIDE = {
    "method.encoders.build_encoder",
    "method.instance_model.InstanceModel.compile",
}


def functions():
    """All functions by name: `module.Class.function`."""

    def below(node, name):
        for child in ast.iter_child_nodes(node):
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            inner = name
            if isinstance(child, kinds):
                inner = f"{name}.{child.name}"
                if not isinstance(child, ast.ClassDef):
                    yield inner, child
            yield from below(child, inner)

    for module, path in modules().items():
        tree = ast.parse(path.read_text("utf-8"))
        yield from below(tree, module.removeprefix(f"{PACKAGE}."))


def test_files_are_short():
    lines = {
        module: len(path.read_text("utf-8").splitlines())
        for module, path in modules().items()
    }
    assert not {m: n for m, n in lines.items() if n > MOST_LINES_OF_A_FILE}


def test_functions_are_short():
    long = {}
    for name, function in functions():
        lines = function.end_lineno - function.lineno + 1
        if ast.get_docstring(function) is not None:
            docstring = function.body[0]
            lines -= docstring.end_lineno - docstring.lineno + 1
        if lines > MOST_LINES_OF_A_FUNCTION:
            long[name] = lines
    assert not long


def test_functions_take_few_parameters():
    """Constructors apart, whose arguments are an object's settings."""
    wide = {}
    for name, function in functions():
        arguments = function.args
        count = len(arguments.posonlyargs + arguments.args)
        count += len(arguments.kwonlyargs)
        first = arguments.args[0].arg if arguments.args else None
        count -= first in ("self", "cls")
        if not name.endswith(".__init__") and count > MOST_PARAMETERS:
            wide[name] = count
    assert wide.keys() == WIDE, wide
