"""The package's public names."""

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
