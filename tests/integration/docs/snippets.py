"""What the README and the pages of docs/ show to be typed or written: their fenced blocks and spans of code."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")], key=lambda page: page.relative_to(ROOT).as_posix()
)
FENCE = re.compile(r"^( *)```([\w-]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(stillroom(?: [^`]+)?|make [^`]+|python -m bench[^`]*|pip install [^`]+)`")
HEREDOC = re.compile(r"<<'(\w+)'$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language and its text."""

    page: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    """All of these languages, page by page."""
    found = [
        Block(page.relative_to(ROOT).as_posix(), match[2], textwrap.dedent(match[3]))
        for page in PAGES
        for match in FENCE.finditer(page.read_text("utf-8"))
    ]
    return [block for block in found if block.language in languages] if languages else found


def commands() -> list[tuple[str, str]]:
    """(page, command) of every block of shell, a command that goes on over lines or has a here-document as one."""
    return [(block.page, command) for block in blocks("sh") for command in split(block.text)]


def split(text: str) -> Iterator[str]:
    """The commands of a script."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        command = line
        if heredoc := HEREDOC.search(line):
            for inner in lines:
                command += f"\n{inner}"
                if inner == heredoc[1]:
                    break
        while command.endswith("\\"):
            command += f"\n{next(lines)}"
        yield command


def spans() -> list[tuple[str, str]]:
    """(page, command) of every span of code that names one."""
    return [
        (page.relative_to(ROOT).as_posix(), " ".join(span.split()))
        for page in PAGES
        for span in SPAN.findall(FENCE.sub("", page.read_text("utf-8")))
    ]


def words(command: str) -> list[str]:
    """The words of a command's first line and what it goes on over, without comments."""
    return shlex.split(HEREDOC.sub("", command.partition("<<")[0]), comments=True)
