"""Writes the part of cli.md below its marker from the command line itself: python docs/reference/make_cli.py"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from bottlekit.cli.main import app

PAGE = Path(__file__).with_name("cli.md")
MARKER = "<!-- written by make_cli.py: everything below this line -->"


def reference() -> str:
    """One section a verb: what it does, its arguments, its options, as `--help` tells them."""
    return "\n".join(_section(verb, command) for verb, command in _verbs(typer.main.get_command(app)))


def _verbs(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by what one types for it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _verbs(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def page() -> str:
    """The whole page: what a person wrote above the marker, and the reference below it."""
    written = PAGE.read_text(encoding="utf-8").partition(MARKER)[0]
    return f"{written}{MARKER}\n\n{reference()}"


def _section(verb: str, command: Any) -> str:
    shown = [parameter for parameter in command.params if not parameter.hidden]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    usage = " ".join(["bottlekit", verb, *map(_usage, arguments), "[OPTIONS]" if options else ""]).strip()
    lines = [
        f"## bottlekit {verb}",
        "",
        _words(inspect.cleandoc(command.help or "")),
        "",
        "```text",
        usage,
        "```",
        "",
    ]
    if arguments:
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| `{_name(parameter)}` | {_cell(parameter)} |" for parameter in arguments]
        lines.append("")
    for panel in dict.fromkeys(option.rich_help_panel for option in options):
        lines += [f"| {panel or 'option'} | meaning |", "|---|---|"]
        for option in options:
            if option.rich_help_panel == panel:
                names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
                lines.append(f"| {names} | {_cell(option)} |")
        lines.append("")
    return "\n".join(lines)


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name).upper().rstrip(".")


def _usage(argument: Any) -> str:
    name = _name(argument) + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _cell(parameter: Any) -> str:
    """Help and default, in one line that a table takes."""
    text = _words(" ".join((parameter.help or "").split())).replace("|", "\\|").replace("<", "\\<")
    if parameter.required:
        return f"{text} Required."
    shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if shown is None or shown is False or shown == "" or parameter.show_default is False:
        return text
    return f"{text} Default: `{shown}`."


def _words(text: str) -> str:
    """Typer's markup as Markdown: bold, and lines that belong together joined."""
    text = re.sub(r"\[/?bold\]", "**", text)
    paragraphs = re.split(r"\n\s*\n", text)
    blocks = "\n\n".join(_block(paragraph) for paragraph in paragraphs)
    return blocks.replace("\n```\n\n```text\n", "\n")


def _block(paragraph: str) -> str:
    lines = paragraph.splitlines()
    if lines and all(line.startswith("    ") for line in lines):
        return "\n".join(["```text", *(line[4:] for line in lines), "```"])
    return " ".join(line.strip() for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
