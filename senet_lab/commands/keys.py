"""every key of a configuration, its default and its meaning, as Markdown"""

from __future__ import annotations

import argparse

EXAMPLES = ("keys > docs/keys.md",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def main(arguments: argparse.Namespace) -> None:
    """Print the reference of keys."""
    from senet_lab.help import list_keys

    groups: dict[str, list[str]] = {}
    for key, value, means in list_keys():
        shown = f"`{value}`" if value else ""
        groups.setdefault(key.rpartition(".")[0], []).append(f"| `{key}` | {shown} | {means} |")
    print("# Every key\n\nWhat `python -m senet_lab.run` can be told, as `key=value`:\n")
    print("```\npython -m senet_lab.run +ablation=ratio recipe.lr=0.05 seeds=5 plan=true\n```")
    for group, lines in groups.items():
        print(f"\n## {group or 'the lab'}\n\n| key | default | meaning |\n|---|---|---|", *lines, sep="\n")
