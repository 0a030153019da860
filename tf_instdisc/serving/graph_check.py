"""Rejects a SavedModel that a stock TensorFlow server cannot run."""

import os

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tf_instdisc.errors import UsageError

# These are registered everywhere, but need the Python process or the XLA that
# created them.
_REFUSED = ("PyFunc", "PyFuncStateless", "EagerPyFunc")
_REFUSED_PREFIX = "Xla"
_REFUSED_ATTRIBUTE = "_XlaMustCompile"


class UnservableGraphError(UsageError):
    """A graph contains something that a stock server cannot run."""


def check_saved_model(path: str) -> None:
    """Checks every node of the graph and of all its functions.

    Args:
        path: Directory of a SavedModel.

    Raises:
        UnservableGraphError: If an op calls Python, is not part of TensorFlow,
            or must be compiled by XLA. The error names the op and its function.
    """
    model = saved_model_pb2.SavedModel()
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        model.ParseFromString(file.read())
    faults = [
        fault
        for meta_graph in model.meta_graphs
        for fault in find_faults(meta_graph.graph_def)
    ]
    if faults:
        raise UnservableGraphError(
            "An exported graph may only contain stock TensorFlow ops. "
            "Received: " + "; ".join(faults)
        )


def find_faults(graph: graph_pb2.GraphDef) -> list[str]:
    """Describes each node of a graph that a stock server would reject."""
    functions = {f.signature.name for f in graph.library.function}
    faults = [
        f"{_REFUSED_ATTRIBUTE} on function {f.signature.name}"
        for f in graph.library.function
        if f.attr[_REFUSED_ATTRIBUTE].b
    ]
    bodies = {"the main graph": graph.node} | {
        f"function {f.signature.name}": f.node_def
        for f in graph.library.function
    }
    for place, nodes in bodies.items():
        for node in nodes:
            faults += _faults_of(node, node.op in functions, place)
    return faults


def _faults_of(
    node: node_def_pb2.NodeDef, is_call: bool, place: str
) -> list[str]:
    where = f"at node {node.name} of {place}"
    faults = []
    if not is_call and (
        node.op in _REFUSED
        or node.op.startswith(_REFUSED_PREFIX)
        or not hasattr(tf.raw_ops, node.op)
    ):
        faults.append(f"op {node.op} {where}")
    if node.attr[_REFUSED_ATTRIBUTE].b:
        faults.append(f"{_REFUSED_ATTRIBUTE} on op {node.op} {where}")
    return faults
