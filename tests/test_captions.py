"""Captions in drawn grids: other scripts, and names that are too long."""

import importlib.util

import numpy as np
import pytest

from tf_instdisc.retrieval.pages import captions

needs_cjk_font = pytest.mark.skipif(
    importlib.util.find_spec("noto_cjk_sans_otc") is None,
    reason="needs a font: pip install noto-cjk-sans-otc",
)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("señor", "senor"),
        ("жук", "кит"),
        ("σκύλος", "σκύλοι"),
        ("قطط", "كلب"),
        pytest.param("猫の", "犬と", marks=needs_cjk_font),
        pytest.param("中国", "文字", marks=needs_cjk_font),
        pytest.param("강아지", "고양이", marks=needs_cjk_font),
    ],
)
def test_letters_of_many_scripts_are_drawn(name, other):
    # Letters that no font has would be the same boxes.
    one, two = (captions.caption(text, 100) for text in (name, other))
    assert (one < 128).any()
    assert (one != two).any()


def test_arabic_letters_are_joined():
    joined, apart = (captions.caption(text, 100) for text in ("ببب", "ب ب ب"))
    used = [np.flatnonzero((c < 128).any(axis=(0, 2))) for c in (joined, apart)]
    assert np.diff(used[0]).max() == 1 < np.diff(used[1]).max()


def test_a_long_name_is_shortened_with_dots():
    drawn = captions.caption("x" * 300, 60)
    assert drawn.shape == (captions.HEIGHT, 60, 3)
    assert any(
        np.array_equal(drawn, captions.caption("x" * length + "…", 60))
        for length in range(5, 15)
    )


def test_dollar_signs_are_not_a_formula():
    wide, narrow = (
        (captions.caption(text, 100) < 128).any(axis=(0, 2)).nonzero()[0].max()
        for text in ("$a_b$ 5", "a_b 5")
    )
    assert wide > narrow
