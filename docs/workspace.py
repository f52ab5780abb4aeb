"""A study's W&B workspace as a page: each panel of `dashboard.json`, drawn from the study's offline runs.

W&B's server draws them in the browser; this shows, without a server, what the same file asks it for.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import markdown
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from wandb_runs import inspect

STYLE = """
body { font: 13px/1.4 "DejaVu Sans", sans-serif; margin: 0; padding: 16px 20px; width: 1160px; color: #222 }
h1 { font-size: 18px; margin: 0 0 8px } h2 { font-size: 14px; margin: 18px 0 8px }
section { display: grid; grid-template-columns: repeat(24, 1fr); gap: 12px }
.panel { border: 1px solid #ddd; border-radius: 4px; padding: 8px 10px; height: 262px; overflow: hidden }
.panel h3 { font-size: 12px; font-weight: 600; margin: 0 0 4px; text-align: center }
.panel svg, .panel img { display: block; max-width: 100%; max-height: 235px; margin: auto }
table { border-collapse: collapse; font-size: 10px }
th, td { padding: 2px 6px; border-bottom: 1px solid #eee; white-space: nowrap }
.panel h1 { font-size: 13px } .panel ul { font-size: 10px; padding-left: 16px }
"""
Run = dict[str, Any]
Spec = dict[str, Any]


def workspace_page(dashboard: Path, folder: Path) -> str:
    """The page.

    Args:
        dashboard: the file that `python -m senet_lab dashboard` has written.
        folder: of the runs, `results/local/wandb`.
    """
    view = json.loads(dashboard.read_text())
    section = view["spec"]["section"]
    (grouping,) = section["runSets"][0]["grouping"]
    runs = [{**inspect(path), "path": path} for path in sorted(folder.glob("offline-run-*"))]
    shown = Workspace(runs, f"{grouping['section']}:{grouping['name']}")
    parts = [f"<h1>{escape(view['displayName'])}</h1>"]
    for each in section["panelBankConfig"]["sections"]:
        panels = "".join(shown.panel(panel) for panel in each["panels"])
        parts.append(f"<h2>{escape(each['name'])} <small>{len(each['panels'])}</small></h2><section>{panels}</section>")
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{''.join(parts)}"


class Workspace:
    """The runs of a workspace, and how each kind of panel shows them.

    Args:
        runs: as `inspect` reads them, with their `path`.
        group: by what runs are grouped, `section:key`.
    """

    def __init__(self, runs: Sequence[Run], group: str) -> None:
        self.runs = [run for run in runs if run["history"] and "design" in run["config"]]
        (self.table_run,) = (run for run in runs if "design" not in run["config"])
        self.group = group
        names = sorted({str(value_of(run, group)) for run in self.runs})
        self.colours = dict(zip(names, mpl.rcParams["axes.prop_cycle"].by_key()["color"], strict=False))
        self.kinds: dict[str, Callable[[Spec], str]] = {
            "Bar Chart": self.bars,
            "Scatter Plot": self.scatter,
            "Run History Line Plot": self.lines,
            "Parallel Coordinates Plot": self.parallel,
            "Markdown Panel": lambda config: markdown.markdown(config["value"], extensions=["tables"]),
            "Media Browser": self.media,
            "Weave": self.table,
        }

    def panel(self, spec: Spec) -> str:
        config, layout = spec["config"], spec["layout"]
        title = f"<h3>{escape(config['chartTitle'])}</h3>" if "chartTitle" in config else ""
        inside = self.kinds[spec["viewType"]](config)
        return f'<div class="panel" style="grid-column: span {layout["w"]}">{title}{inside}</div>'

    def grouped(self, by: str) -> dict[str, list[Run]]:
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            found.setdefault(str(value_of(run, by)), []).append(run)
        return dict(sorted(found.items()))

    def bars(self, config: Spec) -> str:
        figure, axes = plot()
        for name, runs in reversed(self.grouped(f"config:{config['groupBy']}").items()):
            values = [run["summary"][config["metrics"][0]] for run in runs]
            axes.barh(f"{name} ({len(runs)})", np.mean(values), xerr=np.std(values), color=self.colours[name])
        return svg(figure)

    def scatter(self, config: Spec) -> str:
        figure, axes = plot()
        for name, runs in self.grouped(self.group).items():
            points = [[value_of(run, config[axis]) for run in runs] for axis in ("xAxis", "yAxis")]
            axes.plot(*points, "o", color=self.colours[name], label=name)
        axes.set(xlabel=config["xAxis"].partition(":")[2], ylabel=config["yAxis"].partition(":")[2])
        axes.legend(fontsize=7)
        return svg(figure)

    def lines(self, config: Spec) -> str:
        figure, axes = plot()
        (metric,) = config["metrics"]
        for name, runs in self.grouped(f"config:{config['groupBy']}").items():
            curves = pd.concat([pd.DataFrame(run["history"]) for run in runs]).groupby(config["xAxis"])[metric]
            middle, spread = curves.mean(), curves.std(ddof=0)
            axes.plot(middle.index, middle, color=self.colours[name], label=name)
            axes.fill_between(middle.index, middle - spread, middle + spread, color=self.colours[name], alpha=0.2, lw=0)
        axes.set(xlabel=config["xAxisTitle"])
        axes.legend(fontsize=7)
        return svg(figure)

    def parallel(self, config: Spec) -> str:
        """Each run a line across the axes; texts stand in their order, numbers from their least to their greatest."""
        figure, axes = plot(width=10.4)
        columns = config["columns"]
        placed = np.empty((len(self.runs), len(columns)))
        for at, column in enumerate(columns):
            values = [value_of(run, column["accessor"]) for run in self.runs]
            kinds = sorted({str(value) for value in values})
            number = isinstance(values[0], (int, float))
            scale = np.array(values if number else [kinds.index(str(value)) for value in values], float)
            low, high = scale.min(), scale.max()
            placed[:, at] = (scale - low) / (high - low) if high > low else 0.5
            heights = [0, 1] if number else sorted({*placed[:, at]})
            for height, text in zip(heights, [f"{low:.4g}", f"{high:.4g}"] if number else kinds, strict=True):
                axes.text(at + 0.03, height, text, fontsize=7, va="center")
            axes.axvline(at, color="0.7", lw=0.8)
        for line in placed:
            axes.plot(line, color=mpl.colormaps["viridis"](line[-1]), lw=1, alpha=0.7)
        axes.set_xticks(range(len(columns)), [column["displayName"] for column in columns])
        axes.set_yticks([])
        axes.set(xlim=(-0.1, len(columns) - 0.7))
        return svg(figure)

    def media(self, config: Spec) -> str:
        (path,) = self.table_run["path"].glob(f"files/media/images/{config['mediaKeys'][0]}_*")
        return f'<img src="{path.as_uri()}">'

    def table(self, config: Spec) -> str:
        key = config["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]
        (path,) = self.table_run["path"].glob(f"files/media/table/{key}_*.table.json")
        kept = json.loads(path.read_text())
        frame = pd.DataFrame(kept["data"], columns=kept["columns"]).astype(object)
        return f"<h3>{escape(key)}</h3>{frame.where(frame.notna(), '').to_html(index=False)}"


def value_of(run: Run, accessor: str) -> Any:
    """What a run has under `summary:key`, or under `config:key.value.inner`."""
    section, _, path = accessor.partition(":")
    name, _, inner = path.partition(".value")
    found = run[section][path if section == "summary" else name]
    return found[inner.lstrip(".")] if inner.lstrip(".") else found


def plot(width: float = 5.0) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, 2.3), layout="constrained")
    axes = figure.subplots()
    axes.tick_params(labelsize=7)
    axes.xaxis.label.set_size(8)
    axes.yaxis.label.set_size(8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return "".join(text.getvalue().partition("<svg")[1:])
