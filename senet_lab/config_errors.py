"""What Hydra, OmegaConf and YAML say of a configuration that is wrong, in one line."""

from __future__ import annotations

import re

import yaml
from omegaconf.errors import OmegaConfBaseException
from yaml.reader import ReaderError

from senet_lab.selection import STUDIES


def error_line(error: Exception) -> str:
    """What one of Hydra's, OmegaConf's or YAML's errors says, in a line, with the key or the file that it is about."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__  # Hydra says "error merging"; the cause says what is wrong
    if isinstance(error, ReaderError):
        return f"{error.name}: {error.reason} (character {error.position + 1})"
    first, *rest = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.split(":", 1)[1].strip() for line in rest if line.startswith("full_key:")), "")
    label = re.search(r"Key (.+ \(.+\)) is incompatible with \(str\)|Incompatible key type '(NoneType)'", str(error))
    if label:
        where = ".".join(key.split(".")[:2])
        return f"{where}: {label[1] or 'null'} is no name; in quotes it is one, as are '4', 'yes' and 'null'"
    first = re.sub(r"^field '(\S+)' is not Optional$", r"\1 cannot be null", first)
    if key.startswith("search.space.") and "is not in struct" in first:
        first = f"the space has no '{key[13:]}' yet; +search.space={{{key[13:]}: […]}} adds it"
    if first.endswith("raised while composing config:"):  # In 'ablation/mine': ConfigKeyError raised …
        first = f"{first.rpartition(':')[0].rpartition(':')[0]}: {rest[0]}"
        if key in STUDIES:
            first += "; its first line should be # @package _global_"
    return f"{key}: {first}" if key and key not in first else first
