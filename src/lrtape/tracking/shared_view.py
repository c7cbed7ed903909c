"""The shared view of an experiment's runs, as MLflow's own UI stores one in a tag of the experiment.

It is a format of that UI and no public one, so it is known here alone. Tried in a browser with mlflow 3.11, 3.14, 3.15
and 3.17: all of them read a view that is a compressed text; from 3.15 on it may have a name, by which the UI lists it.
"""

import base64
import binascii
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lrtape.tape import now_ms

SHARED_VIEW = "mlflow.sharedViewState."
"""Tag of an experiment, with the id of a view behind it."""

Version = tuple[int, int]

FIRST_VERSION: Version = (3, 11)
NEXT_MAJOR: Version = (4, 0)
_NAMED_SINCE: Version = (3, 15)
_LONG_TAGS_SINCE: Version = (3, 16)
_MAX_CHARACTERS, _MAX_CHARACTERS_BEFORE = 20_000, 5_000

_COMPRESSED = "deflate;"
_OWN = "lrtape"
"""In a state: what it was made of. MLflow ignores it."""
_MAX_RUNS = 100
_LINE, _PARALLEL = "LINE", "PARALLEL"

State = Mapping[str, Any]
Chart = Mapping[str, Any]


def version_of(text: str) -> Version | None:
    """The major and the minor version of an MLflow; ``None`` where `text` does not begin with one."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def is_understood_by(version: Version) -> bool:
    """Whether the UI of this MLflow shows such a view; one that does not says so, and shows its ordinary page."""
    return FIRST_VERSION <= version < NEXT_MAJOR


def line_chart(section: str, keys: Sequence[str], is_log: bool = False) -> Chart:
    """The curves of some metrics in one chart, over the steps.

    Args:
        section: its name.
        keys: at least one.
        is_log: whether the y axis is logarithmic.
    """
    return _chart(section, _LINE) | {
        "metricKey": keys[0],
        "selectedMetricKeys": list(keys),
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "log" if is_log else "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def plain_chart(section: str, key: str) -> Chart:
    """The chart that MLflow itself would make of a metric."""
    return {**line_chart(section, [key]), "isGenerated": True}


def parallel_chart(section: str, params: Sequence[str], metrics: Sequence[str]) -> Chart:
    """Parallel coordinates: a line for each run that has all of these, coloured by the last one."""
    return _chart(section, _PARALLEL) | {
        "selectedParams": list(params),
        "selectedMetrics": list(metrics),
        "showAllRuns": True,
    }


def _chart(section: str, kind: str) -> dict[str, Any]:
    return {
        "type": kind,
        "metricSectionId": section,
        "runsCountToCompare": _MAX_RUNS,
        "deleted": False,
        "isGenerated": False,
    }


def make_state(
    charts: Iterable[Chart],
    columns: Sequence[str],
    order_by: str,
    is_ascending: bool,
    sections: Mapping[str, tuple[int, int]],
    averaged_over: str = "",
    made_of: Mapping[str, Any] | None = None,
) -> State:
    """A view: all runs, some charts in this order, and everything else as MLflow has it.

    Args:
        charts: of `line_chart` and the like; their sections appear in the order of their first charts.
        columns: of the table, as ``metrics.`val/loss```.
        order_by: what the runs are sorted by, in the same words.
        is_ascending: whether the smallest is first.
        sections: those that are open: how many charts stand side by side, and their height in pixels. All others are
            folded.
        averaged_over: a tag; runs that have the same text there are shown as one, with the mean of their metrics.
        made_of: what to remember in it, see `remembered`; plain values.
    """
    numbered = [{"uuid": f"chart-{index}", **chart} for index, chart in enumerate(charts)]
    names = dict.fromkeys(str(chart["metricSectionId"]) for chart in numbered)
    return {
        "searchFilter": "",
        "orderByKey": order_by,
        "orderByAsc": is_ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": numbered,
        "compareRunSections": [_section(name, sections.get(name)) for name in names],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": _averaged(averaged_over) if averaged_over else None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        _OWN: dict(made_of or {}),
    }


def _section(name: str, shape: tuple[int, int] | None) -> dict[str, Any]:
    section: dict[str, Any] = {"uuid": name, "name": name, "display": shape is not None, "isReordered": True}
    return section if shape is None else section | {"columns": shape[0], "cardHeight": shape[1]}


def _averaged(tag: str) -> dict[str, Any]:
    return {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": tag}]}


def encode(state: State, name: str, version: Version) -> str | None:
    """The text of the tag; ``None`` where it would be longer than the store takes.

    Args:
        state: of `make_state`.
        name: of the view, for people; older versions cannot show it.
        version: of the MLflow whose UI reads it.
    """
    plain = json.dumps(state, separators=(",", ":"), ensure_ascii=False).encode()
    text = _COMPRESSED + base64.b64encode(zlib.compress(plain, 9)).decode()
    if version >= _NAMED_SINCE:
        now = now_ms()
        text = json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": text}, ensure_ascii=False)
    return text if len(text) <= (_MAX_CHARACTERS if version >= _LONG_TAGS_SINCE else _MAX_CHARACTERS_BEFORE) else None


def decode(text: str | None) -> State:
    """The state in the text of a tag; empty where it cannot be read, as somebody else has written it, say."""
    try:
        state = json.loads(text or "")["state"] if (text or "").startswith("{") else text or ""
        if state.startswith(_COMPRESSED):
            state = zlib.decompress(base64.b64decode(state.removeprefix(_COMPRESSED))).decode()
        loaded = json.loads(state)
    except (ValueError, KeyError, AttributeError, TypeError, binascii.Error, zlib.error):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def remembered(state: State) -> Mapping[str, Any]:
    """What `make_state` was asked to remember; empty where that is nothing."""
    own = state.get(_OWN)
    return own if isinstance(own, dict) else {}
