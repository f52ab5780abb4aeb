"""Labels beside the points of a scatter plot, placed so that they hide neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

DISTANCES = (6, 12, 20, 30, 42, 56)  # from the point to the label's near edge, in points (1/72 inch)
ANGLES = (0, 90, 270, 180, 45, 315, 135, 225)  # tried in this order: right, above, below, left, between
LEADER_FROM = 10  # labels farther away than this get a line to their point
MARKER = 5.0  # half of what a marker takes, in points
LABEL_COSTS = 10  # what a label hides counts so much more than what its line crosses
CAP = 4.0  # half of what the cap of an interval takes


@dataclass(frozen=True)
class LabelPlacement:
    """A place for a label: its centre relative to the point, the box it takes and the line to its point (pixels)."""

    offset: tuple[float, float]
    box: Bbox
    leader: tuple[Bbox, ...]


def place_labels(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float]],
    intervals: Sequence[tuple[float, float] | None],
    lines: Sequence[float],
    texts: Sequence[str],
    size: float,
) -> list[Annotation]:
    """Write each text beside its point: at the first place that is free, else at the one that hides least.

    The figure's layout must stand already (its positions are final).

    Args:
        points: (x, y) in data coordinates.
        intervals: the vertical bar through each point as (low, high), data coordinates; None where there is none.
        lines: heights of horizontal lines, data coordinates.
        size: of the font, in points.
    """
    scale = figure.dpi / 72
    frame = axes.get_window_extent()
    pixels = [(float(x), float(y)) for x, y in (axes.transData.transform(point) for point in points)]
    taken = [_around(x, y, MARKER * scale) for x, y in pixels]
    for height in lines:
        y = float(axes.transData.transform((points[0][0], height))[1])
        taken.append(Bbox.from_extents(frame.x0, y - 1, frame.x1, y + 1))
    ends: list[tuple[float, float]] = []  # how far up and down each bar reaches from its point
    for (x, y), point, interval in zip(pixels, points, intervals, strict=True):
        bottom, top = (
            (y, y)
            if interval is None
            else (float(axes.transData.transform((point[0], value))[1]) for value in interval)
        )
        ends.append((top - y, y - bottom))
        if interval is not None:
            taken.append(Bbox.from_extents(x - 2 * scale, bottom, x + 2 * scale, top))
            taken += [Bbox.from_extents(x - CAP * scale, v - scale, x + CAP * scale, v + scale) for v in (bottom, top)]
    notes = []
    for (x, y), reach, point, text in zip(pixels, ends, points, texts, strict=True):
        width, height = _size(axes, text, size)
        spot = _spot(x, y, width, height, reach, scale, taken, frame)
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.6", "shrinkA": 0, "shrinkB": MARKER - 1}
        note = axes.annotate(
            text,
            point,
            (spot.offset[0] / scale, spot.offset[1] / scale),
            textcoords="offset points",
            fontsize=size,
            ha="center",
            va="center",
            arrowprops=line if spot.leader else None,
        )
        note.set_in_layout(False)
        notes.append(note)
        taken += [spot.box, *spot.leader]
    return notes


def _size(axes: Axes, text: str, size: float) -> tuple[float, float]:
    """Width and height of a text, in pixels."""
    probe = axes.text(0.5, 0.5, text, transform=axes.transAxes, fontsize=size)
    box = probe.get_window_extent()
    probe.remove()
    return box.width, box.height


def _spot(
    x: float,
    y: float,
    width: float,
    height: float,
    reach: tuple[float, float],
    scale: float,
    taken: list[Bbox],
    frame: Bbox,
) -> LabelPlacement:
    """The first place around (x, y) where a label hides nothing, or the one where it hides least."""
    best: tuple[float, LabelPlacement] | None = None
    for spot in _candidates(x, y, width, height, reach, scale):
        # Where nothing is free: better a line across an interval than a label on one, or beyond the axes.
        hidden = LABEL_COSTS * sum(_overlap(spot.box, other) for other in taken)
        hidden += LABEL_COSTS * (spot.box.width * spot.box.height - _overlap(spot.box, frame))
        own = _around(x, y, MARKER * scale)  # a line ends in its own marker, which is among what is taken
        hidden += sum(_overlap(box, other) for box in spot.leader for other in taken if not box.overlaps(own))
        if best is None or hidden < best[0] - 1e-6:
            best = (hidden, spot)
        if hidden < 1e-6:
            break
    assert best is not None
    return best[1]


def _candidates(
    x: float, y: float, width: float, height: float, reach: tuple[float, float], scale: float
) -> Iterator[LabelPlacement]:
    """Places from near to far: around the point, then above and below its interval, then away with a line."""
    for distance in DISTANCES:
        for angle in ANGLES:
            cos, sin = round(math.cos(math.radians(angle)), 6), round(math.sin(math.radians(angle)), 6)
            dx, dy = cos * (distance * scale + width / 2), sin * (distance * scale + height / 2)
            leader = _leader(x, y, dx, dy, width, height) if distance >= LEADER_FROM else ()
            yield LabelPlacement((dx, dy), _box(x + dx, y + dy, width, height), leader)
        if distance == DISTANCES[0]:
            gap = 3 * scale + height / 2
            for dy in (reach[0] + gap, -reach[1] - gap):
                yield LabelPlacement((0.0, dy), _box(x, y + dy, width, height), ())


def _leader(x: float, y: float, dx: float, dy: float, width: float, height: float) -> tuple[Bbox, ...]:
    """The line from a label's edge to its point as a chain of small boxes."""
    inside = min((width / 2) / abs(dx) if dx else 1.0, (height / 2) / abs(dy) if dy else 1.0, 1.0)
    steps = max(1, round(math.hypot(dx, dy) * (1 - inside) / 2))  # a box every two pixels, so that nothing is jumped
    shares = [(1 - inside) * (step + 0.5) / steps for step in range(steps)]
    return tuple(_around(x + dx * share, y + dy * share, 1.0) for share in shares)


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(x - width / 2 - 1, y - height / 2 - 1, width + 2, height + 2)


def _around(x: float, y: float, half: float) -> Bbox:
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _overlap(a: Bbox, b: Bbox) -> float:
    """Area that two boxes share."""
    return float(max(0.0, min(a.x1, b.x1) - max(a.x0, b.x0)) * max(0.0, min(a.y1, b.y1) - max(a.y0, b.y0)))
