"""The description of a run in the MLflow UI, in Markdown: its page, from the verdict to the links."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from lrtape.lines import format_lr
from lrtape.markdown import table
from lrtape.run_page.group_summary import GroupSummary
from lrtape.run_page.summary import Summary
from lrtape.tape import Finding

MAX_CHARACTERS = 6_000
"""MLflow cuts a tag at 8,000, and somebody may have written a description of his own."""
BEGIN, END = "[//]: # (lrtape)", "[//]: # (end of lrtape)"
"""Stand around what lrtape writes. Markdown takes them for the targets of links, and shows nothing."""
CURVE = "curve.svg"
"""The picture, among the artifacts."""

_TABLE, _FINDINGS, _LINKS = 3, 4, 5
"""Parts of it, which may be too long."""
_MAX_GROUPS = 16
_MAX_FINDINGS = 6
_MAX_FINDING_CHARACTERS = 700
_MAX_DROPS = 4
_SPECIAL = re.compile(r"([\\*_\[\]<>#])")


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a run beside its learning rates.

    Attributes:
        run_id: of the run.
        n_planned: number of optimizer steps that were planned; ``None`` where nobody knows.
        status: how the training ended, in MLflow's words; empty as long as it goes on.
        links: texts and addresses, relative to the MLflow UI.
        folder: of the picture, among the artifacts.
    """

    run_id: str
    n_planned: int | None
    status: str
    links: Sequence[tuple[str, str]]
    folder: str


def describe(summary: Summary, about: About, verdict: str) -> str:
    """The whole text. The UI shows little more than its first line until it is unfolded.

    Args:
        summary: of the run's learning rates.
        about: the run.
        verdict: see `lrtape.tape.Verdict`.
    """
    picture = f"![learning rates](get-artifact?path={about.folder}/{CURVE}&run_uuid={about.run_id})"
    parts = [
        _first_line(summary, about, verdict),
        f"{_length(summary, about)}.",
        picture if summary.moving else "",
        _table(list(summary.groups.values())),
        _findings(summary.findings),
        " · ".join(f"[{text}]({address})" for text, address in about.links),
    ]
    for left_out in ((), (_LINKS,), (_LINKS, _TABLE), (_LINKS, _TABLE, _FINDINGS)):
        text = "\n\n".join(part for index, part in enumerate(parts) if part and index not in left_out)
        if len(text) <= MAX_CHARACTERS:
            break
    return text[:MAX_CHARACTERS]


def with_description(section: str, description: str, max_characters: int) -> str:
    """A run's description with lrtape's part of it put in, above what somebody else has written, which is kept whole.

    Args:
        section: see `describe`; where there is no room for it, its first line, or nothing.
        description: as it is; lrtape's part of it is replaced.
        max_characters: of the description.
    """
    begin, end = description.find(BEGIN), description.find(END)
    own = description if begin < 0 or end < begin else description[:begin] + description[end + len(END) :]
    for text in (section, section.partition("\n")[0]):
        whole = "\n\n".join(filter(None, [f"{BEGIN}\n\n{text}\n\n{END}", own.strip()]))
        if len(whole) <= max_characters:
            return whole
    return own


def _first_line(summary: Summary, about: About, verdict: str) -> str:
    if verdict:
        return f"Learning rates: {_plain(verdict)}"
    if about.status:
        return f"Learning rates of {summary.n_steps:,} steps"
    return f"Learning rates: recording, {summary.n_steps:,} steps so far"


def _length(summary: Summary, about: About) -> str:
    n_groups = len(summary.groups)
    is_short = about.n_planned is not None and about.n_planned > summary.n_steps  # one that is resumed may be longer
    of = f" of {about.n_planned:,}" if is_short else ""
    how = {"KILLED": "; the training was killed", "FAILED": "; the training failed"}.get(about.status, "")
    return f"{n_groups} param group{'' if n_groups == 1 else 's'}, {summary.n_steps:,}{of} optimizer steps{how}"


def _table(groups: Sequence[GroupSummary]) -> str:
    rows: list[tuple[str, ...]] = [("group", "first lr", "peak", "last", "drops", "")]
    for group in groups[:_MAX_GROUPS]:
        lrs = [format_lr(lr) if group.n_steps else "" for lr in (group.first, group.peak, group.last)]
        rows.append((_plain(group.name), *lrs, _drops(group), _frozen(group)))
    lines = table(rows, "|:---|:---|:---|:---|:---|:---|")
    if len(groups) > _MAX_GROUPS:
        lines.append(f"\n{len(groups) - _MAX_GROUPS} more groups are in the picture and among the metrics.")
    return "\n".join(lines)


def _drops(group: GroupSummary) -> str:
    n_drops, steps = group.changes.n_drops, group.changes.drops
    if not n_drops:
        return "none"
    shown = ", ".join(f"{step:,}" for step in steps[:_MAX_DROPS])
    more = ", ..." if n_drops > _MAX_DROPS else ""
    return f"{n_drops:,}, at step{'' if n_drops == 1 else 's'} {shown}{more}"


def _frozen(group: GroupSummary) -> str:
    if group.is_frozen:
        return f"frozen after step {group.last_step:,}" if group.n_steps else "frozen"
    return f"frozen until step {group.first_step:,}" if group.first_step > 0 else ""


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    lines = []
    for finding in findings[:_MAX_FINDINGS]:
        message = textwrap.shorten(finding.message, _MAX_FINDING_CHARACTERS, placeholder=" ...")
        lines.append(f"- **{finding.severity} {finding.code}**: {_plain(message)}")
    if len(findings) > _MAX_FINDINGS:
        lines.append(f"- and {len(findings) - _MAX_FINDINGS} more, in findings.json")
    return "\n".join(["### What was found", "", *lines])


def _plain(text: str) -> str:
    """A text as one line, which Markdown leaves as it is; what stands between backquotes stays code."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:  # the last one is not closed
        parts[-2:] = ["'".join(parts[-2:])]
    return "`".join(part if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts))
