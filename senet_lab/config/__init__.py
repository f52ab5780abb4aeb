"""The typed configuration of the lab: every default, meaning, choice and bound stands here, once, beside its key.

The YAML files in `conf/` and `sweeps/` hold differences from these dataclasses only, and a key that is not a field here
is refused. Nothing of the lab is imported (and no torch), so that `--help` and a typo are answered at once.
"""

from senet_lab.config.checks import check_values
from senet_lab.config.determinants import SE, Data, reduction_number
from senet_lab.config.errors import RunError, UserError, first_line, near, path_fault, without_passwords
from senet_lab.config.keys import RESULT, RUN, flat, walk
from senet_lab.config.lab import FAILURES, Budget, Config, Search, Study, storage_in
from senet_lab.config.recipe import Recipe
from senet_lab.config.runs import Executor, Training

__all__ = [
    "FAILURES",
    "RESULT",
    "RUN",
    "SE",
    "Budget",
    "Config",
    "Data",
    "Executor",
    "Recipe",
    "RunError",
    "Search",
    "Study",
    "Training",
    "UserError",
    "check_values",
    "first_line",
    "flat",
    "near",
    "path_fault",
    "reduction_number",
    "storage_in",
    "walk",
    "without_passwords",
]
