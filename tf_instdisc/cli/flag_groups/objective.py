"""Objective and memory bank"""

from absl import flags

from tf_instdisc import choices

OBJECTIVE = flags.DEFINE_enum(
    "objective", "nce", choices.OBJECTIVES, "What is minimised."
)
NUM_NEGATIVES = flags.DEFINE_integer(
    "num_negatives",
    4096,
    "Negatives of nce and info_nce.",
    lower_bound=1,
)
NEGATIVES = flags.DEFINE_enum(
    "negatives",
    "shared",
    choices.NEGATIVES,
    "Whether a batch shares its negatives.",
)
TEMPERATURE = flags.DEFINE_float(
    "temperature",
    0.07,
    "Temperature of the softmax.",
    lower_bound=0.01,
    upper_bound=1.0,
)
NORMALIZER = flags.DEFINE_enum(
    "normalizer",
    "ema",
    choices.NORMALIZERS,
    "Z of nce: a moving average, or the first batch's as in the authors' code.",
)
NORMALIZER_MOMENTUM = flags.DEFINE_float(
    "normalizer_momentum",
    0.99,
    "Share of the old Z in its moving average.",
    lower_bound=0.0,
    upper_bound=0.999999,
)
BANK_MOMENTUM = flags.DEFINE_float(
    "bank_momentum",
    0.5,
    "Share of the old row in a new one.",
    lower_bound=0.0,
    upper_bound=0.999999,
)
BANK_INIT = flags.DEFINE_enum(
    "bank_init",
    "random",
    choices.BANK_INITS,
    "First rows: random, or the untrained encoder's embeddings.",
)
BANK_DTYPE = flags.DEFINE_enum(
    "bank_dtype",
    "float32",
    choices.BANK_DTYPES,
    "How the bank's rows are kept.",
)
BANK_PLACEMENT = flags.DEFINE_enum(
    "bank_placement",
    "device",
    choices.BANK_PLACEMENTS,
    "device: each GPU has a copy of the bank. host: one copy in the memory of "
    "each host; with shared negatives a step moves only the rows it needs.",
)
PROXIMAL_WEIGHT = flags.DEFINE_float(
    "proximal_weight",
    0.0,
    "Weight of the squared distance to the row of the step before.",
    lower_bound=0.0,
)


@flags.multi_flags_validator(
    ["objective", "bank_placement"],
    "softmax takes the whole bank in each step: use --bank_placement=device, "
    "or --objective=nce or info_nce.",
)
def _softmax_on_the_device(values):
    return values["objective"] != "softmax" or (
        values["bank_placement"] != "host"
    )
