"""The pages of the commands: what each does, and its flags, as the settings say."""

import importlib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from markupsafe import Markup, escape

from tfprune.bin.flags import SettingFlag, setting_flags
from tfprune.bin.help import FLAGFILE, PREFACE, condition, grouped, typed, values

_COLUMNS = ("flag", "default", "meaning", "values")
_FLAG = re.compile(r"--\w+(?:=[\w./]*\w)?")


def command_pages(root: Path) -> dict[str, str]:
    """Returns a page for each command of `pyproject.toml`, in Markdown, by the command's name."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: _page(name, *entry.split(":")) for name, entry in project["scripts"].items()}


def _page(command: str, module: str, function: str) -> str:
    documentation, members = _overhear(module, function)
    blocks = [f"# `{command}`", *map(_paragraph, documentation.strip().split("\n\n")), PREFACE]
    flagfile = [_html_row("flagfile", "--flagfile", "empty", FLAGFILE, "")]
    for heading, of_group in grouped(members):
        rows = [_row(flag) for flag in of_group] + flagfile
        flagfile = []  # In the first group, as in `--help`.
        blocks += [f"## {heading}", _table(rows)]
    return "\n\n".join(blocks) + "\n"


def _overhear(module_name: str, function: str) -> tuple[str, list[SettingFlag]]:
    """Returns what a command says to `run_main`: its documentation and its flags."""
    module = importlib.import_module(module_name)
    heard: list[Any] = []

    def listen(_main: Any, documentation: str, define: Any = lambda: None, **_: Any) -> None:
        define()
        heard.extend((documentation, setting_flags()))
        for flag in heard[1]:
            delattr(flags.FLAGS, flag.name)

    run_main, module.run_main = module.run_main, listen
    try:
        getattr(module, function)()
    finally:
        module.run_main = run_main
    return heard[0], heard[1]


def _paragraph(text: str) -> str:
    if text.startswith(" "):
        return "\n".join(["```sh", *(line.strip() for line in text.splitlines()), "```"])
    return f"<p>{_marked(' '.join(text.split()))}</p>"


def _row(flag: SettingFlag) -> str:
    default = typed(flag) if flag.boolean else typed(flag).partition("=")[2]
    return _html_row(
        flag.name,
        f"--{flag.name}",
        "required" if flag.required else Markup("<code>{}</code>").format(default) if default else "empty",
        f"{flag.said.help} {condition(flag)}",
        values(flag),
    )


def _html_row(name: str, flag: str, default: str, meaning: str, allowed: str) -> str:
    cells = [Markup("<code>{}</code>").format(flag), escape(default), _marked(meaning), _marked(allowed)]
    inner = "".join(
        f'<td data-column="{column}">{cell}</td>' for column, cell in zip(_COLUMNS, cells, strict=True)
    )
    return f'<tr id="{name}">{inner}</tr>'


def _table(rows: Sequence[str]) -> str:
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    body = "\n".join(rows)
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="flags">\n{table}\n</div>'


def _marked(text: str) -> Markup:
    """Returns a text as HTML, its flags as code."""
    return Markup(_FLAG.sub(r"<code>\g<0></code>", str(escape(text))))
