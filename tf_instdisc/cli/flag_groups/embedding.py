"""Images, output and model"""

from absl import flags

from tf_instdisc.cli import path_flags
from tf_instdisc.cli.flag_groups import finished_run

IMAGES = path_flags.define_path("images", None, "Folder of images to embed.")
OUTPUT = path_flags.define_path(
    "output",
    None,
    "File to write: .npz, or .parquet (pip install 'tf_instdisc[parquet]').",
)
SAVED_MODEL = path_flags.define_path(
    "saved_model",
    None,
    "Embed with an exported model: its directory, or that of a version.",
)
SERVER = flags.DEFINE_string(
    "server", None, "Embed with a server over gRPC: host:port."
)
REST = flags.DEFINE_string(
    "rest", None, "Embed with a server over REST: http://host:port."
)
MODEL_NAME = flags.DEFINE_string(
    "model_name", None, "Name of the model on --server or --rest."
)
LABEL = flags.DEFINE_string(
    "label", None, "Label of the version on --server or --rest."
)
ROOT_CERTIFICATES = path_flags.define_path(
    "root_certificates", None, "PEM file; speak TLS with --server or --rest."
)
DEADLINE = flags.DEFINE_float(
    "deadline", 60.0, "Seconds for one batch of a server.", lower_bound=0.1
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "Images in a batch.", lower_bound=1
)

flags.mark_flags_as_required(["images", "output"])


@flags.validator("output", "--output must end in .npz or .parquet.")
def _known_format(output):
    return output is None or output.endswith((".npz", ".parquet"))


@flags.multi_flags_validator(
    [finished_run.RUN_DIR.name, "saved_model", "server", "rest"],
    "Give one of --run_dir, --saved_model, --server and --rest.",
)
def _one_model(values):
    return sum(value is not None for value in values.values()) == 1


@flags.multi_flags_validator(
    ["server", "rest", "model_name"],
    "--model_name goes with --server and --rest.",
)
def _named(values):
    has_server = values["server"] is not None or values["rest"] is not None
    return has_server == (values["model_name"] is not None)
