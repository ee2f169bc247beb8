"""What `--help` prints: what a binary does, then its flags in groups, as they would be typed."""

import textwrap
from collections.abc import Sequence

from tfprune.bin.flags import SettingFlag
from tfprune.settings import to_text

_NARROWEST, _WIDEST = 40, 120
FLAGFILE = "Flags from a file, one --name=value a line; may be given more than once."
PREFACE = "Flags, each with its default. Of a flag that is given twice the later one counts."


def help_text(documentation: str, flags: Sequence[SettingFlag], width: int) -> str:
    """Returns the help of a binary.

    Args:
        documentation: Paragraphs about the binary; indented lines are commands.
        flags: Its flags, in the order of their groups.
        width: Columns of the terminal; lines are no longer, but for words that are.
    """
    width = min(max(width, _NARROWEST), _WIDEST)
    blocks = [_documentation(documentation, width), textwrap.fill(PREFACE, width)]
    for group, members in grouped(flags):
        blocks.append("\n".join([f"{group}:", *(_flag(flag, width) for flag in members)]))
    blocks[2] += f"\n{_entry('--flagfile=FILE', [FLAGFILE], width)}"
    return "\n\n".join(blocks)


def grouped(flags: Sequence[SettingFlag]) -> list[tuple[str, list[SettingFlag]]]:
    """Returns the flags under their headings, in the order in which these come first."""
    headings = dict.fromkeys(flag.said.group for flag in flags)
    return [(heading, [flag for flag in flags if flag.said.group == heading]) for heading in headings]


def typed(flag: SettingFlag) -> str:
    """Returns a flag as it is typed: with its default, or what stands for the value of a required one."""
    if flag.boolean:
        return f"--{flag.name}" if flag.default else f"--no{flag.name}"
    if flag.required:
        return f"--{flag.name}={flag.name.upper()}"
    value = f"{flag.default:g}" if isinstance(flag.default, float) else to_text(flag.default)
    return f"--{flag.name}={value.replace('e-0', 'e-')}"


def values(flag: SettingFlag) -> str:
    """Returns the sentence about the values that a flag takes; empty if it takes any of its type."""
    said = flag.said
    if said.choices is not None:
        return f"{'Some' if isinstance(flag.default, tuple) else 'One'} of {said.choices_text()}."
    return f"Must be {said.rule.text}." if said.rule is not None and said.role != "place" else ""


def condition(flag: SettingFlag) -> str:
    """Returns the sentence about what a flag needs to have an effect; empty if it always has one."""
    said = flag.said
    parts = [
        f"{word} with {', or '.join(map(str, others))}"
        for word, others in (("only", said.only_with), ("not", said.unless))
        if others
    ]
    return f"{', '.join(parts).capitalize()}." if parts else ""


def _flag(flag: SettingFlag, width: int) -> str:
    said = flag.said
    sentences = [said.help]
    if flag.required:
        sentences.append("Required.")
    if flag.boolean:
        sentences.append(f"--{'no' if flag.default else ''}{flag.name} for the opposite.")
    return _entry(typed(flag), [*sentences, *filter(None, (values(flag), condition(flag)))], width)


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
