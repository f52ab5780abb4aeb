"""Reads offline W&B runs back, with the client's own reader."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WANDB = Path(sys.executable).with_name("wandb")
SECONDS = 60  # more than the reader ever takes


@functools.cache
def inspect(run: Path) -> dict[str, Any]:
    """A run as the client's own reader tells it; the keys of what is logged as media are dotted."""
    lines = subprocess.run(
        [WANDB, "leet", "inspect", "--json", run], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    records = [json.loads(line) for line in lines.stdout.splitlines()]
    summary: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            summary.update(record["summary"]["update"])
    (about,) = (record["run"] for record in records if record["type"] == "run")
    config = dict(about["config"]["update"])
    for record in records:
        if record["type"] == "config":
            config.update(record["config"]["update"])
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    return {"about": about, "config": config, "summary": summary, "history": history, "last": records[-1]}
