"""A user error is reported in one sentence, a bug with a traceback."""

import errno
import io

import pytest
import tensorflow as tf

from tests import commands, finished_run, tfds_forms
from tf_instdisc.cli import failures
from tf_instdisc.data.folder import folder_source
from tf_instdisc.data.pipeline import evaluation_dataset

pytestmark = pytest.mark.slow

_MISSING = [
    ("convert", "--from"),
    ("diff", "2 arguments"),
    ("duplicates", "--run_dir"),
    ("embed", "--output"),
    ("evaluate", "--run_dir"),
    ("export", "--run_dir"),
    ("index", "--output"),
    ("neighbors", "--run_dir"),
    ("plan", "--images"),
    ("reproduce", "--table"),
    ("report", "--run_dir"),
    ("train", "--images"),
    ("update", "--run_dir"),
]
# A wrong value of a flag that the command has.
_WRONG_VALUES = [
    ("convert", "--image_size=0"),
    ("diff", "--num_neighbors=many"),
    ("duplicates", "--threshold=2"),
    ("embed", "--batch_size=-1"),
    ("evaluate", "--protocol=knm"),
    ("export", "--num_neighbors=0"),
    ("index", "--target_recall=1"),
    ("neighbors", "--format=png"),
    ("plan", "--temperature=nan"),
    ("reproduce", "--seeds=0"),
    ("report", "--map_points=x"),
    ("train", "--objective=triplet"),
    ("update", "--reread=perhaps"),
]
# The function that fails as a bug in the program would.
_BUGS = {
    "convert": "tf_instdisc.runs.convert.torch_file:open_file",
    "diff": "tf_instdisc.retrieval.compare_runs:compare",
    "duplicates": "tf_instdisc.retrieval.duplicates:find_duplicates",
    "embed": "tf_instdisc.serving.embed_folder:embed_folder",
    "evaluate": "tf_instdisc.evaluation.evaluate:evaluate",
    "export": "tf_instdisc.serving.saved_model:export_run",
    "index": "tf_instdisc.serving.index_directory:write_index",
    "neighbors": "tf_instdisc.retrieval.queries:nearest",
    "plan": "tf_instdisc.cli.plan:_count_images",
    "reproduce": "tf_instdisc.evaluation.reproduce.runs:recipe_config",
    "report": "tf_instdisc.retrieval.pages.run_page:write_report",
    "train": "tf_instdisc.training.train:train",
    "update": "tf_instdisc.runs.update:update_bank",
}
_OF_FILE = ["--run_dir="]
# A wrong last argument of any command, and what the sentence names.
_OF_ALL = {
    "--no_such_flag": "--no_such_flag",
    "more": "more",
    "--flagfile=nowhere": "nowhere",
    "--flagfile=binary": "flagfile",
}
# The command, what is changed of its arguments, and the sentence's parts.
_MISTAKES = [
    ("convert", ["--from=nowhere"], "nowhere"),
    ("convert", [], "torch.save"),
    ("convert", ["--to=run"], "to=run"),
    ("diff", None, "nowhere"),
    ("diff", ["--output=images"], "which is a directory"),
    ("diff", ["--output=file/a.tsv"], "file"),
    ("duplicates", ["--run_dir=nowhere"], "nowhere"),
    ("duplicates", ["--run_dir=images"], "images"),
    ("duplicates", ["--folders=nowhere"], "nowhere"),
    ("duplicates", ["--folders=empty"], "empty"),
    ("duplicates", ["--output=a.gif"], "--output=a.gif"),
    ("duplicates", ["--output", ""], "--output"),
    ("duplicates", ["--folders=a,b,c"], "--folders=a,b,c"),
    ("duplicates", ["--data_dir=a", "--images=b"], "--data_dir=a"),
    ("duplicates", ["--threshold=0.9", "--folders=nowhere"], "nowhere"),
    ("embed", ["--images=nowhere"], "nowhere"),
    ("embed", ["--images=empty"], "empty"),
    ("embed", ["--images=file"], "file"),
    ("embed", ["--images=broken"], "broken"),
    ("embed", ["--output=out.txt"], "out.txt"),
    ("embed", ["--output=file/out.npz"], "file/out.npz"),
    ("embed", ["--run_dir=nowhere"], "nowhere", "must hold a run"),
    ("embed", ["--run_dir=", "--saved_model=nowhere"], "numbered versions"),
    ("embed", ["--output=x.csv"], ".parquet"),
    ("embed", ["--run_dir="], "one of --run_dir"),
    ("embed", ["--server=a:1"], "one of --run_dir"),
    ("embed", ["--run_dir=", "--server=a:1"], "--model_name"),
    ("evaluate", ["--run_dir=nowhere"], "nowhere"),
    ("evaluate", ["--run_dir=unfinished"], "unfinished", "--finish"),
    ("evaluate", [], "Give --test_images=FOLDER"),
    ("export", ["--run_dir=nowhere"], "nowhere", "must hold a run"),
    ("export", ["--run_dir=unfinished"], "unfinished", "finished?"),
    ("export", ["--export_dir=file"], "file"),
    ("export", ["--batch_sizes=0"], "batch_sizes"),
    ("export", ["--batch_sizes=many"], "batch_sizes"),
    ("export", ["--batch_sizes=4,2"], "must be positive and increasing"),
    ("export", ["--bank_dtype=int4"], "bank_dtype", "int8"),
    ("export", ["--export_dir="], "export_dir"),
    ("export", ["--tflite=int8"], "calibration_images"),
    ("export", ["--tflite=int8", "--calibration_images=nowhere"], "nowhere"),
    ("export", ["--partitions=-1"], "partitions='-1'"),
    ("index", ["--run_dir=nowhere"], "nowhere"),
    ("index", ["--run_dir=unfinished"], "unfinished"),
    ("index", ["--embeddings=a.npz"], "embeddings=a.npz"),
    ("index", [*_OF_FILE, "--embeddings=nowhere.npz"], "must exist"),
    ("index", [*_OF_FILE, "--embeddings=file.npz"], "cannot be read"),
    ("index", [*_OF_FILE, "--embeddings=run/bank.npz"], "cannot be read"),
    ("index", [*_OF_FILE, "--embeddings=file"], "must end with .npz"),
    ("index", ["--output=file"], "output"),
    ("index", ["--kind=exact", "--num_partitions=2"], "num_partitions"),
    ("index", ["--kind=hnsw", "--dtype=int8"], "dtype"),
    ("index", ["--kind=hnsw"], "8 rows"),
    ("neighbors", ["--index=nowhere"], "nowhere"),
    ("neighbors", ["--index=run"], "index='run'"),
    ("neighbors", ["--query=nowhere.jpg"], "nowhere.jpg"),
    ("neighbors", ["--query=file"], "file"),
    ("neighbors", ["--query=random:many"], "random:many"),
    ("neighbors", ["--query=random:0"], "random:0"),
    ("neighbors", ["--output", ""], "--output"),
    ("neighbors", ["--output=a.gif"], "a.gif"),
    ("neighbors", ["--run_dir=unfinished"], "unfinished"),
    ("plan", ["--images=nowhere"], "nowhere"),
    ("plan", ["--images=empty"], "empty"),
    ("plan", ["--images=", "--dataset=cifar1000"], "cifar1000"),
    ("reproduce", ["--table=proximal", "--table=other"], "table='other'"),
    ("report", ["--run_dir=nowhere"], "nowhere"),
    ("report", ["--run_dir=unfinished"], "unfinished"),
    ("report", ["--output=images"], "which is a directory"),
    ("train", ["--images=nowhere"], "nowhere"),
    ("train", ["--images=empty"], "empty"),
    ("train", ["--images=broken"], "broken"),
    ("train", ["--images=", "--dataset=cifar11"], "cifar11", "Did you mean"),
    ("train", ["--temperature=5"], "--temperature", "5", "[0.01, 1]"),
    ("train", ["--temperature=nan"], "--temperature", "temperature=nan"),
    ("train", ["--objective=triplet"], "triplet", "info_nce"),
    ("train", ["--encoder=resnet19"], "--encoder", "resnet19", "resnet18"),
    ("train", ["--mean=124,116,104"], "--mean", "as fractions of 255"),
    ("train", ["--batch_size=0"], "at least 1", "batch_size=0"),
    ("train", ["--schedule_epochs=160,120"], "--schedule_epochs", "increasing"),
    ("train", ["--dataset=mnist"], "either --dataset or --images"),
    (
        "train",
        ["--images=", "--dataset=mnist", "--test_images=x"],
        "--test_images requires --images",
        "test_split",
    ),
    ("train", ["--bank_placement=host"], "bank_placement='host'", "info_nce"),
    (
        "train",
        ["--jit_encoder", "--sync_batch_norm"],
        "jit_encoder=True",
        "Leave one of them out",
    ),
    ("train", ["--encoder=vit_small", "--image_size=30"], "multiple of 4"),
    (
        "train",
        ["--encoder=alexnet", "--image_size=32", "--train_image_size=24"],
        "train_image_size=24, image_size=32",
    ),
    ("train", ["--run_dir=file"], "file"),
    ("train", ["--run_dir=file/run"], "file"),
    ("train", ["--run_dir=images"], "images"),
    ("train", ["--init_run=nowhere"], "nowhere"),
    ("train", ["--test_images=nowhere"], "nowhere"),
    (
        "train",
        ["--batch_size=3", "--logical_cpus=2", "--distribution=mirrored"],
        "batch_size",
    ),
    ("update", ["--images=nowhere"], "nowhere"),
    ("update", ["--images=empty"], "empty"),
    ("update", ["--run_dir=unfinished"], "unfinished"),
]
# Parts of mistakes that only the data shows, after the first file is written.
_FOUND_LATE = ("8 rows", "broken")
_NO_SERVER = ["--server=localhost:9", "--model_name=m", "--deadline=1"]


