"""`python -m senet_lab <command>`, or `senet-lab <command>`: what is done with a study's records once it has run.

Training is `python -m senet_lab.run …`, or `senet-lab run …`; nothing else here trains, and tables are regenerated
without torch.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from typing import Any, NoReturn

from senet_lab import commands
from senet_lab.config import RunError, UserError, without_passwords


class Parser(argparse.ArgumentParser):
    """Bad words are answered with one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (python -m senet_lab --help shows the commands)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Words may also stand behind options, where argparse leaves them over."""
        found, rest = super().parse_known_args(args, namespace)
        if hasattr(found, "words"):
            found.words = [*found.words, *(word for word in rest if not word.startswith("-"))]
            rest = [word for word in rest if word.startswith("-")]
        return found, rest


def parser() -> Parser:
    """The arguments of every command (`senet_lab.commands`)."""
    modules = [
        importlib.import_module(f"{commands.__name__}.{each.name}") for each in pkgutil.iter_modules(commands.__path__)
    ]
    examples = [f"  python -m senet_lab {line}\n" for module in modules for line in module.EXAMPLES]
    command_line = Parser(
        prog="python -m senet_lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n" + "".join(examples),
    )
    named = command_line.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    for module in modules:
        help, _, description = (module.__doc__ or "").partition("\n\n")
        name = module.__name__.rpartition(".")[2].replace("_", "-")
        command = named.add_parser(name, help=help, description=description or None)
        module.add_arguments(command)
        command.set_defaults(run=module.main)
    return command_line


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 where it failed, 2 for bad input."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["run"]:
        from senet_lab import run

        return run.process(words[1:])
    try:
        arguments = parser().parse_args(words)
        arguments.run(arguments)
        return 0
    except UserError as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells have it


if __name__ == "__main__":
    sys.exit(main())
