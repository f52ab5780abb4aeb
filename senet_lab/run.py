"""`python -m senet_lab.run …`: trains one network, or runs a study.

The words are Hydra's override grammar; the entry is our own, because Hydra's answers a mistyped key with five lines and
leaves an outputs folder. Everything heavy is imported when it is needed, so that help and typos are answered at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from senet_lab.config import RunError, UserError, without_passwords

GOES_ON = "what has ended is recorded; the same command goes on from there"
# What is said, and the exit code: 128 + SIGINT, as shells have it; a scheduler that asks for an end gets it, in order.
ENDS = {signal.SIGINT: (f"interrupted: {GOES_ON}", 130), signal.SIGTERM: (f"ended by SIGTERM: {GOES_ON}", 0)}
SIGNALS_RECEIVED: list[int] = []  # signals that have come


def main(argv: list[str] | None = None) -> int:
    """The command, from Python: in a script, a notebook or a thread. Returns its exit code; signals are then handled as
    they were before."""
    before = {number: signal.getsignal(number) for number in ENDS}
    try:
        return command(sys.argv[1:] if argv is None else argv)
    finally:
        for number, handler in before.items():
            set_handler(number, handler)


def command(words: list[str]) -> int:
    """The command; returns its exit code: 0, 1 where a run failed, 2 for bad input, 130 when interrupted. A SIGTERM is
    how schedulers ask for an end, and 0 says that it was a good one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to stop
    SIGNALS_RECEIVED.clear()
    set_handlers(exit_at_once)
    try:
        return run_words(words)
    except UserError as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RunError, OSError) as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        said, code = ENDS[signal.Signals(SIGNALS_RECEIVED[0] if SIGNALS_RECEIVED else signal.SIGINT)]
        print(said, file=sys.stderr)
        return code


def run_words(words: list[str]) -> int:
    """Do what the words say; the exit code."""
    from senet_lab.compose import compose_all
    from senet_lab.help import help_text, job_text

    if {"-h", "--help"} & set(words):
        print(help_text(), flush=True)
        return 0
    if {"-c", "--cfg"} & set(words):
        print(job_text(words), flush=True)
        return 0
    studies = compose_all(words)
    from senet_lab.studies.study import run_studies  # torch comes with it

    set_handlers(interrupt)
    return run_studies(studies, words)


def set_handlers(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call the handler from now on when the user, or the system, asks for an end."""
    for number in ENDS:
        set_handler(number, handler)


def set_handler(number: int, handler: Any) -> None:
    """Set a handler where Python lets one: it runs them in the main thread, and keeps those that it has not set."""
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(number, handler)


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """End while modules are imported: nothing has begun yet, and an exception might be lost, because Python ignores
    those that meet it in the importer's own callbacks."""
    said, code = ENDS[signal.Signals(number)]
    os.write(2, f"{said}\n".encode())
    os._exit(code)


def interrupt(number: int, frame: FrameType | None) -> None:
    """End in good order, as soon as an exception is heard; a second signal ends at once, which loses nothing either."""
    if ignores_exceptions(frame):
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
        return
    set_handlers(end_at_once)
    SIGNALS_RECEIVED.append(number)
    raise KeyboardInterrupt


def ignores_exceptions(frame: FrameType | None) -> bool:
    """Whether Python may ignore an exception that is raised here: in a destructor, or in the importer's callbacks."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def end_at_once(number: int, frame: FrameType | None) -> None:
    """End with the exit code of the first signal."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\033[?25h\n")  # the display may have hidden the cursor
    os._exit(ENDS[signal.Signals(SIGNALS_RECEIVED[0])][1])


def process(words: list[str]) -> int:
    """The command as all that its process does: nothing may interrupt what Python does behind it."""
    code = command(words)
    sys.stdout.flush()
    set_handlers(lambda number, frame: os._exit(code))
    return code


if __name__ == "__main__":
    sys.exit(process(sys.argv[1:]))
