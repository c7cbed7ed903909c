"""Tables in Markdown, as the MLflow UI shows them in the description of a run."""

from collections.abc import Sequence

_SPACE = "&emsp;"
"""Between columns: MLflow (3.17) sets them without any."""


def table(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """The lines of a table.

    Args:
        rows: the head first; a ``|`` in a cell is written as ``/``.
        alignment: of the columns, as ``|---:|:---|``.
    """
    lines = [f"| {' | '.join(cell.replace('|', '/') + _SPACE for cell in row)} |" for row in rows]
    return [lines[0], alignment, *lines[1:]]
