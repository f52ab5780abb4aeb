"""W&B's service, the process through which its client works: logging in, and ending in time."""

from __future__ import annotations

import atexit
import os
import signal
from contextlib import suppress
from pathlib import Path

from senet_lab.config import RunError, UserError

LEAVE_SECONDS = 10  # patience at the end, when every run is finished or said to be missing


def log_in() -> None:
    """Make sure of key and server before anything trains; a server that does not answer is given ten seconds."""
    import wandb

    wandb.setup(settings=wandb.Settings(mode="online", silent=True))
    try:
        known = wandb.login(prompt=False, verify=True)
    except wandb.errors.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"tracking=online: {reason}; tracking=offline needs no server") from error
    finally:
        leave_in_time()
    if not known:
        raise UserError(
            "tracking=online: there is no W&B key; `wandb login` stores one, WANDB_API_KEY gives one; "
            "tracking=offline needs none"
        )


def leave_in_time() -> None:
    """See to it that this process ends. W&B waits at exit, without a limit, for its service, which now and then does
    not end after a server did not answer. By then nothing is left for it to do, and so it is killed. To be called when
    the service has been started: what is registered last is called first, and W&B's own wait is registered by then."""
    atexit.unregister(limit_the_end)
    atexit.register(limit_the_end)


def limit_the_end() -> None:
    signal.signal(signal.SIGALRM, end_service)
    signal.alarm(LEAVE_SECONDS)


def end_service(number: int, frame: object) -> None:
    """Kill W&B's service of this process, which has its id among its words; where there is no /proc, let it be."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # a process that has ended meanwhile
            program, *words = path.read_text(errors="replace").split("\0")
            if program.endswith("wandb-core") and str(os.getpid()) in words:
                os.kill(int(path.parent.name), signal.SIGKILL)
