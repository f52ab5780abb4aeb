"""Digests of the contents of files, cached between starts.

The digests of a tree's files lie in one file of the user's cache (`XDG_CACHE_HOME`, else `~/.cache`), each under the
state of the file that it is of: size, times of writing and of change, and number on its disk. A program can set the
time of writing back (`cp -p`, `rsync -t`), but not the time of change, so that images replaced by others of the same
names and sizes are read again. A cache that is damaged, lost or of another machine costs the time to read the images
again, and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from senet_lab.counting import counting
from senet_lab.files import atomic_path

STATE = struct.Struct("<qqqQ")  # size (bytes), times of writing and of change (ns), inode
DIGEST = 16  # bytes
RECENT = 2 * 10**9  # ns; a file that has just changed may change once more within one tick of its file system's clock
READERS = 8  # files read at a time, because a network disk answers slowly


def state(stat: os.stat_result) -> bytes:
    """The state of a file, which changes whenever the file does."""
    return STATE.pack(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def digests(tree: Path, paths: Sequence[str], states: Sequence[bytes]) -> list[bytes]:
    """A digest of the contents of each file; a file that is in the cache in this state is not read.

    Args:
        tree: the folder that the files are of; each has its own cache.
        paths: the files.
        states: of the files (`state`).

    Raises:
        OSError: a file that cannot be read.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    cache = Path(home) / "senet_lab" / f"{hashlib.sha256(os.fsencode(tree.resolve())).hexdigest()[:16]}.npz"
    known = load_cache(cache)
    unknown = [number for number, found in enumerate(states) if found not in known]
    report = counting(len(unknown), "images read for the first time")
    fresh: dict[bytes, bytes] = {}
    kept: dict[bytes, bytes] = {}

    def read(number: int) -> tuple[bytes, bytes]:
        with open(paths[number], "rb") as file:  # noqa: PTH123
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST)).digest()
            after = os.fstat(file.fileno())
        return digest, state(after) if time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > RECENT else b""

    try:
        with ThreadPoolExecutor(READERS) as threads:
            for done, (number, (found, after)) in enumerate(
                zip(unknown, threads.map(read, unknown), strict=True), start=1
            ):
                fresh[states[number]] = found
                if after == states[number]:  # else it changes at this moment, and is read again next time
                    kept[after] = found
                report(done)
    finally:
        if kept:
            save_cache(cache, {found: known[found] for found in states if found in known} | kept)
    return [known.get(found) or fresh[found] for found in states]


def load_cache(cache: Path) -> dict[bytes, bytes]:
    """State → digest; empty where there is no cache that is whole, as its checksums tell."""
    try:
        with np.load(io.BytesIO(cache.read_bytes()), allow_pickle=False) as held:
            return dict(zip(held["states"].tolist(), held["digests"].tolist(), strict=True))
    except Exception:  # what a damaged file makes of the reader has no common class
        return {}


def save_cache(cache: Path, entries: dict[bytes, bytes]) -> None:
    """Write a cache, whole or not at all: another process may be reading or writing it. Where it cannot be written the
    images are read again at the next start."""
    states = np.frombuffer(b"".join(entries), f"V{STATE.size}")
    digests = np.frombuffer(b"".join(entries.values()), f"V{DIGEST}")
    with suppress(OSError), atomic_path(cache) as part, part.open("wb") as file:
        np.savez(file, states=states, digests=digests)
