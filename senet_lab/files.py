"""Writes files completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write a file or folder to. It replaces `path` when the body has ended, and is
    deleted if the body fails.

    Raises:
        OSError: where the folder cannot be written or the disk is full; what was there is unharmed.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if part.exists():
            part.replace(path)
    finally:
        with suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def replace_all(folder: str | Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files by name into a folder, which is created if needed. All are written completely before the first one
    replaces an old file.

    Raises:
        OSError: as `atomic_path`.
    """
    paths = [Path(folder) / name for name in contents]
    with ExitStack() as stack:
        for path, content in reversed(list(zip(paths, contents.values(), strict=True))):  # so replaced in this order
            stack.enter_context(atomic_path(path)).write_bytes(content)
    return paths


def expand_home(path: str) -> str:
    """A path with ~ expanded, which a shell does not do behind a `=`."""
    return os.path.expanduser(path)  # noqa: PTH111  # nothing else of it changes
