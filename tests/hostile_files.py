"""Small files that would cost much if they were decoded as they are."""

import struct
import zlib

from tests.picture_files import chunk, compressed_png, encode, png, smooth

ROWS = bytes(16 * 49)


def text_bomb(kind: bytes = b"zTXt", count: int = 100) -> bytes:
    """Each chunk of 8 KB becomes 8 MB."""
    text = zlib.compress(b"a" * 7_900_000, 9)
    heads = {
        b"zTXt": b"k%d\0\0",
        b"iTXt": b"k%d\0\1\0\0\0",
        b"iCCP": b"k%d\0\0",
    }
    chunks = [chunk(kind, heads[kind] % i + text) for i in range(count)]
    return png(16, 16, ROWS, *chunks)


def long_pixels(size: int = 10**9) -> bytes:
    """Pixel data that continues for a gigabyte after the last row."""
    compressor = zlib.compressobj(9)
    zeros = bytes(10**7)
    parts = [compressor.compress(zeros) for _ in range(size // 10**7)]
    data = b"".join(parts) + compressor.flush()
    contents = png(16, 16, ROWS)
    pixels = contents.index(b"IDAT") - 4
    return contents[:pixels] + chunk(b"IDAT", data) + contents[-12:]


def long_pixels_of_a_large_image(
    *, side: int = 7000, size: int = 10**7, chunk_size: int = 10**7
) -> bytes:
    """A file of `size` bytes whose image has ended after a tenth of them."""
    compressor = zlib.compressobj(9)
    first, again = (
        compressor.compress(bytes(10**7)) + compressor.flush(zlib.Z_FULL_FLUSH)
        for _ in range(2)
    )
    data = first + again * (size // len(again))
    return compressed_png(side, side, data[:size], chunk_size=chunk_size)


def _segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def scans_bomb(
    side: int, scans: int, refines: bool = False, between: bytes = b""
) -> bytes:
    """A progressive JPEG of empty scans; each visits all blocks."""
    blocks = ((side + 7) // 8) ** 2
    bits = ("0" + "1" * 14) * -(-blocks // 32767)
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    data = data.replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])
    first = _segment(0xDA, bytes([1, 1, 0, 1, 63, 1 if refines else 0])) + data
    again = _segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10])) + data
    return (
        b"\xff\xd8"
        + _segment(0xDB, b"\0" + b"\1" * 64)
        + _segment(0xC2, frame)
        + _segment(0xC4, bytes([0x00, 1] + [0] * 15 + [0]))
        + _segment(0xC4, bytes([0x10, 1] + [0] * 15 + [0xE0]))
        + _segment(0xDA, bytes([1, 1, 0, 0, 0, 0]))
        + b"\0" * (-(-blocks // 8))
        + first
        + between
        + (again if refines else first) * (scans - 1)
        + b"\xff\xd9"
    )


def frames_gif(frames: int, side: int = 2000) -> bytes:
    """Frames that are large when they are decoded, of a few KB each."""
    image = smooth(1, 1).resize((side, side)).quantize(2)
    contents = encode(image, "GIF")
    flags = contents[10]
    start = 13 + (3 * 2 ** (flags % 8 + 1) if flags >= 128 else 0)
    frame = contents[start:-1]
    return contents[:start] + frame * frames + b";"


def blocks_gif(count: int) -> bytes:
    """A comment of blocks that are all of other sizes than their next."""
    contents = encode(smooth(9, 9).quantize(4), "GIF")
    start = 13 + 3 * 2 ** (contents[10] % 8 + 1)
    blocks = b"\x01x\x02xx" * count
    return contents[:start] + b"!\xfe" + blocks + b"\0" + contents[start:]


def frames_webp(frames: int, side: int = 2000) -> bytes:
    """Many frames of a large canvas."""
    still = encode(smooth(1, 1).resize((side, side)), "WEBP", lossless=True)
    bits = still[12:]
    size = struct.pack("<I", side - 1)[:3]
    body = bytes(6) + size * 2 + bytes([100, 0, 0, 0]) + bits
    frame = b"ANMF" + struct.pack("<I", len(body)) + body
    chunks = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes([2, 0, 0, 0])
        + size * 2
        + b"ANIM"
        + struct.pack("<I", 6)
        + bytes(6)
        + frame * frames
    )
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def hostile() -> dict[str, bytes]:
    """Files of at most 10 MB by name."""
    jpeg = encode(smooth(20, 20), "JPEG")
    small = png(16, 16, ROWS)
    webp = encode(smooth(20, 20), "WEBP")
    files = {
        "zTXt": text_bomb(b"zTXt", 1000),
        "iTXt": text_bomb(b"iTXt", 1000),
        "iCCP": text_bomb(b"iCCP", 100),
        "text after the pixels": small[:-12]
        + text_bomb(b"zTXt", 900)[33:-70]
        + small[-12:],
        "pixels that go on": long_pixels(),
        "pixels of a large image that go on": long_pixels_of_a_large_image(),
        "the same in many chunks": long_pixels_of_a_large_image(
            chunk_size=8192
        ),
        "the same in too many chunks": long_pixels_of_a_large_image(
            chunk_size=20
        )[: 10**7],
        "empty PNG chunks": small[:33] + chunk(b"abCd", b"") * 800_000,
        "empty pixel chunks": small[:33] + chunk(b"IDAT", b"") * 800_000,
        "scans": scans_bomb(7000, 2000),
        "refining scans": scans_bomb(7000, 2000, refines=True),
        "scans of a small JPEG": scans_bomb(64, 150_000),
        "scans behind an end": scans_bomb(
            7000, 2000, between=_segment(0xFE, b"\xff\xd9")
        ),
        # A small frame follows the large one, in garbage before a scan.
        "a false frame": scans_bomb(20_000, 2).replace(
            b"\xff\xda", bytes.fromhex("00C0 0011 08 0010 0010 03 FFDA"), 1
        ),
        "JPEG segments": jpeg[:2] + _segment(0xFE, b"x") * 2_000_000 + jpeg[2:],
        "JPEG garbage": jpeg[:2] + bytes(9_000_000) + jpeg[2:],
        "GIF frames": frames_gif(800),
        "GIF blocks": blocks_gif(1_500_000),
        "WebP frames": frames_webp(5000),
        "WebP chunks": webp[:12] + b"abcd\0\0\0\0" * 1_000_000 + webp[12:],
    }
    for name, contents in files.items():
        assert len(contents) < 11e6, name
    return files


def damaged_archive(content: bytes, damage: str) -> bytes:
    """An `.npz` that is `cut`, `flipped` in a bit, `empty`, or no archive."""
    if damage == "cut":
        return content[: len(content) // 2]
    if damage == "flipped":
        place = content.index(b"NUMPY") + 130
        changed = bytes([content[place] ^ 1])
        return content[:place] + changed + content[place + 1 :]
    return b"" if damage == "empty" else b"no archive"
