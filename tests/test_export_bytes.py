"""Untrusted bytes: those that are not an image do no harm.

INSTDISC_FUZZ sets the number of fuzzed inputs, 400 by default.
"""

import concurrent.futures
import os
import resource
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tf_instdisc
from tests import commands, exported, hostile_files
from tests.picture_files import compressed_png
from tf_instdisc.serving import saved_model
from tf_instdisc.serving.bank_index import BankIndex
from tf_instdisc.serving.options import ExportOptions
from tf_instdisc.serving.signatures import build_serving

pytestmark = pytest.mark.slow

MAX_PIXELS = 1_000_000


def _serving(run, **options):
    return build_serving(
        tf_instdisc.load_encoder(run.path),
        BankIndex(run.load_bank()),
        ExportOptions(
            crop_fraction=0.875,
            temperature=0.1,
            num_votes=20,
            max_pixels=MAX_PIXELS,
            **options,
        ),
    )[0]


@pytest.fixture(scope="module")
def functions(small_run):
    return _serving(small_run)


@pytest.fixture(scope="module")
def good():
    (image,) = exported.random_images(1, seed=5, size=40)
    return exported.encode(image)


@pytest.mark.exhaustive_variants("float32-error", "int8*")
@pytest.mark.parametrize("bad_bytes", ["mask", "error"])
@pytest.mark.parametrize("bank_dtype", ["float32", "int8"])
def test_a_batch_may_be_empty(small_run, good, bad_bytes, bank_dtype):
    serving = _serving(small_run, bad_bytes=bad_bytes, bank_dtype=bank_dtype)
    for function in serving.values():
        (spec,) = function.input_signature
        content = good if spec.dtype == tf.string else 0
        one = tf.fill([1, *spec.shape[1:]], tf.constant(content, spec.dtype))
        one, none = function(one), function(one[:0])
        assert none.keys() == one.keys()
        for name, values in none.items():
            assert values.shape == [0, *one[name].shape[1:]]


def _bomb():
    """A whole and valid PNG of 900 million bytes, in 900 thousand."""
    side = 17_320
    compressor = zlib.compressobj(9)
    row = b"\0" * (3 * side + 1)
    data = b"".join(compressor.compress(row) for _ in range(side))
    return compressed_png(side, side, data + compressor.flush())


def _animation(kind, image):
    frames = [Image.fromarray(np.roll(image, i, axis=0)) for i in range(3)]
    return exported.encode(
        frames[0], kind, save_all=True, append_images=frames[1:]
    )


def _changed(content, at, data):
    return content[:at] + data + content[at + len(data) :]


