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
# Signal → message and exit code: 128 + SIGINT as in shells; 0 for SIGTERM, by which a scheduler ends a job normally.
ENDS = {signal.SIGINT: (f"interrupted: {GOES_ON}", 130), signal.SIGTERM: (f"ended by SIGTERM: {GOES_ON}", 0)}
SIGNALS_RECEIVED: list[int] = []  # signals that have come


def main(argv: list[str] | None = None) -> int:
    """Run the command from Python (a script, a notebook, a thread) and return its exit code. The signal handlers that
    were set before are set again afterwards."""
    before = {number: signal.getsignal(number) for number in ENDS}
    try:
        return command(sys.argv[1:] if argv is None else argv)
    finally:
        for number, handler in before.items():
            set_handler(number, handler)


def command(words: list[str]) -> int:
    """Run the command; the exit code is 0, 1 if a run failed, 2 for bad input, 130 if interrupted, and 0 after a
    SIGTERM, by which schedulers end a job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the terminal lacks must not stop the run
    SIGNALS_RECEIVED.clear()
    set_handlers(exit_at_once)
    try:
        return run_words(words)
    except UserError as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RunError, OSError) as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        message, code = ENDS[signal.Signals(SIGNALS_RECEIVED[0] if SIGNALS_RECEIVED else signal.SIGINT)]
        print(message, file=sys.stderr)
        return code


def run_words(words: list[str]) -> int:
    """Print help or the configuration, or run the studies that the words ask for; returns the exit code."""
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
    """Call this handler for SIGINT and SIGTERM from now on."""
    for number in ENDS:
        set_handler(number, handler)


def set_handler(number: int, handler: Any) -> None:
    """Set a handler if this is the main thread, the only one in which Python allows it. None is a handler that was not
    set from Python: it is kept."""
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(number, handler)


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """End the process while modules are being imported. Nothing has begun, so nothing is lost. An exception would not
    do: Python ignores one that is raised in a callback of the importer."""
    message, code = ENDS[signal.Signals(number)]
    os.write(2, f"{message}\n".encode())
    os._exit(code)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, so that the run stops its workers and ends. If Python would ignore an exception here,
    try again after 20 ms. A second signal ends the process at once; recorded trials and checkpoints are kept then,
    too."""
    if ignores_exceptions(frame):
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
        return
    set_handlers(end_at_once)
    SIGNALS_RECEIVED.append(number)
    raise KeyboardInterrupt


def ignores_exceptions(frame: FrameType | None) -> bool:
    """Whether Python may ignore an exception raised in this frame: in a destructor or in a callback of the importer."""
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
