import doctest
import math
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrtape.arithmetic
from lrtape.arithmetic import MAX_CHARACTERS, MAX_DEPTH, evaluate, parse

PYTHON: dict[str, Callable[[float, float], float]] = {
    "0.95 ** epoch": lambda epoch, n: 0.95**epoch,
    "1 - epoch / n": lambda epoch, n: 1 - epoch / n,
    "(1 + cos(pi * epoch / n)) / 2": lambda epoch, n: (1 + math.cos(math.pi * epoch / n)) / 2,
    "min(1, (epoch + 1) / 10, 2)": lambda epoch, n: min(1, (epoch + 1) / 10, 2),
    "max(1 - epoch / 30, 0.01)": lambda epoch, n: max(1 - epoch / 30, 0.01),
    "0.1 if epoch < 5 else 1 if epoch < n / 2 else 0.01": lambda epoch, n: (
        0.1 if epoch < 5 else 1 if epoch < n / 2 else 0.01
    ),
    "1 / sqrt(epoch + 1)": lambda epoch, n: 1 / math.sqrt(epoch + 1),
    "exp(-0.1 * epoch) + log(n) - log(n, 2)": lambda epoch, n: math.exp(-0.1 * epoch) + math.log(n) - math.log(n, 2),
    "0.5 ** (epoch // 10) * (1 + epoch % 3)": lambda epoch, n: 0.5 ** (epoch // 10) * (1 + epoch % 3),
    "(5 <= epoch < 10) + 0.5 * (epoch == 7 or not epoch != 3)": lambda epoch, n: (
        (5 <= epoch < 10) + 0.5 * (epoch in (3, 7))
    ),
    "1 if epoch > 2 and epoch >= 4 and epoch <= 40 else 0": lambda epoch, n: float(4 <= epoch <= 40),
    "abs(sin(epoch)) + floor(epoch / 3) - ceil(epoch / 3) - -epoch + +1": lambda epoch, n: (
        abs(math.sin(epoch)) + math.floor(epoch / 3) - math.ceil(epoch / 3) + epoch + 1
    ),
}


@pytest.mark.parametrize("text", PYTHON)
def test_the_value_is_pythons_own(text: str) -> None:
    """Operators bind, and functions are, as in Python, at every step of a run."""
    for epoch in range(50):
        assert evaluate(text, {"epoch": epoch, "n": 50}) == pytest.approx(PYTHON[text](epoch, 50), rel=1e-15)


NOT_ARITHMETIC = {
    "": "is not written correctly",
    "1 +": "is not written correctly",
    "epoch epoch": "is not written correctly",
    "epoch = 3": "is not written correctly",
    "import os": "is not written correctly",
    "__import__('os')": "'__import__' is none of the functions abs, ceil, cos",
    "eval('1')": "'eval' is none of the functions",
    "epochs / 2": "'epochs' is none of the names epoch, n, pi",
    "epoch.real": "'epoch.real' is not arithmetic",
    "().__class__": "is not arithmetic",
    "min.__self__": "is not arithmetic",
    "(lambda: 1)()": "is not arithmetic",
    "[1, 2][0]": "is not arithmetic",
    "'a' * 3": "\"'a'\" is not arithmetic",
    "True": "'True' is not arithmetic",
    "1j": "'1j' is not arithmetic",
    "epoch << 3": "is not arithmetic",
    "epoch is 3": "is not arithmetic",
    "f'{epoch}'": "is not arithmetic",
    "(epoch := 3)": "is not arithmetic",
    "[e for e in (1, 2)]": "is not arithmetic",
    "max(*[1, 2], 3)": "is not arithmetic",
    "max(1, 2, key=abs)": "is not arithmetic",
    "min(epoch)": "'min' does not take 1 arguments",
    "sqrt(1, 2)": "'sqrt' does not take 2 arguments",
    "log()": "'log' does not take 0 arguments",
    "min": "'min' is none of the names",
    "1\0": "not",
}


@pytest.mark.parametrize(("text", "said"), NOT_ARITHMETIC.items(), ids=repr)
def test_what_is_not_arithmetic_is_refused(text: str, said: str) -> None:
    """Nothing else of Python is known, and the text says which part is not."""
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the text is looked at
        parse(text, frozenset({"epoch", "n"}))
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / (epoch - 3)", "division by zero"),
        ("log(epoch - 3)", "math domain error"),
        ("sqrt(-epoch)", "math domain error"),
        ("(-epoch) ** 0.5", "a fraction of a negative number's power"),
        ("exp(epoch * 1000)", "math range error"),
        ("1e308 * 10", "it is inf"),
        ("1e308 * 10 - 1e308 * 10", "it is nan"),
        ("0 ** -1", "0.0 cannot be raised to a negative power"),
        ("floor(1e308 * 10)", "cannot convert float infinity to integer"),
    ],
)
def test_what_has_no_finite_value_is_refused(text: str, said: str) -> None:
    """A pole, a complex number, infinity and NaN are no learning rate."""
    with pytest.raises(ValueError, match=r"has no (finite )?value") as refusal:
        evaluate(text, {"epoch": 3})
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9**9**9**9",
        "-9**9**9",
        "10**10**10 % 7",
        "(" * 80 + "1" + ")" * 80 + "**" * 20 + "2",
        "-" * 900 + "1",
        "(" * 900,
        "1" + "+1" * 400,
        "1" * 2000,
        "9" * 999 + "**" + "9" * 999,
    ],
    ids=range(10),
)
def test_nothing_hangs(text: str) -> None:
    """Every number is a float and every text is short: what would take Python for ever is refused at once."""
    begin = time.process_time()
    with pytest.raises(ValueError):  # noqa: PT011 - it is refused for one reason or another
        evaluate(text, {})
    assert time.process_time() - begin < 1


def test_the_depth_and_the_length_that_are_allowed_work() -> None:
    """Up to the limits it is computed; one more is refused."""
    assert evaluate("-" * MAX_DEPTH + "1", {}) == 1
    assert evaluate("1" + " " * (MAX_CHARACTERS - 1), {}) == 1
    with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} deep"):
        evaluate("-" * (MAX_DEPTH + 1) + "1", {})
    with pytest.raises(ValueError, match=f"of at most {MAX_CHARACTERS}"):
        evaluate("1" + " " * MAX_CHARACTERS, {})


@given(st.text(alphabet="0123456789.epochn+-*/%()<>=, ifelsandotrqmx_[]'\"", max_size=40))
def test_any_text_is_a_finite_number_or_refused(text: str) -> None:
    """Nothing but a float or a `ValueError` ever comes out."""
    try:
        value = evaluate(text, {"epoch": 3, "n": 10})
    except ValueError:
        return
    assert isinstance(value, float)
    assert math.isfinite(value)


def test_the_examples_are_right() -> None:
    """Every example in a docstring gives what it says."""
    results = doctest.testmod(lrtape.arithmetic)

    assert results.attempted > 0
    assert results.failed == 0
