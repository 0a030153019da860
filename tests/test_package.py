"""The package's public names."""

import ast
import pathlib
import pkgutil

import tf_instdisc


def test_no_public_name_is_hidden_by_a_module():
    # Importing a submodule binds its name in the package.
    modules = {
        module.name for module in pkgutil.iter_modules(tf_instdisc.__path__)
    }
    assert not modules & set(tf_instdisc.__all__)


def test_every_public_name_is_there():
    for name in tf_instdisc.__all__:
        assert callable(getattr(tf_instdisc, name))


def test_an_editor_sees_every_public_name():
    tree = ast.parse(pathlib.Path(tf_instdisc.__file__).read_text("utf-8"))
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    assert seen == {
        name: f"tf_instdisc.{module}"
        for name, module in tf_instdisc._PUBLIC.items()
    }
