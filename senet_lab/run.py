"""`python -m senet_lab.run …`: trains one network, or runs a study.

The words are Hydra's override grammar; the entry is our own, because Hydra's answers a mistyped key with five lines and
leaves an outputs folder. Everything heavy is imported when it is needed, so that help and typos are answered at once.
"""

from __future__ import annotations

import signal
import sys

from senet_lab.compose import compose, help_text
from senet_lab.config import RunError, UserError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 where a run failed, 2 for bad input, 130 when interrupted."""
    words = sys.argv[1:] if argv is None else argv
    signal.signal(signal.SIGTERM, interrupt)
    try:
        if {"-h", "--help"} & set(words):
            print(help_text())
            return 0
        if words[:1] == ["--cfg"]:
            from omegaconf import OmegaConf

            print(
                OmegaConf.to_yaml(
                    OmegaConf.structured(compose(words[2:] if words[1:2] == ["job"] else words[1:]).config)
                )
            )
            return 0
        composed = compose(words)
        from senet_lab.studies.study import run  # torch comes with it

        return run(composed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what has ended is recorded; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
