"""Keeps the source of what a notebook or a script defines, so that worker processes and later sessions have it."""

from __future__ import annotations

import ast
import builtins
import hashlib
import io
import linecache
import symtable
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from senet_lab.config import UserError, path_fault
from senet_lab.files import replace_all

FOLDER = "code"  # in the folder of results
IMAGES = '''"""Images that were given to the lab as objects."""

from pathlib import Path

import numpy as np


class Images:
    classes = {classes!r}

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return self.images[place], self.labels[place]


def images():
    with np.load(Path(__file__).with_suffix(".npz")) as held:
        return Images(held["train"], held["train_labels"]), Images(held["test"], held["test_labels"])
'''


def kept_source(key: str, function: Callable[..., Any], results: Path) -> str:
    """`module:function`, by which any process finds the function, or the class, that is the value of a key.

    That of a module is named as it is. One of a notebook, or of the script that runs, is written into a module of its
    own, with all that it uses, below the results; its name holds a digest of the source, so that a definition that has
    changed is another network, or another data set.

    Raises:
        UserError: for a lambda, a function within a function, an object, and a function that uses what no source tells.
    """
    home, name = str(getattr(function, "__module__", "")), getattr(function, "__qualname__", "")
    if not name or getattr(sys.modules.get(home), name, None) is not function:
        raise UserError(
            f"{key}: {name or f'a {type(function).__name__}'} is not found by worker processes: they take a function "
            "or class that stands, under its own name, at the top of a module or notebook"
        )
    if home != "__main__":
        if getattr(sys.modules[home], "__spec__", None) is None:
            raise UserError(f"{key}: worker processes cannot import {home}, which no file or package is: write one")
        return f"{home}:{name}"
    text = "".join(parts(name, vars(sys.modules["__main__"]), {}))
    module = f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    folder = results / FOLDER
    earlier = sorted(path.stem for path in folder.glob(f"{name}_????????.py") if path.stem != module)
    if not (folder / f"{module}.py").is_file():
        if earlier:
            print(f"{name} differs from what was defined under this name before ({', '.join(earlier)}): another study")
        keep(folder, {f"{module}.py": text.encode()})
    findable(results)
    return f"{module}:{name}"


def kept_images(sets: tuple[Any, Any], results: Path) -> str:
    """`module:images`, by which any process finds images that are given as objects: a training and a test set.

    They are read, and kept below the results as bytes; their name holds a digest of them.

    Raises:
        UserError: for what is no pair of sets of images and labels (`training.reading`), and for sets that give other
            images when they are read again.
    """
    import numpy as np

    from senet_lab.config import Data
    from senet_lab.training.datasets import check_same, read

    data = Data(name="(training set, test set)", size=0)
    found = read(data, list(sets))
    check_same(data, found, list(sets))
    module = f"images_{hashlib.sha256(f'{found.identity} {found.classes}'.encode()).hexdigest()[:8]}"
    if not (results / FOLDER / f"{module}.py").is_file():
        content = io.BytesIO()
        train, test = found.train, found.test
        np.savez(content, train=train.images, train_labels=train.labels, test=test.images, test_labels=test.labels)
        text = IMAGES.format(classes=list(found.classes))
        keep(results / FOLDER, {f"{module}.npz": content.getvalue(), f"{module}.py": text.encode()})
    findable(results)
    return f"{module}:images"


def keep(folder: Path, contents: dict[str, bytes]) -> None:
    """Write files; a UserError where the folder cannot be written."""
    try:
        replace_all(folder, contents)
    except OSError as error:
        raise UserError(f"results: {folder} cannot be written: {path_fault(folder, error)}") from error


def findable(results: Path) -> None:
    """Let Python, in this process and in its workers, find the modules that are kept below the results."""
    with suppress(OSError):  # a name that no disk takes: `check_writable` says so
        folder = str((results / FOLDER).resolve())
        if folder not in sys.path and Path(folder).is_dir():
            sys.path.append(folder)


def parts(name: str, space: dict[str, Any], done: dict[str, None]) -> Iterator[str]:
    """The source of a definition, behind that of everything that it uses; each once.

    Args:
        name: of the definition.
        space: the names of the module that it is in.
        done: names that stand already.
    """
    done[name] = None
    thing = space[name]
    if isinstance(thing, types.ModuleType):
        yield f"import {thing.__name__} as {name}\n" if thing.__name__ != name else f"import {name}\n"
        return
    home, own = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if home not in (None, "__main__") and own and getattr(sys.modules.get(home), own, None) is thing:
        yield f"from {home} import {own} as {name}\n" if own != name else f"from {home} import {name}\n"
        return
    if isinstance(thing, (type, types.FunctionType)) and own == name:
        text = definition(thing)
        for used in sorted(names_of(text) & space.keys() - vars(builtins).keys()):
            if used not in done:
                yield from parts(used, space, done)
        yield f"\n\n{text}\n"
        return
    try:
        literal = ast.literal_eval(repr(thing)) == thing
    except (ValueError, SyntaxError, TypeError):
        literal = False
    if not literal:
        raise UserError(
            f"{name}, which is used here, is a {type(thing).__name__} that no source tells: make it in the function"
        )
    yield f"{name} = {thing!r}\n"


def definition(thing: Any) -> str:
    """The source of a function or class of a notebook or script, decorators included.

    Raises:
        UserError: where it was not typed as such a definition.
    """
    for text in sources(thing):
        binding = [node for node in statements(text) if thing.__name__ in bound_names(node)]
        if binding:
            node = binding[-1]
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                break  # the name is of something that was made otherwise
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    raise UserError(f"{thing.__name__}: its source is not at hand; define it with def or class in a file or a notebook")


def sources(thing: Any) -> Iterator[str]:
    """The texts in which a function or class may be defined: those that its functions are from; then, because a class
    without a function of its own does not say where it is from, the script, or a notebook's cells from the last one."""
    codes = [thing.__code__] if isinstance(thing, types.FunctionType) else []
    codes += [each.__code__ for each in vars(thing).values() if isinstance(each, types.FunctionType)]
    main = vars(sys.modules["__main__"])
    files = [*(code.co_filename for code in codes), *filter(None, [main.get("__file__")])]
    for file in dict.fromkeys(files):
        yield "".join(linecache.getlines(file))
    yield from reversed(main.get("In", []))  # IPython's, as Python runs them


def statements(text: str) -> list[ast.stmt]:
    """The statements of a text; none of a cell that Python has refused."""
    try:
        return ast.parse(text).body
    except SyntaxError:
        return []


def bound_names(node: ast.stmt) -> set[str]:
    """The names that a statement gives to something."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}


def names_of(text: str) -> set[str]:
    """The names that a definition takes from its module."""

    def within(scope: symtable.SymbolTable) -> Iterator[str]:
        for symbol in scope.get_symbols():
            if symbol.is_global() or (scope.get_type() == "module" and symbol.is_referenced()):
                yield symbol.get_name()
        for inner in scope.get_children():
            yield from within(inner)

    return set(within(symtable.symtable(text, "notebook", "exec")))