(IMAGE,) = exported.random_images(1, seed=6, size=40)
GIF = exported.encode(Image.fromarray(IMAGE), "GIF")
GOES_ON = hostile_files.long_pixels_of_a_large_image(
    side=1000, size=2_000_000, chunk_size=65_536
)
ACCEPTED = {
    "jpeg": exported.encode(IMAGE, "JPEG"),
    "progressive": exported.encode(IMAGE, "JPEG", progressive=True),
    "cmyk": exported.encode(Image.fromarray(IMAGE).convert("CMYK"), "JPEG"),
    "gray jpeg": exported.encode(Image.fromarray(IMAGE).convert("L"), "JPEG"),
    "png": exported.encode(IMAGE, "PNG"),
    "palette": exported.encode(Image.fromarray(IMAGE).convert("P"), "PNG"),
    "rgba": exported.encode(Image.fromarray(IMAGE).convert("RGBA"), "PNG"),
    "16 bit": exported.encode(
        Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 257), "PNG"
    ),
    "animated png": _animation("PNG", IMAGE),
    "webp": exported.encode(IMAGE, "WEBP"),
    "lossless webp": exported.encode(IMAGE, "WEBP", lossless=True),
    "webp with alpha": exported.encode(
        Image.fromarray(IMAGE).convert("RGBA"), "WEBP", exif=b"Exif\0\0x"
    ),
    "bmp": exported.encode(IMAGE, "BMP"),
    "palette bmp": exported.encode(Image.fromarray(IMAGE).convert("P"), "BMP"),
    "gif": GIF,
    "animated gif": _animation("GIF", IMAGE),
    "animated webp": _animation("WEBP", IMAGE),
    "long": exported.encode(np.zeros([1, 3000, 3], np.uint8)),
    "large png": exported.large_png(8),
    "one pixel": exported.encode(IMAGE[:1, :1]),
}
REFUSED = {
    "empty": b"",
    "text": b"no image at all",
    "one byte": b"\xff",
    "start of a jpeg": ACCEPTED["jpeg"][:3],
    "half a jpeg": ACCEPTED["jpeg"][: len(ACCEPTED["jpeg"]) // 2],
    "half a png": ACCEPTED["png"][: len(ACCEPTED["png"]) // 2],
    "half a webp": ACCEPTED["webp"][: len(ACCEPTED["webp"]) // 2],
    "start of a webp": ACCEPTED["webp"][:16],
    "unknown webp": ACCEPTED["webp"][:12] + b"VP9 " + ACCEPTED["webp"][16:],
    "half a bmp": ACCEPTED["bmp"][:200],
    "huge png": compressed_png(2**31 - 1, 2**31 - 1, b""),
    "huge jpeg": _changed(
        ACCEPTED["jpeg"], ACCEPTED["jpeg"].index(b"\xff\xc0") + 5, b"\xff" * 4
    ),
    "huge webp": _changed(ACCEPTED["webp"], 26, b"\xff\x3f\xff\x3f"),
    "huge lossless webp": _changed(
        ACCEPTED["lossless webp"], 21, b"\xff\xff\xff\x0f"
    ),
    "huge bmp": _changed(ACCEPTED["bmp"], 18, b"\xff\xff\xff\x7f" * 2),
    "png that goes on": GOES_ON,
    "wide png": compressed_png(1, 2**20, b""),
    "no pixels": compressed_png(0, 0, b""),
    "large": exported.encode(np.zeros([1001, 1000, 3], np.uint8)),
    "half a gif": GIF[: len(GIF) // 2],
    "huge gif": _changed(GIF, 6, b"\xff" * 4),
    "tiff": exported.encode(IMAGE, "TIFF"),
}


def test_each_format_is_read_and_each_defect_refused(functions):
    contents = [*ACCEPTED.values(), *REFUSED.values()]
    answer = functions["image_bytes"](tf.constant(contents))
    names = np.array([*ACCEPTED, *REFUSED])
    assert names[answer["valid"]].tolist() == list(ACCEPTED)
    norms = np.linalg.norm(answer["embedding"], axis=1)
    np.testing.assert_allclose(norms[: len(ACCEPTED)], 1, atol=1e-5)
    assert (norms[len(ACCEPTED) :] == 0).all()


def test_a_bad_image_changes_nothing_for_its_neighbors(functions, good):
    for name in ("image_bytes", "neighbors_bytes", "classify_bytes"):
        alone = functions[name](tf.constant([good]))
        mixed = functions[name](
            tf.constant([b"bad", good, b"", good, REFUSED["half a png"]])
        )
        assert mixed["valid"].numpy().tolist() == [0, 1, 0, 1, 0]
        for key, value in mixed.items():
            for row in (1, 3):
                _same(value[row], alone[key][0])
    found = functions["neighbors_bytes"](tf.constant([b"bad"]))
    assert (found["instance_ids"].numpy() == -1).all()
    assert (found["names"].numpy() == b"").all()
    assert (found["scores"].numpy() == 0).all()


def _same(actual, expected):
    if actual.dtype.is_floating:
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    else:
        np.testing.assert_array_equal(actual, expected)


def test_error_mode_fails_the_bad_request_only(small_run, good, tmp_path):
    path = saved_model.export_run(
        small_run,
        str(tmp_path / "m"),
        ExportOptions(bad_bytes="error", batch_sizes=(1, 4)),
        with_bank=False,
    )
    card = (path / "model_card.md").read_text()
    assert "A request may have at most 1,024 images." in card
    with commands.session() as session, session.graph.as_default():
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signature = meta.signature_def["image_bytes"]
        feed = signature.inputs["image_bytes"].name
        fetch = signature.outputs["embedding"].name

        def ask(content):
            try:
                return session.run(fetch, {feed: [content]})
            except tf.errors.InvalidArgumentError:
                return None

        # A large request is divided.
        found = session.run(fetch, {feed: [good] * 13})
        assert len(found) == 13
        np.testing.assert_allclose(found, found[:1].repeat(13, 0), atol=1e-5)
        # More requests at once than batches that wait by default.
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            found = list(pool.map(ask, [good] * 256))
        assert all(answer is not None for answer in found)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            bad = {3: b"bad", 5: GOES_ON}
            fine = [good, ACCEPTED["large png"]]
            contents = [bad.get(i % 8, fine[i % 2]) for i in range(32)]
            answers = list(pool.map(ask, contents))
    embeddings = _serving(small_run)["image_bytes"](tf.constant(fine))[
        "embedding"
    ]
    for i, answer in enumerate(answers):
        if i % 8 in bad:
            assert answer is None
        else:
            np.testing.assert_allclose(answer[0], embeddings[i % 2], atol=1e-5)


def test_a_decompression_bomb_is_refused_unopened(functions, good):
    bomb = _bomb()
    assert len(bomb) < 1_000_000
    before = _peak_bytes()
    answer = functions["image_bytes"](tf.constant([bomb, good] * 4))
    assert answer["valid"].numpy().tolist() == [False, True] * 4
    assert _peak_bytes() - before < 200e6


def _peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _fuzzed(number, seed):
    """Whole, cut, changed and joined images, and noise."""
    rng = np.random.default_rng(seed)
    seeds = [*ACCEPTED.values()] * 3 + [*REFUSED.values()]
    for _ in range(number):
        content = bytearray(seeds[rng.integers(len(seeds))])
        kind = rng.integers(6)
        if kind == 0:
            content = content[: rng.integers(len(content) + 1)]
        elif kind == 1:  # anywhere
            for _ in range(rng.integers(1, 6)):
                if content:
                    content[rng.integers(len(content))] = rng.integers(256)
        elif kind == 2:  # in the header, where the sizes are
            for _ in range(rng.integers(1, 4)):
                if content:
                    at = rng.integers(min(len(content), 64))
                    content[at] = rng.choice([0, 1, 127, 128, 255])
        elif kind == 3:
            content = content[:40] + rng.bytes(rng.integers(300))
        elif kind == 4:
            other = seeds[rng.integers(len(seeds))]
            content = content[: len(content) // 2] + other[len(other) // 2 :]
        else:
            content = rng.bytes(rng.integers(200))
        yield bytes(content)


def test_fuzzed_bytes_do_no_harm(functions, good):
    number = int(os.environ.get("INSTDISC_FUZZ", "400"))
    ask = functions["image_bytes"]
    expected = ask(tf.constant([good]))["embedding"][0]
    ask(tf.constant([good] * 20))
    before = _peak_bytes()
    num_valid = 0
    contents = list(_fuzzed(number, seed=0))
    for start in range(0, number, 19):
        batch = [*contents[start : start + 19], good]
        answer = ask(tf.constant(batch))
        assert answer["valid"][-1]
        np.testing.assert_allclose(answer["embedding"][-1], expected, atol=1e-6)
        norms = np.linalg.norm(answer["embedding"], axis=1)
        np.testing.assert_allclose(norms, answer["valid"], atol=1e-5)
        num_valid += int(answer["valid"].numpy().sum()) - 1
    grown = (_peak_bytes() - before) / 1e6
    print(f"{number} inputs, {num_valid} valid, peak +{grown:.0f} MB")
    assert 0 < num_valid < number
    assert grown < 300
