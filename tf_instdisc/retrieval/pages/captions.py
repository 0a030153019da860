"""Captions of drawn pictures, in the script in which the images are named."""

import functools
import importlib.util
import pathlib
import warnings

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tf_instdisc.text import shown

HEIGHT = 14  # pixels
_DPI = 100
_POINTS = 8
_CJK_PACKAGE = "noto_cjk_sans_otc"
# Each glyph comes from the first family that has it. DejaVu Sans is part of
# matplotlib and has Latin, Greek, Cyrillic, Arabic and Hebrew letters. Without
# the package, a font of the operating system may have the others.
_FAMILIES = (
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "Hiragino Sans",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
)


@functools.cache
def _families() -> list[str]:
    package = importlib.util.find_spec(_CJK_PACKAGE)
    if package is not None and package.origin:
        for path in pathlib.Path(package.origin).parent.glob("*.ttc"):
            font_manager.fontManager.addfont(path)
    installed = set(font_manager.get_font_names())
    return [family for family in _FAMILIES if family in installed]


@functools.lru_cache(maxsize=4096)
def caption(text: str, width: int) -> np.ndarray:
    """Draws one line of black text on white, shortened until it fits.

    Args:
        text: The text; letters that no font has become boxes.
        width: Width in pixels.

    Returns:
        uint8 `[HEIGHT, width, 3]`.
    """
    figure = Figure((width / _DPI, HEIGHT / _DPI), _DPI)
    canvas = FigureCanvasAgg(figure)
    whole = shown(text)
    drawn = figure.text(
        0,
        0.22,
        whole,
        fontsize=_POINTS,
        fontfamily=_families(),
        parse_math=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        # No letter is narrower than a pixel.
        for length in range(min(len(whole), width), 0, -1):
            if length < len(whole):
                drawn.set_text(whole[:length] + "…")
            if drawn.get_window_extent().width <= width:
                break
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
