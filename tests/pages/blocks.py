"""What a page shows: its blocks, in order, and the commands in its sentences."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

PROGRAMS = ("python", "lrtape", "torchrun", "mlflow", "pip", "pytest", "ray")
"""What a command begins with, in code within a sentence."""
OUTPUT = "text"
RUNS = ("python", "bash")

_FENCE = re.compile(r"\s*```(.*)")
_IN_SENTENCE = re.compile(r"`([^`]+)`")
_FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml))")
_ENDS_COMMAND = ("&&", ";")
_ENDS_WORDS = re.compile(r"[<>|&]+")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of code.

    Attributes:
        line: of its fence, from 1.
        language: what stands beside the fence.
        text: its lines.
        shown: the block of output that follows, if one does before the next block and the next heading.
    """

    line: int
    language: str
    text: str
    shown: str | None = None

    @property
    def file(self) -> str | None:
        """The path of the file that this is, where the first line says so."""
        found = _FILE.fullmatch(self.text.partition("\n")[0])
        return None if found is None else found[1]


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a shell: its words, and the environment variables set in front of it."""

    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(self.words)


def blocks_of(page: str) -> list[Block]:
    """Every block of a page.

    Raises:
        ValueError: one is not closed.
    """
    blocks: list[Block] = []
    lines = page.splitlines()
    begin: int | None = None
    end_of_last = -1  # of the last block
    for index, line in enumerate(lines):
        if (fence := _FENCE.fullmatch(line)) is None:
            continue
        if begin is None:
            begin, language = index, fence[1]
            continue
        text = "\n".join([*lines[begin + 1 : index], ""])
        follows = bool(blocks) and not any(line.startswith("#") for line in lines[end_of_last + 1 : begin])
        if language == OUTPUT and follows and blocks[-1].language in RUNS and blocks[-1].shown is None:
            last = blocks.pop()
            blocks.append(Block(last.line, last.language, last.text, text))
        else:
            blocks.append(Block(begin + 1, language, text))
        begin, end_of_last = None, index
    if begin is not None:
        raise ValueError(f"the block of line {begin + 1} is not closed")
    return blocks


def commands_of(text: str) -> Iterator[Command]:
    """The commands of a shell script of plain lines. Where output goes, to a file or another program, is left out."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        tokens = shlex.shlex(line, posix=True, punctuation_chars="<>|&;()")
        tokens.whitespace_split = True
        words: list[str] = []
        for word in [*tokens, _ENDS_COMMAND[0]]:
            if word in _ENDS_COMMAND:
                yield from _command(words)
                words = []
            else:
                words.append(word)


def commands_in_sentences(page: str) -> list[Command]:
    """Those that stand in a page outside of its blocks, without those of which only a part is there (``...``)."""
    outside: list[str] = []
    is_inside = False
    for line in page.splitlines():
        is_fence = _FENCE.fullmatch(line) is not None
        if not is_inside and not is_fence:
            outside.append(line)
        is_inside ^= is_fence
    quoted = [re.sub(r"\s+", " ", found[1]) for found in _IN_SENTENCE.finditer("\n".join(outside))]
    return [
        command
        for text in quoted
        if text.startswith(tuple(f"{program} " for program in PROGRAMS)) and "..." not in text
        for command in commands_of(text)
    ]


def _command(words: list[str]) -> Iterator[Command]:
    end = next((index for index, word in enumerate(words) if _ENDS_WORDS.fullmatch(word)), len(words))
    kept = words[:end]
    environment = {}
    while kept and (found := re.fullmatch(r"([A-Z_]+)=(.*)", kept[0])):
        environment[found[1]] = found[2]
        kept = kept[1:]
    if kept:
        yield Command(tuple(kept), environment)
