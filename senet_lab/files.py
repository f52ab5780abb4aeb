"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name beside a path to write a file, or a folder, to: it takes the path's place once the body has ended, and is
    gone where that failed.

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
    """Write files by name into a folder, made if missing; none is replaced before all lie complete beside their place.

    Raises:
        OSError: as `whole`.
    """
    paths = [Path(folder) / name for name in contents]
    with ExitStack() as stack:
        for path, content in reversed(list(zip(paths, contents.values(), strict=True))):  # so replaced in this order
            stack.enter_context(atomic_path(path)).write_bytes(content)
    return paths


def expand_home(path: str) -> str:
    """A path with the user's home in place of ~, which a shell does not replace behind a `=`."""
    return os.path.expanduser(path)  # noqa: PTH111  # nothing else of it changes
