"""`python -m senet_lab.run …`: trains one network, or runs a study.

The words are Hydra's override grammar; the entry is our own, because Hydra's answers a mistyped key with five lines and
leaves an outputs folder. Everything heavy is imported when it is needed, so that help and typos are answered at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable

from senet_lab.config import RunError, UserError, without_passwords

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
GOES_ON = "interrupted: what has ended is recorded; the same command goes on from there"


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 where a run failed, 2 for bad input, 130 when interrupted."""
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to stop
    on_signals(leave)
    try:
        return answer(words)
    except UserError as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(GOES_ON, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def answer(words: list[str]) -> int:
    """Do what the words say; the exit code."""
    from senet_lab.compose import compose_all, help_text, job_text

    if {"-h", "--help"} & set(words):
        print(help_text(), flush=True)
        return 0
    if {"-c", "--cfg"} & set(words):
        print(job_text(words), flush=True)
        return 0
    studies = compose_all(words)
    from senet_lab.studies.study import run  # torch comes with it

    on_signals(interrupt)
    return run(studies)


def on_signals(handler: Callable[[int, object], None]) -> None:
    """Call the handler from now on when the user, or the system, asks for an end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def leave(number: int, frame: object) -> None:
    """End while modules are imported: nothing has begun yet, and an exception might be lost, because Python ignores
    those that meet it in the importer's own callbacks."""
    os.write(2, f"{GOES_ON}\n".encode())
    os._exit(INTERRUPTED)


def interrupt(number: int, frame: object) -> None:
    """End in good order; a second signal ends at once, which loses nothing either."""
    on_signals(end_at_once)
    raise KeyboardInterrupt


def end_at_once(number: int, frame: object) -> None:
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\033[?25h\n")  # the display may have hidden the cursor
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
