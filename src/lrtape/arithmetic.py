"""Arithmetic that is written as a text, ``0.95 ** epoch``, computed without running any code of it.

Known are numbers, the variables that the caller gives, ``pi``, the operators ``+ - * / // % **``, comparisons, ``and``,
``or``, ``not``, ``a if b else c``, and the functions ``abs ceil cos exp floor log max min sin sqrt``. Every number is a
float, so that each operation takes the same short time: ``9 ** 9 ** 9`` overflows at once.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

from lrtape.errors import ConfigError

MAX_CHARACTERS = 1000
MAX_DEPTH = 50
"""Of operators and calls within one another."""

_Operation = Callable[..., float]

_BINARY: dict[type[ast.operator], _Operation] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], _Operation] = {ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Not: operator.not_}
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, tuple[_Operation, range]] = {
    "abs": (abs, range(1, 2)),
    "ceil": (math.ceil, range(1, 2)),
    "cos": (math.cos, range(1, 2)),
    "exp": (math.exp, range(1, 2)),
    "floor": (math.floor, range(1, 2)),
    "log": (math.log, range(1, 3)),
    "max": (max, range(2, MAX_CHARACTERS)),
    "min": (min, range(2, MAX_CHARACTERS)),
    "sin": (math.sin, range(1, 2)),
    "sqrt": (math.sqrt, range(1, 2)),
}
"""Each with the numbers of arguments that it takes."""


def evaluate(text: str, variables: Mapping[str, float]) -> float:
    """Compute `text`.

    >>> evaluate("0.5 ** (epoch // 10)", {"epoch": 25})
    0.25
    >>> evaluate("min(1, (epoch + 1) / 4) if epoch < n / 2 else cos(pi)", {"epoch": 0, "n": 10})
    0.25

    Args:
        text: the arithmetic.
        variables: what it may name, beside ``pi``.

    Returns:
        A finite number; what a comparison gives is 1 or 0.

    Raises:
        ValueError: it is not arithmetic, or has no finite value; the text says why.
    """
    tree = parse(text, frozenset(variables))
    try:
        value = _value(tree, variables)
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{text!r} has no value: {error}") from error
    if not math.isfinite(value):
        raise ValueError(f"{text!r} has no finite value: it is {value}")
    return value


@lru_cache(maxsize=256)
def parse(text: str, names: frozenset[str]) -> ast.expr:
    """See that `text` is arithmetic of the variables called `names`.

    Raises:
        ValueError: it is not.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, of at most {MAX_CHARACTERS}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _check(tree, names, 0)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not written correctly: {error.msg}") from error
    except (MemoryError, RecursionError) as error:  # from Python's parser, which has a depth of its own
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from error
    return tree


def _check(node: ast.expr, names: frozenset[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    parts: list[ast.expr]
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            parts = []
        case ast.Name(id=name):
            if name not in names and name != "pi":
                raise ValueError(f"{name!r} is none of the names {', '.join(sorted(names | {'pi'}))}")
            parts = []
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            parts = [left, right]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            parts = [operand]
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
            parts = [left, *others]
        case ast.BoolOp(values=parts):
            pass
        case ast.IfExp(test=test, body=body, orelse=orelse):
            parts = [test, body, orelse]
        case ast.Call(func=ast.Name(id=function), args=parts, keywords=[]):
            if function not in _FUNCTIONS:
                raise ValueError(f"{function!r} is none of the functions {', '.join(_FUNCTIONS)}")
            if len(parts) not in _FUNCTIONS[function][1]:
                raise ValueError(f"{function!r} does not take {len(parts)} arguments")
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not arithmetic")
    for part in parts:
        _check(part, names, depth + 1)


def _value(node: ast.expr, variables: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]  # `_check` has seen that it is a number
        case ast.Name(id=name):
            return float(variables[name]) if name in variables else math.pi
        case ast.BinOp(left=left, op=op, right=right):
            return _real(_BINARY[type(op)](_value(left, variables), _value(right, variables)))
        case ast.UnaryOp(op=sign, operand=operand):
            return float(_UNARY[type(sign)](_value(operand, variables)))
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(part, variables) for part in (left, *others)]
            pairs = zip(ops, values[:-1], values[1:], strict=True)
            return float(all(_COMPARISONS[type(op)](one, other) for op, one, other in pairs))
        case ast.BoolOp(op=ast.And(), values=parts):
            return float(all(_value(part, variables) for part in parts))
        case ast.BoolOp(values=parts):
            return float(any(_value(part, variables) for part in parts))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _value(body if _value(test, variables) else orelse, variables)
        case ast.Call(func=ast.Name(id=function), args=parts):
            return float(_FUNCTIONS[function][0](*(_value(part, variables) for part in parts)))
    raise AssertionError(node)


def _real(value: float) -> float:
    # (-8.0) ** 0.5 is complex in Python.
    if isinstance(value, complex):
        raise ValueError("a fraction of a negative number's power")
    return value


class Formula:
    """A function that is written as arithmetic.

    Its attributes are plain values, which torch keeps in the state of a scheduler: it loads with ``weights_only=True``.

    >>> Formula("lr_lambda", "epoch", "0.5 ** epoch", n=None)(3)
    0.125

    Args:
        argument: of the scheduler, for errors.
        variable: the name of the function's only argument.
        text: the arithmetic; see this module.
        n: what ``n`` is in it, or ``None``.

    Raises:
        ConfigError: it is not arithmetic; when called, it has no finite value.
    """

    def __init__(self, argument: str, variable: str, text: str, n: int | None) -> None:
        self.argument = argument
        self.variable = variable
        self.text = text
        self.n = n
        try:
            parse(text, frozenset(self._variables(0)))
        except ValueError as error:
            raise ConfigError(
                f"`scheduler.{argument}` must be arithmetic of {' and '.join(self._variables(0))}, as '0.95 ** "
                f"{variable}', but is {text!r} instead: {error}. A function of yours is given as {{_target_: "
                "hydra.utils.get_method, path: my_module.my_function}."
            ) from error

    def __call__(self, value: float) -> float:
        """Compute it."""
        try:
            return evaluate(self.text, self._variables(value))
        except ValueError as error:
            raise ConfigError(
                f"`scheduler.{self.argument}` must be a number for every {self.variable} of the run, but at "
                f"{self.variable}={value} {error}. Change it, as with max(..., 1) or `a if ... else b`."
            ) from error

    def _variables(self, value: float) -> dict[str, float]:
        return {self.variable: value} if self.n is None else {self.variable: value, "n": self.n}
