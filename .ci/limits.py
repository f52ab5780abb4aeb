"""Refuses files of senet_lab/ of more than 300 lines, and functions of more than 60, but for those named here."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

FILE, FUNCTION = 300, 60  # lines
# `folder/file.py` or `folder/file.py:function` → why it reads better whole.
EXCEPTIONS: dict[str, str] = {}


def too_long(root: Path) -> list[str]:
    """What is longer than its limit, a line each."""
    found = []
    for path in sorted(root.rglob("*.py")):
        name, text = str(path.relative_to(root)), path.read_text()
        sizes = {name: (text.count("\n"), FILE)}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                sizes[f"{name}:{node.name}"] = ((node.end_lineno or 0) - node.lineno + 1, FUNCTION)
        found += [
            f"{root.name}/{each} has {lines} lines, more than {limit}"
            for each, (lines, limit) in sizes.items()
            if lines > limit and each not in EXCEPTIONS
        ]
    return found


if __name__ == "__main__":
    problems = too_long(Path(__file__).parents[1] / "senet_lab")
    print("\n".join(problems), end="\n" * bool(problems))
    sys.exit(1 if problems else 0)
