import subprocess
import sys

SCRIPT = """
import atexit, gc
from lrtape.quick_exit import exit_quickly

class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        print("collected, frozen before:", gc.get_freeze_count())

atexit.register(lambda: print("frozen at last:", gc.get_freeze_count() > 0))
exit_quickly()
exit_quickly()
Cycle()
atexit.register(print, "told first")
"""


def test_garbage_is_collected_once_more_and_the_rest_is_left_alone() -> None:
    """After what was registered later, and before what was registered earlier."""
    out = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout

    assert out.splitlines() == ["told first", "collected, frozen before: 0", "frozen at last: True"]
