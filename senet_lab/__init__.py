"""senet_lab: which squeeze-and-excitation design earns its cost? (after arXiv 1709.01507)

Importing this package is quick: torch comes with the first thing that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from senet_lab.config import SE

if TYPE_CHECKING:
    import senet_lab.models as models
    from senet_lab.models.insert import add_se
    from senet_lab.studies.records import load_records

__all__ = ["SE", "add_se", "load_records", "models"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    import importlib

    if name == "models":
        return importlib.import_module("senet_lab.models")
    if name == "add_se":
        return importlib.import_module("senet_lab.models").add_se
    if name == "load_records":
        return importlib.import_module("senet_lab.studies.records").load_records
    raise AttributeError(f"module 'senet_lab' has no attribute {name!r}")
