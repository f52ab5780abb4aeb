"""`python -m senet_lab dashboard …`: a study's W&B workspace and report, as JSON, and saved where there is a key.

What they show is in `reports/wandb_views.py`. The trainings are uploaded by tracking, or by `wandb sync`. A view
is found again by its name, which is the study's: the same command replaces it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from senet_lab.compose import choices, compose
from senet_lab.config import RunError, UserError, first_line
from senet_lab.files import replace_all
from senet_lab.naming import Composed, plain_name
from senet_lab.outputs import Outputs
from senet_lab.reports import tables, wandb_views
from senet_lab.reports.trials import canonical
from senet_lab.reports.wandb_views import DashboardContent, Spec
from senet_lab.studies import export_wandb, wandb_client
from senet_lab.training.processes import in_subprocess

FILES = {"dashboard.json": wandb_views.workspace, "report.json": wandb_views.report}
SECONDS = 20  # patience with each answer of a server
SAVING_SECONDS = 180  # and with all of them

# A view's id by its name; the project is null where there is none.
FIND = """
query FindView($entityName: String, $projectName: String, $type: String, $name: String) {
  project(name: $projectName, entityName: $entityName) {
    id
    allViews(viewType: $type, viewName: $name) { edges { node { id name } } }
  }
}
"""
SAVE = """
mutation SaveView($id: ID, $entityName: String, $projectName: String, $type: String, $name: String,
                  $displayName: String, $description: String, $spec: String) {
  upsertView(input: {id: $id, entityName: $entityName, projectName: $projectName, type: $type, name: $name,
                     displayName: $displayName, description: $description, spec: $spec, createdUsing: WANDB_SDK}) {
    view { id name }
    inserted
  }
}
"""


def make_dashboards(arguments: argparse.Namespace) -> None:
    """Write a study's dashboards, and save them if there is a W&B key.

    Raises:
        UserError: a study that does not exist or has no record, bad words, or wandb-workspaces is not installed.
        RunError: the server cannot be reached or refuses; the files are written.
    """
    path = Path(arguments.what)
    if arguments.what not in choices("ablation") and (path.suffix == ".csv" or path.is_dir()):
        if arguments.words:
            raise UserError(f"{arguments.words[0]}: {path} is shown as it was run; words are for a study's name")
        check_installed()
        shown, folder = from_file(path / "trials.csv" if path.is_dir() else path)
    else:
        named = arguments.what if "=" in arguments.what else f"+ablation={arguments.what}"
        words = [named, *arguments.words]
        composed = compose(words)
        check_installed()
        shown, folder = from_store(composed, words)
    folder = arguments.to or folder
    entity, project = wandb_client.entity_and_project()
    views = {name: build(shown, entity, project) for name, build in FILES.items()}
    replace_all(folder, {name: wandb_views.view_json(view) for name, view in views.items()})
    saved = f"not saved: there is no W&B key; {wandb_client.HOW_TO_LOG_IN}, and the same command saves it"
    if wandb_client.wandb_mode("online") == "off":
        saved = "not saved: WANDB_MODE=disabled switches W&B off"
    else:
        otherwise = f"{folder}/ holds what would be saved"
        addresses = in_subprocess("W&B", SAVING_SECONDS, save_all, list(views.values()), otherwise)
        saved = f"saved: {' and '.join(addresses)}" if addresses else saved
    print(f"{shown.title('')}: W&B workspace and report written to {folder}/ ({', '.join(views)}); {saved}")


def check_installed() -> None:
    """A UserError that says how to install what is missing."""
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError(
            "dashboard: wandb-workspaces is not installed; pip install 'senet-lab[dashboard]', or `make setup`, does it"
        )


# --------------------------------------------------------------------------------------------------------------------
# What is shown


def from_store(composed: Composed, words: list[str]) -> tuple[DashboardContent, Path]:
    """A study with those of its trials that are recorded, and its folder of results."""
    from senet_lab.studies import plan, record_tables, settling  # torch comes with it
    from senet_lab.studies.store import Store

    store = Store(composed.config.storage, create=False)
    folder = Path(composed.config.results) / composed.folder
    (study,) = settling.with_records([plan.make_plan(composed)], [folder], store)
    if not study.recorded:
        raise UserError(
            f"{store.name} has no record of {composed.folder}: there is nothing to show; "
            f"{' '.join(['python -m senet_lab.run', *words])} trains it"
        )
    recorded = replace(study, cells=[cell for cell in study.cells if cell.trial_id in study.recorded])
    packed = store.outputs(study.trials)
    trials = record_tables.trials_frame(recorded, study.recorded, packed)
    runs = tuple(cell.trial_id for cell in record_tables.cells_by_row(study))  # those that are still to come, too
    assert composed.config.study
    return dashboard_content(
        trials, tables.unpack_outputs(packed), runs, composed.config.study.factor, composed.folder
    ), folder


def from_file(path: Path) -> tuple[DashboardContent, Path]:
    """A study by its trials.csv, and the folder of results that it has below results/local."""
    try:
        trials, known = tables.read_study(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    first = trials.iloc[0]
    folder = f"{first['data']}/{plain_name(first['backbone'])}-{first['recipe']}/{plain_name(first['study'])}"
    factor = ""
    if first["study"] in choices("ablation"):
        study = compose([f"+ablation={first['study']}"]).config.study
        factor = study.factor if study else ""
    return dashboard_content(trials, known, tuple(trials["trial_id"]), factor, folder), Path("results/local") / folder


def dashboard_content(
    trials: Any, known: dict[str, Outputs], runs: tuple[str, ...], factor: str, folder: str
) -> DashboardContent:
    """What a dashboard shows of trials in the columns of a trials.csv, and of their outputs."""
    try:
        frame = canonical(trials)
        table = tables.csv_text(tables.summarise_study(frame, known)).encode("utf-8", "replace")
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    return DashboardContent(
        frame,
        tuple(dict.fromkeys(runs)),
        export_wandb.table_run_id(folder, table),
        wandb_views.group_key(factor, frame),
        known,
    )


# --------------------------------------------------------------------------------------------------------------------
# Saving


def save_all(views: Sequence[Spec], otherwise: str) -> list[str]:
    """Save views; their addresses, none without a key. W&B's client may wait for good: to be called in a process that
    can be ended.

    Raises:
        RunError: the server cannot be reached or refuses.
    """
    if not wandb_client.log_in("dashboard", otherwise):
        return []
    try:
        return [save_view(view) for view in views]
    except Exception as error:  # whatever the client makes of a network that is gone
        reason = first_line(error).rstrip(".")
        raise RunError(f"dashboard: it could not be saved ({reason}); {otherwise}") from error


def save_view(view: Spec) -> str:
    """Save a view, in place of the one of its name if there is one; its address."""
    import wandb
    from wandb_workspaces._graphql import execute_graphql, get_app_url

    api = wandb.Api(timeout=SECONDS)
    view = {**view, "entityName": view["entityName"] or api.default_entity}
    ask: Callable[..., Any] = execute_graphql
    existing = ask(api, FIND, {name: view[name] for name in ("entityName", "projectName", "type", "name")})["project"]
    if existing is None:
        api.create_project(view["projectName"], view["entityName"])
    ids = [edge["node"]["id"] for edge in existing["allViews"]["edges"]] if existing else []
    saved = ask(api, SAVE, {**view, "id": ids[0] if ids else None, "spec": json.dumps(view["spec"])})
    where = f"{get_app_url(api).rstrip('/')}/{quote(view['entityName'])}/{quote(view['projectName'])}"
    if view["type"] == "project-view":
        return f"{where}?nw={view['name'].removeprefix('nw-').removesuffix('-v')}"
    title = re.sub(r"\W+", "-", view["displayName"], flags=re.ASCII).strip("-")
    return f"{where}/reports/{title}--{saved['upsertView']['view']['id']}"
