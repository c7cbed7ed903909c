"""The commands of a page of the documentation: what is tested is what stands there."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"

_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


class Page:
    """A page of ``docs``.

    Args:
        name: of its file.
    """

    def __init__(self, name: str) -> None:
        _, *parts = _SECTION.split((DOCS / name).read_text(encoding="utf-8"))
        self._sections = dict(zip(parts[::2], parts[1::2], strict=True))

    def commands(self, section: str) -> list[str]:
        """The blocks of shell in a section, in their order.

        Args:
            section: its title.
        """
        return _BLOCK.findall(self._sections[section])
