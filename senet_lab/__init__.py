"""senet_lab: which squeeze-and-excitation design earns its cost? (after arXiv 1709.01507)

Importing this package is quick: torch comes with the first thing that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from senet_lab.config import SE, RunError, UserError

if TYPE_CHECKING:
    import senet_lab.models as models
    from senet_lab.api import ablate, bench, search, study
    from senet_lab.models.insert import add_se
    from senet_lab.notebook_study import NotebookSearch, NotebookStudy
    from senet_lab.studies.records import load_records

__version__ = "0.1.0"
# Name → the module that has it; "" for the module itself.
LATER = {
    "models": "",
    "add_se": "models",
    "load_records": "studies.records",
    **dict.fromkeys(("NotebookSearch", "NotebookStudy"), "notebook_study"),
    **dict.fromkeys(("ablate", "bench", "search", "study"), "api"),
}
__all__ = [
    "SE",
    "NotebookSearch",
    "NotebookStudy",
    "RunError",
    "UserError",
    "ablate",
    "add_se",
    "bench",
    "load_records",
    "models",
    "search",
    "study",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in LATER:
        raise AttributeError(f"module 'senet_lab' has no attribute {name!r}")
    module = importlib.import_module(f"senet_lab.{LATER[name] or name}")
    return getattr(module, name) if LATER[name] else module


def __dir__() -> list[str]:
    return __all__
