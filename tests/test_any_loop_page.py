import re
from pathlib import Path

import mlflow
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "any_loop.md"


@pytest.mark.filterwarnings("ignore")
def test_the_code_of_the_page_runs(store: str) -> None:
    """Every block of ``docs/any_loop.md``, in order, as one program; what it claims about the tape is true."""
    mlflow.set_tracking_uri(store)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)

    assert len(blocks) == 5
    exec("\n".join(blocks), {"__name__": "any_loop"})