def _case(command, arguments, *parts, status=2, bug=None):
    return {
        "command": command,
        "arguments": arguments,
        "parts": parts,
        "status": status,
        "bug": bug,
    }


def _changed(arguments, changes):
    """Adds arguments; one without a value removes the earlier one."""
    removed = [change for change in changes if change.endswith("=")]
    kept = [*arguments, *changes]
    return [a for a in kept if not any(map(a.startswith, removed))]


def _cases():
    for command in commands.COMPLETE:
        complete = commands.COMPLETE[command]
        for wrong, part in _OF_ALL.items():
            yield _case(command, [*complete, wrong], part)
        yield _case(command, ["--help"], status=0)
        bug = _BUGS[command]
        yield _case(command, complete, "planted", status=1, bug=bug)
    for command, part in _MISSING:
        yield _case(command, [], part)
    for command, flag in _WRONG_VALUES:
        name = flag.partition("=")[0]
        yield _case(command, [*commands.COMPLETE[command], flag], name)
    for command, changes, *parts in _MISTAKES:
        arguments = ["run", "nowhere"]
        if changes is not None:
            arguments = _changed(commands.COMPLETE[command], changes)
        yield _case(command, arguments, *parts)
    yield _case(
        "train",
        [*commands.COMPLETE["train"], "--learning_rat=1"],
        "--learning_rate",
    )
    for label in ([], ["--label="]):
        changes = ["--run_dir=", *_NO_SERVER, *label]
        arguments = _changed(commands.COMPLETE["embed"], changes)
        yield _case("embed", arguments, "localhost:9", status=69)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("statuses")
    finished_run.fill_folder(place / "images", [f"{n}.png" for n in range(8)])
    finished_run.make_run(place / "run", place / "images")
    for name in ("empty", "broken", "recipes"):
        (place / name).mkdir()
    (place / "broken" / "a.png").write_bytes(b"no image")
    (place / "file").write_text("no checkpoint")
    (place / "file.npz").write_text("no arrays")
    (place / "binary").write_bytes(b"\xff\xfe--run_dir\xd0\x00")
    (place / "recipes" / "cifar10.flags").write_text("--dataset=cifar10\n")
    (place / "recipes" / "cifar10_small.flags").write_text(
        "--dataset=cifar10\n"
    )
    unfinished = finished_run.make_run(place / "unfinished", place / "images")
    unfinished.bank.unlink()
    unfinished.encoder.unlink()
    return place


