"""What files hold, told by digests that are kept from one start to the next.

The digests of a tree's files lie in one file of the user's cache (`XDG_CACHE_HOME`, else `~/.cache`), each under the
state of the file that it is of: size, times of writing and of change, and number on its disk. A program can set the
time of writing back (`cp -p`, `rsync -t`), but not the time of change, so that images replaced by others of the same
names and sizes are read again. A cache that is damaged, lost or of another machine costs the time to read the images
again, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from senet_lab.counting import counting
from senet_lab.files import whole

STATE = struct.Struct("<qqqQ")  # size (bytes), times of writing and of change (ns), inode
DIGEST = 16  # bytes
CHECK = 32  # bytes of the SHA-256 that a cache begins with
RECENT = 2 * 10**9  # ns; a file that has just changed may change once more within one tick of its file system's clock
READERS = 8  # files that are read side by side: a network's disk answers late


def state(stat: os.stat_result) -> bytes:
    """What tells that a file is no longer what it was."""
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
    cache = place(tree)
    known = load(cache)
    unknown = [number for number, found in enumerate(states) if found not in known]
    report = counting(len(unknown), "images read for the first time")
    fresh: dict[bytes, bytes] = {}
    kept: dict[bytes, bytes] = {}

    def read(number: int) -> tuple[bytes, bytes]:
        with open(paths[number], "rb") as file:  # noqa: PTH123
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST)).digest()
            after = os.fstat(file.fileno())
        return found, state(after) if time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > RECENT else b""

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
            save(cache, {found: known[found] for found in states if found in known} | kept)
    return [known.get(found) or fresh[found] for found in states]


def place(tree: Path) -> Path:
    """The cache of a tree."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(home) / "senet_lab" / f"{hashlib.sha256(os.fsencode(tree.resolve())).hexdigest()[:16]}.digests"


def load(cache: Path) -> dict[bytes, bytes]:
    """State → digest; empty where there is no cache that is whole."""
    try:
        content = cache.read_bytes()
    except OSError:
        return {}
    entries, width = content[CHECK:], STATE.size + DIGEST
    if len(entries) % width or hashlib.sha256(entries).digest() != content[:CHECK]:
        return {}
    starts = range(0, len(entries), width)
    return {entries[at : at + STATE.size]: entries[at + STATE.size : at + width] for at in starts}


def save(cache: Path, entries: dict[bytes, bytes]) -> None:
    """Write a cache, whole or not at all: another process may be reading or writing it. Where it cannot be written the
    images are read again at the next start."""
    content = b"".join(found + digest for found, digest in entries.items())
    with suppress(OSError), whole(cache) as part:
        part.write_bytes(hashlib.sha256(content).digest() + content)
