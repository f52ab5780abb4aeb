"""Draws figures to the same bytes on every machine, whatever the user's settings, fonts and clock."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, fontManager

# Matplotlib's own DejaVu Sans: of a machine's, glyphs have other numbers, and which of them is found hangs on a cache.
FONT = FontEntry(fname=str(Path(mpl.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), name="senet_lab's DejaVu Sans")
SETTINGS: dict[Any, Any] = {
    "font.family": [FONT.name, "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a label may hold a dollar
    "svg.hashsalt": "senet_lab",
    "pdf.fonttype": 42,  # text that can be searched
}
LABEL_SIZE = 8
FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "png": {"metadata": {"Software": None}, "dpi": 200},
    "pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": None}},
}


@contextmanager
def lab_style() -> Iterator[None]:
    """Use the lab's matplotlib settings in the body."""
    if FONT not in fontManager.ttflist:
        fontManager.ttflist.append(FONT)
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a label may be in any script
        yield


def figure_files(draw: Callable[[], Figure], stem: str, forms: Collection[str] = tuple(FORMATS)) -> dict[str, bytes]:
    """The files `<stem>.svg`, `.png` and `.pdf` of what `draw` makes, by name, or those of these forms."""
    with lab_style():
        figure = draw()
        contents = {}
        for form in forms:
            content = io.BytesIO()
            figure.savefig(content, format=form, **FORMATS[form])
            contents[f"{stem}.{form}"] = content.getvalue()
    return contents


def shorten(text: str, longest: int) -> str:
    """Text cut to at most so many characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def range_text(few: float, many: float) -> str:
    """ "3", or "3–5" where they differ."""
    return f"{few}" if few == many else f"{few}–{many}"
