"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def replace_all(folder: str | Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files by name into a folder, made if missing; none is replaced before all lie complete beside their place.

    Raises:
        OSError: where the folder cannot be written or the disk is full; the files that were there are unharmed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {folder / name: folder / f".{name}.{os.getpid()}.part" for name in contents}
    try:
        for (path, part), content in zip(parts.items(), contents.values(), strict=True):
            assert path.parent == folder
            part.write_bytes(content)
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return list(parts)
