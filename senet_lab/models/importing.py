"""What a user names by `package.module:attribute`: a network's builder, a gate's class, a data set, a loss."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from senet_lab.config import first_line


def imported(key: str, name: str, what: str) -> Callable[..., Any]:
    """What is at `package.module:attribute`, which can be called.

    Args:
        key: whose value the name is, for messages.
        name: of it.
        what: it should be: a function, a class.

    Raises:
        ValueError: if the module is not there, or has nothing of that name which can be called.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise ValueError(f"{key}: {name!r} does not read package.module:{what}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{key}: cannot import {module_name} for {name!r}: {error}") from error
    except Exception as error:  # whatever the user's module does when it is imported
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{key}: cannot import {module_name} for {name!r}: {reason}") from error
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        has = [word for word, value in vars(module).items() if callable(value) and not word.startswith("_")]
        some = ", ".join(has[:10]) + (", …" if len(has) > 10 else "")
        raise ValueError(f"{key}: {module_name} has no {what} {attribute!r}; it has {some or 'none'}")
    return found
