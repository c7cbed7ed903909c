"""What a training ran on: told once with its run. No credential, no host and no path is in it."""

import os
import platform
import sys
from importlib.metadata import distributions


def environment() -> dict[str, object]:
    """Versions of Python, the system and every installed package. Takes some tens of milliseconds."""
    packages = {
        distribution.metadata["Name"]: distribution.version
        for distribution in distributions()
        if distribution.metadata["Name"]
    }
    return {
        "python": sys.version.split()[0],
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }
