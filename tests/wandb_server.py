"""A W&B server for tests: the part of its API that the client needs to record runs, on a port of this machine.

It answers as the real one does as far as the client's behaviour depends on it: a run has the lines of history that were
sent to it (at their offsets), and a run that is resumed is told how many those are. Nothing is checked.
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Run:
    """What was uploaded of a run.

    Attributes:
        about: the variables of the request that made it (`groupName`, `jobType`, `displayName`, …).
        config: its configuration, unwrapped.
        lines: line number → a line of its history.
        summary: of its metrics.
        files: name → content.
        exit_code: None while it is running.
        sent: history lines in the order they arrived, as (time of arrival's order, line number).
    """

    about: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        return [self.lines[number] for number in sorted(self.lines)]


class Server:
    """A context manager that serves; `runs` holds what arrived, by run id."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, bytes] = {}
        self.views: dict[str, dict[str, Any]] = {}  # id → the variables of the request that saved it last
        self.projects: set[str] = set()  # entity/project, that there are
        self.requests: list[str] = []
        self.down = False  # answer 503, as a server under repair
        self.refuses = False  # answer 401, as to a key that it does not know
        self.denied = ""  # an operation that the user may not do

    def __enter__(self) -> Server:
        handler = type("Handler", (Handler,), {"lab": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive(), "the server's thread has not ended"

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": 40 * "a"}

    # ------------------------------------------------------------------------------------------------------ requests

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Data of a GraphQL request."""
        url = f"{self.url}/storage"
        entity = {"id": "entity", "name": "someone"}
        project = {"id": "project", "name": variables.get("project") or "p", "entity": entity}
        inputs = variables.get("input", {})
        if operation == "Viewer":
            teams = {"edges": []}
            return {"viewer": {"id": "user", "entity": "someone", "username": "someone", "flags": "{}", "teams": teams}}
        if operation == "GetDefaultEntity":
            return {"viewer": {"id": "user", "entity": "someone"}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "RunResumeStatus":
            return {"model": {**project, "bucket": self.resumable(variables["name"])}}
        if operation == "UpsertBucket":
            bucket = {"id": variables["name"], "historyLineCount": 0, "sweepName": None, "description": ""}
            inserted = self.upsert(variables)
            described = {"name": variables["name"], "displayName": "", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": {**bucket, **described}, "inserted": inserted}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{url}/{variables['run']}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if operation == "CreateProject":
            self.projects.add(f"{inputs['entityName']}/{inputs['name']}")
            return {"upsertModel": {"project": project, "model": project, "inserted": True}}
        if operation in ("FindView", "SaveView"):
            return self.view(operation, variables)
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if operation == "CreateArtifact":
            artifact = {"id": "artifact", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if operation == "CreateArtifactManifest":
            file = {"id": "file", "uploadUrl": f"{url}/artifacts/manifest", "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": file}}}
        if operation == "CreateArtifactFiles":
            names = [file["name"] for file in inputs["artifactFiles"]]
            fixed = {"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": "artifact"}}
            nodes = [{"storagePath": name, "uploadUrl": f"{url}/artifacts/{name}", **fixed} for name in names]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "artifact", "digest": ""}}}
        return {}

    def view(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Find a view by its name, or save it: under its id if it has one, else as another one."""
        there = f"{variables['entityName']}/{variables['projectName']}" in self.projects
        saved = [view for view in self.views.values() if view["name"] == variables["name"]]
        if operation == "FindView":
            edges = [{"node": {"id": view["id"], "name": view["name"]}} for view in saved]
            return {"project": {"id": "project", "allViews": {"edges": edges}} if there else None}
        assert there, "a view of a project that does not exist"
        view = {**variables, "id": variables["id"] or f"View{len(self.views)}"}
        self.views[view["id"]] = view
        return {"upsertView": {"view": {"id": view["id"], "name": view["name"]}, "inserted": not variables["id"]}}

    def upsert(self, variables: dict[str, Any]) -> bool:
        inserted = variables["name"] not in self.runs
        run = self.runs.setdefault(variables["name"], Run())
        run.about.update({key: value for key, value in variables.items() if value is not None})
        if variables.get("config"):
            run.config.update({key: kept["value"] for key, kept in json.loads(variables["config"]).items()})
        return inserted

    def resumable(self, run_id: str) -> dict[str, Any] | None:
        """What a client that resumes a run is told; None if there is none."""
        if run_id not in self.runs:
            return None
        run = self.runs[run_id]
        tail = [json.dumps(line) for line in run.history[-1:]]
        return {
            "id": run_id,
            "name": run_id,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.about.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(run.lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """History, summary and end of a run."""
        run = self.runs[run_id]
        files = sent.get("files") or {}
        if "wandb-history.jsonl" in files:
            chunk = files["wandb-history.jsonl"]
            for number, line in enumerate(chunk["content"], chunk["offset"]):
                run.lines[number] = json.loads(line)
        if "wandb-summary.json" in files:
            run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]

    def store(self, path: str, content: bytes) -> None:
        """A file that was uploaded."""
        owner, _, name = path.removeprefix("/storage/").partition("/")
        (self.artifacts if owner == "artifacts" else self.runs[owner].files)[name] = content


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    lab: Server

    def handle(self) -> None:
        with suppress(ConnectionError):  # of a client that was killed
            super().handle()

    def do_POST(self) -> None:
        content = self.content()
        if self.path == "/graphql":
            request = json.loads(content)
            operation = re.match(r"\s*(?:query|mutation)\s+(\w+)", request["query"])
            assert operation, request["query"]
            self.lab.requests.append(operation[1])
            if operation[1] == self.lab.denied:
                self.reply({"errors": [{"message": "permission denied"}]})
                return
            self.reply({"data": self.lab.answer(operation[1], request.get("variables") or {})})
        elif self.path.endswith("/file_stream"):
            self.lab.stream(self.path.split("/")[-2], json.loads(content))
            self.reply({})
        else:
            self.reply({})  # telemetry

    def do_PUT(self) -> None:
        self.lab.store(self.path, self.content())
        self.reply({})

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(503 if self.lab.down else 401 if self.lab.refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass
