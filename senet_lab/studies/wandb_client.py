"""W&B's client: its settings, its key, and its limits of time and disk."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from senet_lab.config import RunError, UserError, first_line
from senet_lab.naming import short_hash

PROJECT = "senet_lab"
Config = dict[str, Any]
LONGEST = 128  # characters that W&B takes in a name, group or job type
INIT_SECONDS, FINISH_SECONDS = 30, 40  # patience with a server
ROOM_BYTES = 4 * 2**20  # more than a run takes on disk
MODES = {"online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline"}
MODES |= {"disabled": "off"}  # of WANDB_MODE
OF_ONE_RUN = ("sweep_id", "sweep_param_path", "launch_config_path", "run_id", "resume", "resume_from", "fork_from")
HOW_TO_LOG_IN = "`wandb login` stores one, WANDB_API_KEY gives one"


def run_name(text: str) -> str:
    """Text that W&B takes as a name, still another one for another text."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 9]}~{short_hash(text)}"


def start(run_id: str, online: bool, folder: Path, name: str, group: str, job_type: str, config: Config) -> Any:
    """Open a W&B run, which writes to `folder`/wandb."""
    import wandb

    check_disk(folder)
    return wandb.init(
        project=entity_and_project()[1],
        id=run_id,
        dir=folder,
        mode="online" if online else "offline",
        name=run_name(name),
        group=run_name(group),
        job_type=run_name(job_type),
        config={**config, "study": group},
        resume="allow" if online else None,
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",
            symlink=False,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,  # the command line, which may hold a password of the database
            x_save_requirements=False,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        ),
    )


@contextmanager
def client(folder: Path) -> Iterator[None]:
    """Set up W&B's client for the body, in a process that does nothing else. Its files lie in the folder of the runs,
    it has a service of its own, and it does not report its own errors, which would delay the end without a network."""
    # A process that uses W&B leaves its service's address to its children. That service takes relative paths from the
    # folder that it was started in, and would write this run there.
    os.environ.pop("WANDB_SERVICE", None)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        os.environ.setdefault(name, str(folder.absolute() / ".client"))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with tempfile.TemporaryDirectory() as place:
        tempfile.tempdir = place  # it counts on exit handlers to remove its own, and multiprocessing runs none
        yield


def log_in(word: str, otherwise: str) -> bool:
    """Check the key and the server. A server that does not answer is given ten seconds.

    Args:
        word: what needs it, for the message.
        otherwise: what there is without it, likewise.

    Returns:
        Whether there is a key.

    Raises:
        RunError: the server cannot be reached or refuses the key.
    """
    import wandb

    session(mode="online")
    try:
        return bool(wandb.login(prompt=False, verify=True))
    except wandb.errors.Error as error:
        raise RunError(f"{word}: {first_line(error).rstrip('.')}; {otherwise}") from error


def entity_and_project() -> tuple[str, str]:
    """Entity and project that runs are in, as W&B's own settings name them: an empty entity is the user's default."""
    settings = session().settings
    return settings.entity or "", settings.project or PROJECT


def session(**settings: Any) -> Any:
    """W&B's client of this process: silent, and without settings of a single run."""
    import wandb

    client = wandb.setup(settings=wandb.Settings(silent=True, launch=False, **settings))
    for name in OF_ONE_RUN:
        setattr(client.settings, name, None)  # given to `setup`, None would leave what there is
    return client


def wandb_mode(word: str) -> str:
    """`offline`, `online` or `off`. If WANDB_MODE switches W&B off, it is off whatever `tracking` says; `auto` follows
    WANDB_MODE, or is `offline`.

    Raises:
        UserError: WANDB_MODE is none of W&B's.
    """
    mode = os.environ.get("WANDB_MODE")
    if word == "off" or mode is None:
        return "offline" if word == "auto" else word
    if mode not in MODES:  # its client would only say so once all is trained
        raise UserError(f"WANDB_MODE={mode}: there is no such mode; there are {', '.join(MODES)}")
    return MODES[mode] if word == "auto" or MODES[mode] == "off" else word


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError if the body takes longer than this, because W&B's client waits for its service without a
    limit. Only for the main thread of a process that does not use the alarm.

    Raises:
        TimeoutError: it did.
    """

    def over(*_: object) -> None:
        raise TimeoutError(f"W&B did not answer for {seconds:g} seconds")

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def check_disk(folder: Path) -> None:
    """An OSError if the disk or the user's quota is full, because W&B's client would silently write half a run."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".room"
    try:
        probe.write_bytes(bytes(ROOM_BYTES))
    finally:
        probe.unlink(missing_ok=True)
