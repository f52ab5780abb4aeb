"""Identifies the code of a network and its gates, so that results of one code are not taken for those of another.

A name of the lab (a key of `BACKBONES`, `SQUEEZES` or `EXCITATIONS`) stands for the code that was released under it, as
long as it computes the same (`released`). All other code is identified by its source and by measurements of the network
of seed 0 (`measure`). The source is that of the module and of all modules that it imports from files outside installed
libraries, without comments and docstrings. The measurements show what the source cannot: constants or weights that are
read from a file, or another version of a library.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from senet_lab.config import SE
from senet_lab.models import kinds, released
from senet_lab.models.backbones import BACKBONES, create
from senet_lab.models.library import library_of
from senet_lab.models.released import Measurement, measure

LAB = Path(__file__).parents[1]


def code(backbone: str, se: SE | None, classes: int, channels: int, size: int) -> str:
    """Sixteen hexadecimal digits that identify the code of a network and of its gates; empty if it computes what was
    released under these names.

    Args:
        backbone: name of the plain network.
        se: the design; None is the plain network.
        classes, channels: of the images.
        size: pixels of a side.

    Raises:
        ValueError: for a name that is not there, and for a network of which one seed gives now these weights, now
            others.
    """
    parts: list[Any] = []
    if library_of(backbone):  # another version of its library that builds another network is told by what it measures
        parts.append(network_measurement(backbone, classes, channels, size, ""))
    elif ":" in backbone or not released.is_network(backbone):
        source = json.dumps(sources(defining_module(backbone)), sort_keys=True)
        parts += [source, network_measurement(backbone, classes, channels, size, source)]
    if se is not None and se.kind not in kinds.names():
        parts.append(json.dumps(sources(defining_module(se.kind)), sort_keys=True))
        with suppress(Exception):  # of a class that takes other maps than these: its source tells it
            parts.append(released.gate(se, channels=64))
    elif se is not None and not released.is_gate(se):
        parts.append(released.gate(se))
    return short_digest(json.dumps(parts, sort_keys=True)) if parts else ""


def own_code(name: str) -> str:
    """What tells the source of a loss or an optimiser of the user's own, `package.module:function`, from another one of
    its name; empty for those of the lab, and of PyTorch, whose version names no trial."""
    if ":" not in name or name.startswith("torch."):
        return ""
    return short_digest(json.dumps(sources(defining_module(name)), sort_keys=True))


@functools.lru_cache(maxsize=64)
def network_measurement(backbone: str, classes: int, channels: int, size: int, source: str) -> Measurement:
    """The measurements of the plain network of seed 0, cached by its `source`. What else its code reads may have
    changed when another study is planned or another trial begins: the cache is to be cleared then."""

    def build() -> nn.Module:
        return create(backbone, None, classes, in_channels=channels, stride="torchvision", seed=0)

    measurement = measure(build, (1, channels, size, size))
    if repr(released.weights(build())) != repr(measurement["weights"]):
        raise ValueError(
            f"backbone: {backbone} has other initial weights each time that it is built; what it draws them from is to "
            "be torch's, NumPy's or Python's global generator, which are seeded"
        )
    return measurement


def defining_module(backbone: str) -> str:
    """The module that a network or a gate is built by."""
    if ":" in backbone:
        return backbone.partition(":")[0]
    builder: Any = BACKBONES[backbone]
    while isinstance(builder, functools.partial):
        builder = builder.func
    return str(getattr(builder, "__module__", type(builder).__module__))


# --------------------------------------------------------------------------------------------------------------------
# Source


def sources(module: str) -> dict[str, str]:
    """Digest of the source of a module, and of each that it imports, itself or by way of others, by dotted name.

    Imports are read off the source, wherever in it they stand; nothing is imported for it. Files of installed
    libraries, and of the lab, are left out, unless the module is of that library itself.
    """
    digests: dict[str, str] = {}
    waiting = {module}
    while waiting:
        name = waiting.pop()
        path = None if name in digests else file_of(name, module.partition(".")[0])
        if path is None:
            continue
        content = path.read_bytes()
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError):  # compiled, say
            digests[name] = short_digest(content)
            continue
        waiting |= set(imports(tree, name, is_package=path.stem == "__init__"))
        digests[name] = short_digest(ast.unparse(without_docstrings(tree)))
    main = {"__main__", "__mp_main__"} & digests.keys()  # one script, under another name in a worker
    return {"__main__" if name in main else name: text for name, text in digests.items()}


def file_of(name: str, own: str) -> Path | None:
    """The file of a module; None for those of installed libraries, which are not looked at, and where there is none.

    Args:
        name: dotted.
        own: the top of the name of a library that is looked at in any case.
    """
    top, *inner = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a script has none
        spec = None
    script = getattr(sys.modules.get(top), "__file__", None)
    origin = (spec.origin if spec else None) or script
    places = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    if not inner:
        files = [Path(origin)] if origin else [place / "__init__.py" for place in places]
    else:
        stems = [place.joinpath(*inner) for place in places]
        files = [file for stem in stems for file in (stem / "__init__.py", stem.with_suffix(".py"))]
    path = next((file.resolve() for file in files if file.is_file()), None)
    return None if path is None or (top != own and is_installed(path)) else path


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python, to an installed library or to the lab."""
    return any(path.is_relative_to(place) for place in libraries())


@functools.cache
def libraries() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    places = [sysconfig.get_path(name) for name in names] + [*site.getsitepackages(), site.getusersitepackages()]
    return (LAB, *(Path(place).resolve() for place in places))


def imports(tree: ast.Module, name: str, *, is_package: bool) -> Iterator[str]:
    """The modules that a module of that name may import: what it names, what holds that, and what it takes from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            named = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for each in named:
            parts = each.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree, less the docstrings in it."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def short_digest(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]
