"""`python -m senet_lab.run …`: trains one network, or runs a study.

The words are Hydra's override grammar; the entry is our own, because Hydra's answers a mistyped key with five lines and
leaves an outputs folder. Everything heavy is imported when it is needed, so that help and typos are answered at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys

from senet_lab.config import RunError, UserError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 where a run failed, 2 for bad input, 130 when interrupted."""
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to stop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        return answer(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what has ended is recorded; the same command goes on from there", file=sys.stderr)
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

    return run(studies)


def interrupt(number: int, frame: object) -> None:
    """End in good order; a second signal ends at once, which loses nothing either."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end_at_once)
    raise KeyboardInterrupt


def end_at_once(number: int, frame: object) -> None:
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\033[?25h\n")  # the display may have hidden the cursor
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
