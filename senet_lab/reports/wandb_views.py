"""A study's W&B dashboards, as the specifications that W&B's server takes: a workspace in which its rows are compared,
and a report with its table.

Nothing here needs an account or a network. The same trials give the same bytes: ids, which W&B's library draws at
random, are hashes here. Panels name the keys that the lab's tracking logs. Runs are chosen by id and grouped by what
holds in every study: a trial that several studies share is one run, under the label and the group of the first.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from senet_lab.outputs import Outputs
from senet_lab.reports.render import markdown
from senet_lab.reports.summary import summarise_study

# What is plotted: key of a run's summary, or of its history → what its axis says.
ERROR = ("final/test_error", "test error (%)")
COSTS = {"params": "parameters", "GFLOPs": "GFLOPs (multiply-adds)"}
CURVES = {
    "val_error": "validation error (%)",
    "val_loss": "validation loss",
    "train_loss": "training loss",
    "train_error": "training error (%)",
}
FACTORS = ("reduction", "squeeze", "excitation", "position", "stages")  # of a run's `design`
LONGEST = 128  # characters that W&B takes in a title
MOST_RUNS = 100  # that a panel shows; W&B's own limit is 10
COLUMNS = ("config:row.value", "config:seed.value", f"summary:{ERROR[0]}", "summary:params", "summary:GFLOPs")

Spec = dict[str, Any]


@dataclass(frozen=True)
class DashboardContent:
    """The content of a study's dashboards.

    Attributes:
        trials: one line a training (`trials.canonical`).
        runs: ids of the trials' runs.
        table_run: id of the run that holds the study's table and figure.
        group: key of the runs' configuration that tells the rows apart (`group_key`).
        outputs: trial id → its outputs for each test image.
    """

    trials: pd.DataFrame
    runs: tuple[str, ...]
    table_run: str
    group: str
    outputs: Mapping[str, Outputs] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """What the study is called among all: data set, backbone, recipe and name."""
        return "/".join(str(self.trials[name].iloc[0]) for name in ("data", "backbone", "recipe", "study"))

    def title(self, what: str) -> str:
        """The title of a view, without characters that W&B refuses (emoji, mathematical symbols)."""
        first = self.trials.iloc[0]
        text = f"{what}{first['title']}: {first['backbone']} on {first['data']}, recipe {first['recipe']}"
        plain = "".join(" " if unicodedata.category(c) in ("So", "Sk", "Sm", "Sc", "Cs") else c for c in text)
        return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 9]} {stable_id(text)[:8]}"


def group_key(factor: str, trials: pd.DataFrame) -> str:
    """The key of a run's configuration by which a study's rows are grouped: the factor, where its levels tell all rows
    apart; else, or for an unknown factor, the label."""
    if factor.startswith("se."):
        return f"design.{factor.removeprefix('se.')}"
    without_se = trials.groupby("row")["hidden"].first() == ""
    return factor if factor and without_se.nunique() == 1 else "row"


def stable_id(text: str) -> str:
    """Twelve hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def view_json(view: Spec) -> bytes:
    return (json.dumps(view, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")


# --------------------------------------------------------------------------------------------------------------------
# Panels


def verdict_panels(shown: DashboardContent) -> list[Any]:
    """The study's table, with as many columns as a panel has room for, and with all of them."""
    import wandb_workspaces.reports.v2.interface as wr

    return [
        wr.MarkdownPanel(markdown=markdown(summarise_study(shown.trials, shown.outputs), narrow=True)),
        table_panel(),
    ]


def table_panel() -> Any:
    """The table as W&B's own, which can be sorted and filtered."""
    import wandb_workspaces.reports.v2.interface as wr

    return wr.WeavePanelSummaryTable(table_name="table")


def result_panels(shown: DashboardContent) -> list[Any]:
    """Mean and spread of each row, and the figure."""
    import wandb_workspaces.reports.v2.interface as wr

    key, words = ERROR
    bars = wr.BarPlot(
        title=f"{words}: mean, standard deviation", metrics=[key], title_x=words, **group_arguments(shown)
    )
    return [bars, figure_panel()]


def figure_panel() -> Any:
    import wandb_workspaces.reports.v2.interface as wr

    return wr.MediaBrowser(title="figure", media_keys=["figure"])


def cost_panels() -> list[Any]:
    """Error against each cost."""
    import wandb_workspaces.reports.v2.interface as wr

    key, words = ERROR
    return [
        wr.ScatterPlot(title=f"{words} against {cost}", x=wr.SummaryMetric(name), y=wr.SummaryMetric(key))
        for name, cost in COSTS.items()
    ]


def curve_panels(shown: DashboardContent) -> list[Any]:
    """Learning curves: the mean of each row, and its spread as a band."""
    import wandb_workspaces.reports.v2.interface as wr

    return [
        wr.LinePlot(
            title=words,
            x=wr.Metric("epoch"),
            y=[wr.Metric(key)],
            title_x="epoch",
            title_y=words,
            max_runs_to_show=MOST_RUNS,
            **group_arguments(shown),
        )
        for key, words in CURVES.items()
    ]


def factor_panels() -> list[Any]:
    """Parallel coordinates: from the factors of the design over its cost to its error."""
    import wandb_workspaces.reports.v2.interface as wr

    axes: list[Any] = [wr.ParallelCoordinatesPlotColumn(wr.Config(f"design.{name}"), name) for name in FACTORS]
    axes += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key), cost) for key, cost in COSTS.items()]
    axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(ERROR[0]), ERROR[1]))
    return [wr.ParallelCoordinatesPlot(title="design, cost and error", columns=axes)]


