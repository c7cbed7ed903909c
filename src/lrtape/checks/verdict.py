"""What is to be said of a tape in one line."""

import textwrap
from collections.abc import Iterable

from lrtape.tape import Finding

OK = "ok"
MAX_CHARACTERS = 300


def verdict_on(findings: Iterable[Finding]) -> str:
    """``ok``, or the sentence of the worst finding, cut to fit into a tag; a note is no reason to worry."""
    worst = next(
        (finding for severity in ("error", "warning") for finding in findings if finding.severity == severity), None
    )
    return OK if worst is None else textwrap.shorten(line_of(worst), MAX_CHARACTERS, placeholder=" ...")


def line_of(finding: Finding) -> str:
    """A finding in one line: ``warning lr-zero: ...``."""
    return f"{finding.severity} {finding.code}: {finding.message}"
