"""What the page of a run tells: read from spools and tapes while they grow, in little memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lrtape.checks.registry import CODES, check
from lrtape.checks.verdict import OK, verdict_on
from lrtape.columns import Columns
from lrtape.curve_svg import Curve
from lrtape.keys import LR
from lrtape.plan import Plan
from lrtape.run_page.group_summary import GroupSummary
from lrtape.spool import SpoolReader
from lrtape.tape import Finding, GroupLayout, Record, Series, Tape, Verdict
from lrtape.tape_file import read_notes, read_parts

MAX_JUDGED = 1_000_000
"""Learning rates that are kept to be judged here; 8 megabytes, and a second."""
FROZEN = "frozen/"
"""Begins the key that says whether a group moves, as the trainer logs it."""


@dataclass(slots=True)
class Summary:
    """All recordings of a run together.

    Attributes:
        groups: by key, in the order of their first steps.
        findings: what was found so far.
        n_steps: index behind the last step.
        n_values: learning rates altogether.
    """

    groups: dict[str, GroupSummary] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    n_steps: int = 0
    n_values: int = 0
    _verdict: Verdict | None = None
    _kept: Columns | None = field(default_factory=Columns)
    _others: dict[str, Series] = field(default_factory=dict)
    """What other recordings have."""
    _n_groups: int = 1

    def read_tape(self, path: Path, own_keys: Sequence[str]) -> None:
        """Add another recording of the run, which is over: before `read_spool` where this one goes on with its groups.

        Args:
            path: of its tape.
            own_keys: of this recording's groups, of which it has judged all steps.

        Raises:
            SpoolError: it is not a tape, or is damaged.
        """
        notes = read_notes(path)
        self._n_groups = max([self._n_groups, *(len(layout["groups"]) for layout in notes.get("layouts", []))])
        for key, part in read_parts(path):
            for step, value in zip(part.steps, part.values, strict=True):
                self._add(key, step, value)
            if self._kept is not None and key.startswith(LR):
                self._others = dict(Tape.union([Tape.of(self._others), Tape.of({key: part})]))
        known = {finding.name for finding in Finding.__dataclass_fields__.values()}
        for fields in notes.get("findings", []):
            finding = Finding(**{name: value for name, value in fields.items() if name in known})
            if finding.key not in own_keys or finding.code not in CODES:
                self._find(finding)

    def read_spool(self, reader: SpoolReader) -> None:
        """Add what has come since this was called last. Takes about two microseconds for each step and group."""
        for frame in reader.frames():
            points = reader.points_of(frame)
            if isinstance(frame, Finding):
                self._find(frame)
            elif isinstance(frame, Verdict):
                self._verdict = frame
            elif isinstance(frame, GroupLayout):
                self._n_groups = max(self._n_groups, len(frame.groups))
            if self._kept is not None and isinstance(frame, GroupLayout | Record):
                self._kept.write(frame)
            for point in points:
                self._add(point.key, point.step, point.value)

    def _add(self, key: str, step: int, value: float) -> None:
        if key.startswith(LR):
            group = self.groups.get(key)
            if group is None:
                group = self.groups[key] = GroupSummary.one_of(self._n_groups, key.removeprefix(LR))
            group.add(step, value)
            self.n_values += 1
            if self.n_values > MAX_JUDGED and self._kept is not None:
                self._kept = None
                self._others.clear()
            if step >= self.n_steps:
                self.n_steps = step + 1
        elif key.startswith(FROZEN) and value in {0.0, 1.0}:
            name = key.removeprefix(FROZEN)
            group = self.groups.setdefault(LR + name, GroupSummary(name))
            group.is_frozen = value != 0

    def _find(self, finding: Finding) -> None:
        if finding not in self.findings:
            self.findings.append(finding)

    def judge(self, n_steps: int | None, lr_log10: bool) -> str:
        """The verdict on the whole recording, when it is over; what is found on the way is among the findings then.

        Args:
            n_steps: that were planned; ``None`` where nobody knows.
            lr_log10: see `Plan`.

        Returns:
            See `Verdict`; also empty where there was too much to be judged here.
        """
        if self._verdict is not None:
            return verdict_on(self.findings) if self._verdict.text == OK else self._verdict.text
        if self._kept is None:
            return ""
        tape = Tape.union([Tape.of(self._others), self._kept.tape()])
        for finding in check(tape, Plan(max(n_steps or 1, self.n_steps), lr_log10=lr_log10)) if tape else ():
            self._find(finding)
        return verdict_on(self.findings)

    @property
    def moving(self) -> list[GroupSummary]:
        """Those groups that have made a step."""
        return [group for group in self.groups.values() if group.n_steps]

    def curves(self) -> list[Curve]:
        """What is drawn: a curve for each group that has made a step."""
        return [
            Curve((group.name,), tuple(group.outline.corners()), tuple(group.changes.drops)) for group in self.moving
        ]
