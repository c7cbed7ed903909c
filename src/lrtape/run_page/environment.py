"""What a training ran on: told once with its run. No credential, no host and no path is in it."""

import os
import platform
import re
import sys
from importlib.metadata import distributions

_FIELD = re.compile(r"^(Name|Version): *(\S+)", re.MULTILINE)
_HEAD_CHARACTERS = 2_000
"""Of a package's metadata, which begin with both; the rest is long, and parsing all of it takes a third of a second."""


def environment() -> dict[str, object]:
    """Versions of Python, the system and every installed package. Takes some tens of milliseconds."""
    packages: dict[str, str] = {}
    for distribution in distributions():
        fields = dict(_FIELD.findall((distribution.read_text("METADATA") or "")[:_HEAD_CHARACTERS]))
        if fields.keys() == {"Name", "Version"}:
            packages.setdefault(fields["Name"], fields["Version"])  # the first one is the one that is imported
    return {
        "python": sys.version.split()[0],
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }
