"""Image files of each format, mode and orientation, and what people see."""

import io
import struct
import warnings

import numpy as np
from PIL import Image, ImageDraw, ImageOps

ORIENTATION = 0x0112


def icon(color: tuple[int, int, int], shape: str) -> Image.Image:
    """A figure whose color is opaque, on black without opacity."""
    image = Image.new("RGBA", (61, 45))
    draw = ImageDraw.Draw(image)
    {"disk": draw.ellipse, "box": draw.rectangle}[shape](
        (9, 9, 30, 30), (*color, 255)
    )
    return image


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth RGB picture that is not symmetric."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seen(contents: bytes) -> np.ndarray:
    """uint8 `[height, width, 3]`: what Pillow shows, on white."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(contents)))
        if image.has_transparency_data and not contents.startswith(b"GIF"):
            shown = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(shown, image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))


def exif(value: int, order: str = "<", kind: int = 3) -> bytes:
    """EXIF data with an orientation behind two other tags."""
    code = {1: "B3x", 3: "H2x", 4: "I"}[kind]
    tags = [
        struct.pack(order + "HHII", 0x010F, 2, 4, 0x41424300),
        struct.pack(order + "HHI" + code, ORIENTATION, kind, 1, value),
        struct.pack(order + "HHII", 0x0131, 4, 1, 77),
    ]
    head = b"II*\0" if order == "<" else b"MM\0*"
    return (
        b"Exif\0\0"
        + head
        + struct.pack(order + "IH", 8, len(tags))
        + b"".join(tags)
        + bytes(4)
    )


GARBAGE_EXIF = {
    "empty": b"Exif\0\0",
    "noise": b"Exif\0\0" + bytes(range(200)),
    "no order": b"Exif\0\0XX*\0" + exif(6)[10:],
    "directory beyond": exif(6)[:10] + b"\xff\xff\xff\xff" + exif(6)[14:],
    "directory of itself": exif(6)[:10] + bytes(4) + exif(6)[14:],
    "many tags": exif(6)[:14] + b"\xff\xff" + b"\x12\x01" * 40,
    "cut": exif(6)[:30],
    "value 0": exif(0),
    "value 9": exif(9),
    "value 65535": exif(65535),
}


def without_segment(jpeg: bytes, marker: int) -> bytes:
    at = jpeg.index(bytes([0xFF, marker]))
    length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg[:at] + jpeg[at + 2 + length :]


def matrix() -> dict[str, bytes]:
    """Files by name; in all of them, rows are 45 and columns 61 long."""
    image = smooth(45, 61)
    alpha = Image.fromarray(
        np.random.default_rng(1).integers(0, 256, (45, 61), np.uint8)
    )
    rgba = image.copy()
    rgba.putalpha(alpha)
    colors = image.quantize(64)
    gray = image.convert("L")
    other = [smooth(45, 61, seed).quantize(32) for seed in (1, 2)]
    cmyk = encode(image.convert("CMYK"), "JPEG", quality=95)
    files = {
        "jpeg 4:4:4": encode(image, "JPEG", subsampling=0, quality=90),
        "jpeg 4:2:0": encode(image, "JPEG", subsampling=2, quality=90),
        "jpeg progressive": encode(image, "JPEG", progressive=True),
        "jpeg restarts": encode(image, "JPEG", restart_marker_rows=1),
        "jpeg gray": encode(gray, "JPEG"),
        "jpeg gray progressive": encode(gray, "JPEG", progressive=True),
        "jpeg cmyk": cmyk,
        "jpeg cmyk, no Adobe": without_segment(cmyk, 0xEE),
        "jpeg rgb": encode(image, "JPEG", keep_rgb=True),
        "jpeg comment": encode(image, "JPEG", comment=b"\xff\xd9\xff\xda" * 9),
        "jpeg and more": encode(image, "JPEG") + b"\xff\xda\0" * 999,
        "jpeg pair": encode(image, "MPO", save_all=True, append_images=[image]),
        "png 1": encode(image.convert("1"), "PNG"),
        "png L": encode(gray, "PNG"),
        "png LA": encode(rgba.convert("LA"), "PNG"),
        "png P": encode(colors, "PNG"),
        "png P of 1 bit": encode(image.quantize(2), "PNG", bits=1),
        "png P of 2 bits": encode(image.quantize(4), "PNG", bits=2),
        "png P of 4 bits, a color is transparent": encode(
            image.quantize(13), "PNG", bits=4, transparency=3
        ),
        "png P of 4 bits": encode(image.quantize(13), "PNG", bits=4),
        "png P, a color is transparent": encode(colors, "PNG", transparency=3),
        "png P, alphas": encode(colors, "PNG", transparency=bytes(range(64))),
        "png L, a gray is transparent": encode(gray, "PNG", transparency=100),
        "png RGB": encode(image, "PNG"),
        "png RGB, a color is transparent": encode(
            image, "PNG", transparency=image.getpixel((3, 3))
        ),
        "png RGBA": encode(rgba, "PNG"),
        "png interlaced": png(
            image.height,
            image.width,
            interlaced_rows_of(np.asarray(image)),
            interlace=1,
        ),
        "png, text and profile": encode(
            image, "PNG", icc_profile=bytes(5000), dpi=(72, 72)
        ),
        "png animated": encode(
            image, "PNG", save_all=True, append_images=[smooth(45, 61, 1)]
        ),
        "gif": encode(colors, "GIF"),
        "gif not interlaced": encode(colors, "GIF", interlace=0),
        "gif transparent": encode(
            colors, "GIF", transparency=colors.getpixel((0, 0))
        ),
        "gif animated": encode(
            colors,
            "GIF",
            save_all=True,
            append_images=other,
            comment=b"x" * 999,
        ),
        "gif gray": encode(gray, "GIF"),
        "gif 1 bit": encode(image.convert("1"), "GIF"),
        "gif, part of the canvas": _on_canvas(colors),
        "gif, part and transparent": _on_canvas(colors, transparent=7),
        "bmp 8 gray": encode(gray, "BMP"),
        "bmp 8": encode(colors, "BMP"),
        "bmp 8 of 4 colors": encode(image.quantize(4), "BMP"),
        "bmp 24": encode(image, "BMP"),
        "bmp 24, downward": _bmp(image),
        "bmp 32": encode(rgba, "BMP"),
        "bmp 32, masks": _bmp(image, masks=(0xFF0000, 0xFF00, 0xFF)),
        "webp": encode(image, "WEBP"),
        "webp lossless": encode(image, "WEBP", lossless=True),
        "webp alpha": encode(rgba, "WEBP"),
        "webp lossless alpha": encode(rgba, "WEBP", lossless=True, exact=True),
        "webp animated": encode(
            image, "WEBP", save_all=True, append_images=[smooth(45, 61, 1)]
        ),
        "webp animated alpha": encode(
            rgba, "WEBP", save_all=True, append_images=[rgba.rotate(180)]
        ),
    }
    return files


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    import zlib

    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(height: int, width: int, rows: bytes, *more: bytes, interlace=0):
    """A PNG of 8-bit RGB from its rows, which are compressed here."""
    import zlib

    data = zlib.compress(rows)
    return compressed_png(height, width, data, *more, interlace=interlace)


def compressed_png(
    height: int,
    width: int,
    data: bytes,
    *more: bytes,
    interlace: int = 0,
    chunk_size: int = 2**31,
) -> bytes:
    """A PNG that claims 8-bit RGB, whatever its compressed data holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlace)
    parts = [
        chunk(b"IDAT", data[start : start + chunk_size])
        for start in range(0, max(len(data), 1), chunk_size)
    ]
    chunks = [chunk(b"IHDR", header), *more, *parts, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def rows_of(image: np.ndarray) -> bytes:
    """Each row of a PNG begins with its filter, here none."""
    return np.insert(image.reshape(len(image), -1), 0, 0, axis=1).tobytes()


def interlaced_rows_of(image: np.ndarray) -> bytes:
    """Pillow reads Adam7, but does not write it."""
    rows = b""
    for top, left, down, right in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        rows += rows_of(image[top::down, left::right])
    return rows


def _on_canvas(image: Image.Image, transparent: int | None = None) -> bytes:
    """A GIF whose only frame begins at (5, 3) of a larger canvas."""
    options = {} if transparent is None else {"transparency": transparent}
    contents = bytearray(encode(image, "GIF", **options))
    contents[6:10] = struct.pack("<HH", image.width + 9, image.height + 8)
    flags = contents[10]
    at = 13 + (3 * 2 ** (flags % 8 + 1) if flags >= 128 else 0)
    while contents[at] == 0x21:  # extensions
        at += 2
        while contents[at]:
            at += contents[at] + 1
        at += 1
    contents[at + 1 : at + 5] = struct.pack("<HH", 5, 3)
    return bytes(contents)


def _bmp(image: Image.Image, masks: tuple[int, ...] = ()) -> bytes:
    """Forms that Pillow reads, but does not write: downward, or with masks."""
    height, width = image.height, image.width
    pixels = np.asarray(image)[..., ::-1]
    bits, compression = 24, 0
    if masks:
        bits, compression = 32, 3
        pixels = np.pad(pixels, [(0, 0), (0, 0), (0, 1)])
    rows = pixels.reshape(height, -1)
    rows = np.pad(rows, [(0, 0), (0, -rows.shape[1] % 4)])
    offset = 54 + 4 * len(masks)
    return (
        struct.pack("<2sIII", b"BM", offset + rows.size, 0, offset)
        + struct.pack("<IiiHHII", 40, width, -height, 1, bits, compression, 0)
        + bytes(16)
        + struct.pack(f"<{len(masks)}I", *masks)
        + rows.tobytes()
    )