def group_arguments(shown: DashboardContent) -> Spec:
    """Arguments of a panel that shows the mean of each row, and its standard deviation."""
    import wandb_workspaces.reports.v2.interface as wr

    return {"groupby": wr.Config(shown.group), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}


def panel_grid(panels: Sequence[Any], place: str, columns: int) -> list[Any]:
    """Panels in a grid, with ids that are the same every time."""
    import wandb_workspaces.reports.v2.interface as wr

    width = 24 // columns
    for number, panel in enumerate(panels):
        panel._id = stable_id(f"{place}/{number}")
        panel.layout = wr.Layout(x=width * (number % columns), y=8 * (number // columns), w=width, h=8)
    return list(panels)


# --------------------------------------------------------------------------------------------------------------------
# Views


def workspace(shown: DashboardContent, entity: str, project: str) -> Spec:
    """The workspace: a section each for verdicts, results, costs, learning curves and factors; those whose panels are
    wide have one column."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    name = stable_id(f"workspace {shown.folder}")
    contents = {
        "Verdicts": verdict_panels(shown),
        "Results": result_panels(shown),
        "Error against cost": cost_panels(),
        "Learning curves": curve_panels(shown),
        "Factors": factor_panels(),
    }
    sections = []
    for title, panels in contents.items():
        columns = 1 if title in ("Verdicts", "Factors") else 2
        section = ws.Section(
            name=title,
            panels=panel_grid(panels, f"{name}/{title}", columns),
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns)),
            panel_settings=ws.SectionPanelSettings(x_axis="epoch"),
        )
        section._id = stable_id(f"{name}/{title}")
        sections.append(section)
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=shown.title(""),
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=[expr.Metric("ID").isin([*shown.runs, shown.table_run])],
            groupby=[expr.Config(shown.group)],
            order=[expr.Ordering(expr.Metric("Name"), ascending=True)],
            pinned_columns=list(COLUMNS),
        ),
    )
    made._internal_runset_id = stable_id(f"{name}/runs")
    model = made._to_model()
    return view("project-view", f"nw-{name}-v", shown.title(""), "", entity, project, model.spec)


def report(shown: DashboardContent, entity: str, project: str) -> Spec:
    """The report: the table as the paper prints it, the figure, and below them the curves and costs."""
    import wandb_workspaces.reports.v2.interface as wr
    from wandb_workspaces import expr

    name = stable_id(f"report {shown.folder}")
    table = summarise_study(shown.trials, shown.outputs)
    first, _, rest = markdown(table).partition("\n")  # the heading is the report's title already
    assert first.startswith("# ")

    def grid(what: str, runs: Iterable[str], panels: Sequence[Any], groupby: Sequence[str] = ()) -> Any:
        runset = wr.Runset(name=what, filters=[expr.Metric("ID").isin(list(runs))], groupby=list(groupby))
        runset._id = stable_id(f"{name}/{what}")
        return wr.PanelGrid(runsets=[runset], panels=panel_grid(panels, f"{name}/{what}", 2), hide_run_sets=True)

    by_row = [f"config.{shown.group}"]
    made = wr.Report(
        entity=entity,
        project=project,
        title=shown.title("Report of "),
        description=table.heading,
        width="fluid",
        blocks=[
            wr.MarkdownBlock(text=rest.strip()),
            grid("figure", [shown.table_run], [figure_panel(), table_panel()]),
            wr.H2("Error against cost"),
            grid("cost", shown.runs, cost_panels(), by_row),
            wr.H2("Learning curves"),
            grid("curves", shown.runs, curve_panels(shown), by_row),
            wr.H2("Factors"),
            grid("factors", shown.runs, factor_panels()),
        ],
    )
    model = made._to_model()  # type: ignore[no-untyped-call]
    return view("runs", name, made.title, made.description, entity, project, model.spec)


def view(kind: str, name: str, title: str, text: str, entity: str, project: str, spec: Any) -> Spec:
    """A view by the names that W&B's server gives its parts."""
    return {
        "entityName": entity,
        "projectName": project,
        "type": kind,
        "name": name,
        "displayName": title,
        "description": text,
        "spec": json.loads(spec.model_dump_json(by_alias=True, exclude_none=True)),
    }
