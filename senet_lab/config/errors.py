"""The two errors that end a command, and how errors are worded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class OneLineError(Exception):
    """An error whose message says all: a notebook shows it without the way to it."""

    def _render_traceback_(self) -> list[str]:  # IPython's name for it
        return [f"{type(self).__name__}: {self}"]


class UserError(OneLineError, ValueError):
    """A mistake in what the user asked for: one line that names the word and the choices (exit code 2)."""


class RunError(OneLineError, RuntimeError):
    """A run could not continue, through no fault of its network: a full disk, an unreadable image (exit code 1)."""


def first_line(error: object) -> str:
    """The first line of an error's text, or its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def near(word: object, known: Iterable[str]) -> str:
    """` (did you mean resnet20?)`, where a known word is like the one that was given; else nothing."""
    found = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def path_fault(path: Path, error: OSError) -> str:
    """Why a path cannot be used. For a link whose target is missing (an unmounted disk) the link is named, because the
    system would only say that the file exists."""
    with suppress(OSError):  # of a folder that may not be looked into
        for place in (path, *path.parents):
            if place.is_symlink() and not place.exists():
                return f"{place} is a link to {place.readlink()}, which is not there"
    return error.strerror or str(error)


def without_passwords(message: object) -> str:
    """A message with *** in place of the password of each URL in it, whole or malformed."""
    return re.sub(r"(://[^\s:/@]*):[^\s@]*@", r"\1:***@", str(message))
