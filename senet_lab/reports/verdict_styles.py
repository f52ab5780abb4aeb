"""The style of each kind of verdict: symbol, shape and colour, the same in tables, figures and on the page.

The shape alone tells the kinds apart, so that nobody needs the colours: it points down where the error is lower, and is
filled where the verdict holds beyond these images.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VerdictStyle:
    """How a row with one kind of verdict is drawn.

    Attributes:
        meaning: in a legend.
        mark: its symbol in text; empty if it has none.
        marker: its shape, as matplotlib calls it, and the page's scripts.
        tone: its colour, of `COLOURS`; `ink` is that of text, `soft` a paler one.
        filled: or hollow.
    """

    meaning: str
    mark: str
    marker: str
    tone: str
    filled: bool

    @property
    def colour(self) -> str:
        """As a hexadecimal number; empty where it is that of text, whatever that is."""
        return COLOURS.get(self.tone, "")


COLOURS = {"better": "#0072B2", "worse": "#D55E00", "equivalent": "#009E73"}
STYLES = {
    "baseline": VerdictStyle("baseline", "■", "s", "ink", True),
    "better": VerdictStyle("better", "▼", "v", "better", True),
    "better here": VerdictStyle("better on these images", "▽", "v", "better", False),
    "worse": VerdictStyle("worse", "▲", "^", "worse", True),
    "worse here": VerdictStyle("worse on these images", "△", "^", "worse", False),
    "equivalent": VerdictStyle("equivalent", "●", "o", "equivalent", True),
    "open": VerdictStyle("open", "○", "o", "soft", False),
    "failed": VerdictStyle("failed", "✕", "X", "soft", True),
    "same network": VerdictStyle("same network", "□", "s", "ink", False),
    "identical": VerdictStyle("identical", "≡", "h", "ink", False),
    "": VerdictStyle("no verdict", "", "P", "soft", False),
}
