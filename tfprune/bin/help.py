"""What `--help` prints: what a binary does, then its flags in groups, as they would be typed."""

import itertools
import textwrap
from collections.abc import Sequence

from tfprune.bin.flags import SettingFlag
from tfprune.settings import to_text

_NARROWEST, _WIDEST = 40, 120
_FLAGFILE = "Flags from a file, one --name=value a line; may be given more than once."
_PREFACE = "Flags, each with its default. Of a flag that is given twice the later one counts."


def help_text(documentation: str, flags: Sequence[SettingFlag], width: int) -> str:
    """Returns the help of a binary.

    Args:
        documentation: Paragraphs about the binary; indented lines are commands.
        flags: Its flags, in the order of their groups.
        width: Columns of the terminal; lines are no longer, but for words that are.
    """
    width = min(max(width, _NARROWEST), _WIDEST)
    blocks = [_documentation(documentation, width), textwrap.fill(_PREFACE, width)]
    ordered = sorted(flags, key=lambda flag: [other.said.group for other in flags].index(flag.said.group))
    for group, members in itertools.groupby(ordered, key=lambda flag: flag.said.group):
        blocks.append("\n".join([f"{group}:", *(_flag(flag, width) for flag in members)]))
    blocks[2] += f"\n{_entry('--flagfile=FILE', [_FLAGFILE], width)}"
    return "\n\n".join(blocks)


def typed(flag: SettingFlag) -> str:
    """Returns a flag as it is typed: with its default, or what stands for the value of a required one."""
    if flag.boolean:
        return f"--{flag.name}" if flag.default else f"--no{flag.name}"
    if flag.required:
        return f"--{flag.name}={flag.name.upper()}"
    value = f"{flag.default:g}" if isinstance(flag.default, float) else to_text(flag.default)
    return f"--{flag.name}={value.replace('e-0', 'e-')}"


def _flag(flag: SettingFlag, width: int) -> str:
    said = flag.said
    sentences = [said.help]
    if flag.required:
        sentences.append("Required.")
    if flag.boolean:
        sentences.append(f"--{'no' if flag.default else ''}{flag.name} for the opposite.")
    if said.choices is not None:
        kind = "Some" if isinstance(flag.default, tuple) else "One"
        sentences.append(f"{kind} of {said.choices_text()}.")
    elif said.rule is not None and said.role != "place":
        sentences.append(f"Must be {said.rule.text}.")
    if said.only_with:
        sentences.append(f"Only with {', or '.join(map(str, said.only_with))}.")
    return _entry(typed(flag), sentences, width)


def _entry(title: str, sentences: Sequence[str], width: int) -> str:
    return "\n".join([f"  {title}", *(_filled(sentence, width, 6 * " ") for sentence in sentences)])


def _documentation(text: str, width: int) -> str:
    """Fills the paragraphs; breaks commands that are too long as a shell takes them."""
    return "\n\n".join(
        "\n".join(_command(line.strip(), width) for line in block.splitlines())
        if block.startswith(" ")
        else _filled(block, width)
        for block in text.strip().split("\n\n")
    )


def _command(line: str, width: int) -> str:
    lines = _filled(line, width - 4).splitlines()
    return " \\\n      ".join([f"  {lines[0]}", *lines[1:]])


def _filled(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
