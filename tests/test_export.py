"""The exported model: what a server would load, and what it answers."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tf_instdisc
from tests import commands, exported
from tf_instdisc.data import decode
from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval.neighbors import top_k
from tf_instdisc.retrieval.votes import weighted_votes
from tf_instdisc.serving import graph_check, saved_model, versions, warmup
from tf_instdisc.serving.options import ExportOptions

pytestmark = pytest.mark.slow

SIGNATURES = (
    "serving_default",
    "image_bytes",
    "neighbors",
    "neighbors_bytes",
    "classify_bytes",
)
BATCH_SIZES = (1, 3, 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    # Of the paper's width: the graph must be small beside the weights.
    return exported.make_run(tmp_path_factory.mktemp("run") / "run", width=64)


@pytest.fixture(scope="module")
def version(run, tmp_path_factory):
    return saved_model.export_run(
        run,
        str(tmp_path_factory.mktemp("models") / "pictures"),
        ExportOptions(batch_sizes=(1, 4)),
    )


@pytest.fixture(scope="module")
def expected(run):
    """The outputs of Keras and NumPy, by signature and batch size."""
    encoder = tf_instdisc.load_encoder(run.path)
    bank = run.load_bank()
    answers = {}
    for size in BATCH_SIZES:
        images, contents = _pictures(size)
        embedding = encoder.predict(images.astype(np.float32), verbose=0)
        decoded = np.stack(
            [
                decode.resize_and_center_crop(
                    decode.decode_whole(content), exported.IMAGE_SIZE, 0.875
                )
                for content in contents
            ]
        )
        of_bytes = encoder.predict(decoded, verbose=0)
        answers["serving_default", size] = images, {"embedding": embedding}
        answers["image_bytes", size] = contents, {"embedding": of_bytes}
        answers["neighbors", size] = images, _nearest(embedding, bank)
        answers["neighbors_bytes", size] = contents, _nearest(of_bytes, bank)
        scores, positions = top_k(of_bytes, bank.rows, 20)
        votes = weighted_votes(scores, bank.labels[positions], 3, 0.1)
        answers["classify_bytes", size] = (
            contents,
            {"scores": votes / votes.sum(axis=1, keepdims=True)},
        )
    return answers


def _pictures(number):
    images = exported.random_images(number, seed=number)
    larger = exported.random_images(number, seed=number + 100, size=40)
    contents = np.array([exported.encode(i[:, :36]) for i in larger], object)
    if number > 1:
        contents[-1] = exported.large_png(number)
    return images, contents


def _nearest(queries, bank):
    similarities = queries @ bank.rows.T
    positions = np.argsort(-similarities, axis=1, kind="stable")[:, :10]
    return {
        "instance_ids": bank.instance_ids[positions],
        "names": np.char.encode(bank.names[positions]),
        "scores": np.take_along_axis(similarities, positions, axis=1),
        "labels": bank.labels[positions],
    }


def _check(answer, expected):
    for name, value in expected.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(answer[name], value, atol=1e-5)
        else:
            np.testing.assert_array_equal(
                answer[name].astype(value.dtype), value
            )
    assert answer.get("valid", np.array(True)).all()


def test_every_signature_in_a_session_equals_keras_and_numpy(version, expected):
    with commands.session() as session, session.graph.as_default():
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(version))
        assert set(SIGNATURES) <= set(meta.signature_def)
        for (name, _), (feed, answer) in expected.items():
            signature = meta.signature_def[name]
            (given,) = signature.inputs.values()
            fetches = {k: v.name for k, v in signature.outputs.items()}
            _check(session.run(fetches, {given.name: feed}), answer)


@pytest.mark.exhaustive
def test_every_signature_through_the_c_loader(version, expected, tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(version))
    calls, feeds = [], {}
    for i, ((name, _), (feed, _)) in enumerate(expected.items()):
        signature = meta.signature_def[name]
        (given,) = signature.inputs.values()
        outputs = {k: v.name for k, v in signature.outputs.items()}
        calls.append({"input": given.name, "outputs": outputs})
        feeds[f"feed_{i}"] = feed
    np.savez(tmp_path / "in.npz", calls=json.dumps(calls), **feeds)
    result = subprocess.run(
        [
            sys.executable,
            pathlib.Path(__file__).with_name("c_loader.py"),
            os.path.dirname(tf.__file__),
            str(version),
            tmp_path / "in.npz",
            tmp_path / "out.npz",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "out.npz", allow_pickle=True) as answers:
        for i, (_, answer) in enumerate(expected.values()):
            got = {k: answers[f"{i}/{k}"] for k in calls[i]["outputs"]}
            _check(got, answer)


def test_weights_are_stored_once(run, version):
    encoder = tf_instdisc.load_encoder(run.path)
    bank = run.load_bank()
    wanted = sum(np.asarray(v).nbytes for v in encoder.variables)
    wanted += bank.rows.nbytes + bank.instance_ids.nbytes + bank.labels.nbytes
    wanted += sum(len(name) for name in bank.names)
    files = (p for p in version.rglob("*") if p.is_file())
    assert sum(p.stat().st_size for p in files) <= 1.05 * wanted


def test_warmup_records_exist_for_each_signature_and_size(version):
    requests = list(warmup.read_records(str(version)))
    found = sorted(
        (
            r.model_spec.signature_name,
            tf.make_ndarray(*r.inputs.values()).shape[0],
        )
        for r in requests
    )
    assert found == sorted((s, n) for s in SIGNATURES for n in (1, 4))
    assert {r.model_spec.name for r in requests} == {"pictures"}


def test_the_card_describes_the_model(version):
    card = (version / "model_card.md").read_text()
    for part in (
        "made_up, split train",
        "knn_top1 0.7500",
        "Precision: float32",
        "300 rows, 300 with a label of 3 classes",
        "| `serving_default` | in `images` | uint8 | [batch, 16, 16, 3] |",
        "| `neighbors_bytes` | out `scores` | float32 | [batch, 10] | cosines",
        "--crop_fraction=0.875",
    ):
        assert part in card


def test_versions_are_numbered_and_kept(run, tmp_path):
    options = ExportOptions(batch_sizes=(1,))
    target = tmp_path / "m"
    (target / "7").mkdir(parents=True)
    (target / "7" / "file").write_text("theirs")
    path = saved_model.export_run(run, str(target), options, with_bank=False)
    assert path.name == "8"
    assert sorted(p.name for p in target.iterdir()) == ["7", "8"]
    assert [p.name for p in (target / "7").iterdir()] == ["file"]
    loaded = tf.saved_model.load(str(path))
    assert sorted(loaded.signatures) == ["image_bytes", "serving_default"]


def test_two_exports_at_once_get_two_numbers(tmp_path):
    def first(path):
        (path / "who").write_text("first")
        second = versions.write_version(
            str(tmp_path), lambda path: (path / "who").write_text("second")
        )
        assert second.name == "1"

    assert versions.write_version(str(tmp_path), first).name == "2"
    assert (tmp_path / "1" / "who").read_text() == "second"
    assert (tmp_path / "2" / "who").read_text() == "first"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.exhaustive
def test_a_killed_export_leaves_no_number(run, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from tf_instdisc.runs import opening\n"
        "from tf_instdisc.serving import saved_model, warmup\n"
        "warmup.replay = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run = opening.load(sys.argv[1])\n"
        "saved_model.export_run(run, sys.argv[2])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(run.path), str(tmp_path)],
        timeout=300,
        check=False,
        capture_output=True,
    )
    assert result.returncode == -9, result.stderr
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".partial-")
    assert (left / "saved_model.pb").exists()


def _python(x):
    return tf.numpy_function(lambda a: a, [x], tf.float32)


def _hidden_python(x):
    return tf.map_fn(lambda y: _python(y), x)


def _xla(x):
    return tf.function(lambda y: y + 1, jit_compile=True)(x)


@pytest.mark.parametrize(
    ("body", "op", "function"),
    [
        (_python, "op PyFunc", "__inference_f_"),
        (_hidden_python, "op PyFunc", "map_while_body_"),
        (_xla, "_XlaMustCompile", "__inference_f_"),
    ],
)
def test_what_a_server_cannot_run_is_refused_by_name(
    tmp_path, body, op, function
):
    module = tf.Module()
    spec = tf.TensorSpec([None], tf.float32, "x")

    @tf.function(input_signature=[spec])
    def f(x):
        return {"y": tf.ensure_shape(body(x), [None])}

    tf.saved_model.save(module, str(tmp_path), {"serving_default": f})
    with pytest.raises(UsageError) as error:
        graph_check.check_saved_model(str(tmp_path))
    assert op in str(error.value)
    assert f"function {function}" in str(error.value)


def test_custom_ops_are_refused_by_name(tmp_path):
    model = saved_model_pb2.SavedModel()
    graph = model.meta_graphs.add().graph_def
    graph.node.add(name="theirs", op="TheirOwnOp")
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    fault = "op TheirOwnOp at node theirs of the main graph$"
    with pytest.raises(UsageError, match=fault):
        graph_check.check_saved_model(str(tmp_path))


def test_a_failing_export_publishes_nothing(run, tmp_path, monkeypatch):
    def fail(path):
        raise RuntimeError(path)

    monkeypatch.setattr(warmup, "replay", fail)
    with pytest.raises(RuntimeError):
        saved_model.export_run(run, str(tmp_path / "m"))
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.exhaustive
def test_bfloat16_stays_close(run):
    from tf_instdisc.runs.policy import with_policy

    encoder = tf_instdisc.load_encoder(run.path)
    converted = with_policy(encoder, "mixed_bfloat16")
    images = exported.random_images(16, seed=9).astype(np.float32)
    full = encoder.predict(images, verbose=0)
    reduced = converted.predict(images, verbose=0)
    assert reduced.dtype == np.float32
    assert not np.array_equal(full, reduced)
    assert (full * reduced).sum(axis=1).min() > 0.9999
    assert with_policy(encoder, "float32") is encoder
    back = with_policy(converted, "float32").predict(images, verbose=0)
    np.testing.assert_allclose(back, full, atol=1e-6)


@pytest.mark.parametrize("nested", ("none", "first", "last"))
def test_networks_of_users_change_as_a_whole(nested):
    """Layers of nested models too, and unit length to seven digits."""
    from tf_instdisc.keras_internals import all_layers
    from tf_instdisc.runs.policy import with_policy

    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(image / 255.0)
    inner = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    head = [layers.Dense(16), layers.UnitNormalization()]
    if nested == "first":
        encoder = keras.Sequential([keras.Input((8, 8, 3)), inner, *head])
    elif nested == "last":
        inner = keras.Sequential([inner, *head])
        outer = keras.Input((8, 8, 3))
        encoder = keras.Model(outer, inner(layers.ReLU()(outer)))
    else:
        encoder = keras.Model(image, head[1](head[0](inner.output)))
    converted = with_policy(encoder, "bfloat16")
    policies = {
        type(one).__name__: one.dtype_policy.name
        for one in all_layers(converted)
        if not isinstance(one, keras.Model | layers.InputLayer)
    }
    assert policies.pop("UnitNormalization") == "float32"
    assert set(policies.values()) == {"bfloat16"}
    images = exported.random_images(4, seed=0, size=8).astype(np.float32)
    outputs = np.asarray(converted(images))
    assert np.abs(np.linalg.norm(outputs, axis=1) - 1).max() < 1e-6
    np.testing.assert_allclose(outputs, encoder(images), atol=0.02)
    assert with_policy(converted, "bfloat16") is converted


@pytest.mark.exhaustive
def test_an_exported_model_is_browsed(run, version, tmp_path):
    from tf_instdisc.cli import browse, embed, options

    (tmp_path / "a.png").write_bytes(exported.encode(_pictures(1)[0][0]))
    collection = browse.make_collection(
        embed.ModelOptions(saved_model=str(version.parent)),
        options.MovedImages(images=str(tmp_path)),
    )
    bank = run.load_bank()
    np.testing.assert_array_equal(collection.bank.rows, bank.rows)
    np.testing.assert_array_equal(collection.bank.names, bank.names)
    assert collection.bank.class_names == bank.class_names
    scores, positions = top_k(bank.rows[[5]], bank.rows, 4)
    found = collection.search.of_image(5, 3)
    assert found.positions.tolist() == positions[:, 1:].tolist()
    np.testing.assert_allclose(found.scores, scores[:, 1:], atol=1e-6)
    file = (tmp_path / "a.png").read_bytes()
    assert collection.search.of_file(file, 3).positions.shape == (1, 3)