def _param(case):
    """A case; what all commands share is ordinarily tested with three."""
    shared = case["arguments"][-1:] and case["arguments"][-1] in _OF_ALL
    rare = shared and case["command"] not in ("train", "embed", "neighbors")
    return pytest.param(
        case,
        id=f"{case['command']} {' '.join(case['arguments'])}"[-60:],
        marks=[pytest.mark.exhaustive] if rare else [],
    )


@pytest.mark.parametrize("case", map(_param, _cases()))
def test_the_status_and_the_sentence(place, case):
    before = sorted(place.rglob("*"))
    result = commands.run_all([case], place)[0]
    assert result.returncode == case["status"], result.stderr
    for part in case["parts"]:
        assert part.lstrip("-") in result.stderr
    assert ("Traceback" in result.stderr) == (case["bug"] is not None)
    if case["status"] == 2:
        lines = result.stderr.splitlines()
        (error,) = [line for line in lines if line.startswith("error: ")]
        for part in case["parts"]:
            assert part.lstrip("-") in error
        assert len(error) < 600
        if not set(_FOUND_LATE).intersection(case["parts"]):
            assert sorted(place.rglob("*")) == before


def test_the_folder_of_an_output_is_created(place):
    written = commands.run(
        "diff", "run", "run", "--output=new/a.tsv", cwd=place
    )
    assert written.returncode == 0, written.stderr
    assert (place / "new" / "a.tsv").read_text().startswith("name\tshared")


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/a/b"),
            ("/a/b: No such file.", 2),
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", b"/a/b"),
            ("/a/b: Permission denied.", 74),
        ),
        (OSError(errno.ENOSPC, "No space left"), ("No space left.", 74)),
        (OSError(errno.EINVAL, "Invalid argument"), None),
        (PermissionError(errno.EPERM, "Not permitted", 3), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_of_any_file_is_one_sentence(error, described):
    assert failures.describe(error) == described


@pytest.mark.parametrize("cache", ("memory", "none"))
def test_a_dataset_with_an_undecodable_image_is_named(tmp_path, cache):
    files = [tfds_forms.jpeg(20, 20, seed) for seed in range(4)]
    files[2] = files[2][: len(files[2]) // 3]
    tfds_forms.write(
        tmp_path,
        "cut",
        {
            "image": tfds_forms.features.Image(
                shape=(20, 20, 3), encoding_format="jpeg"
            )
        },
        {"train": [{"image": io.BytesIO(file)} for file in files]},
    )
    ended = commands.run(
        *("train", "--dataset=cut", f"--data_dir={tmp_path}"),
        *("--encoder=resnet18", "--width=4", "--epochs=1", "--batch_size=2"),
        *(f"--run_dir={tmp_path}/run", f"--cache={cache}", "--image_size=16"),
    )
    assert ended.returncode == 74, ended.stderr
    assert "Traceback" not in ended.stderr
    said = ended.stderr.splitlines()[-1]
    assert "--dataset=cut, with an image that cannot be: " in said
    assert "{{" not in said
    assert "[Op:" not in said


@pytest.mark.parametrize("wrap", (lambda step: step, tf.function))
def test_a_file_that_vanishes_is_named(tmp_path, wrap):
    finished_run.fill_folder(tmp_path, ["a.png", "b.png"])
    images = evaluation_dataset(folder_source(str(tmp_path)), 16, 2)
    (tmp_path / "b.png").unlink()
    with pytest.raises(tf.errors.NotFoundError) as caught:
        wrap(lambda iterator: next(iterator))(iter(images))
    message, status = failures.describe(caught.value)
    assert status == 74
    assert message.startswith(
        f"A file has vanished: {tmp_path}/b.png; No such file or directory. "
    )
