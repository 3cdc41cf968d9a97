"""Conditions on columns of a corpus's index, as people write them: `motion > 2 and level_db >= -40`."""

import ast
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.index import MEASURES
from shards.errors import ConfigError

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.In: lambda a, b: a.isin(b),
    ast.NotIn: lambda a, b: ~a.isin(b),
}


class Condition:
    """A condition on rows of an index. columns: those that it reads.

    It consists of names of columns, numbers, texts in quotes, lists of them, comparisons, `in`, `and`, `or`, `not` and
    parentheses. Nothing of it is executed as Python.

    Raises:
        ConfigError: it contains something else; the text says what.
    """

    def __init__(self, text: str) -> None:
        self.text, self.columns = text, list[str]()
        try:
            self._expression = self._of(ast.parse(text.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(f"--where {text!r} cannot be read: {getattr(error, 'msg', error)}. {_EXAMPLE}") from None
        if not self.columns:
            raise ConfigError(f"--where {text!r} names no column of the index. {_EXAMPLE}")

    def check(self, names: Sequence[str]) -> None:
        """Raise ConfigError if a column is not among these names."""
        for name in self.columns:
            if name not in names:
                raise ConfigError(f"--where: the index has no column {name!r}. It has: {', '.join(names)}.")

    def holds(self, table: pa.Table) -> pa.Array:
        """Return for which rows the condition holds, bool [rows]. A comparison with a missing value holds neither
        itself nor negated; a missing value is in no list.

        Raises:
            ConfigError: a column is missing, was not measured for all clips, or has another type than what it is
                compared with.
        """
        self.check(table.column_names)
        for name in self.columns:
            if name in MEASURES.names and (lacking := table[name].null_count):
                raise ConfigError(
                    f"--where: {name} of {lacking} of {len(table)} clips was not measured: they lack the modality, or "
                    "an earlier version cut them. In the second case: xdc stage shard RUN --force"
                )
        try:
            marked = table.append_column("__row", pa.array(range(len(table)), pa.int64()))
            rows = marked.filter(self._expression)["__row"]
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"--where {self.text!r} does not fit the index's columns: {error}") from None
        return pc.is_in(marked["__row"], rows.combine_chunks())

    def _of(self, node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op=operator, values=values):
                parts = [self._of(value) for value in values]
                joined = parts[0]
                for part in parts[1:]:
                    joined = joined & part if isinstance(operator, ast.And) else joined | part
                return joined
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self._of(operand)
            case ast.Compare(left=left, ops=operators, comparators=others):
                values = [left, *others]
                joined = None
                for first, compared, second in zip(values, operators, others, strict=False):
                    part = self._compared(node, first, type(compared), second)
                    joined = part if joined is None else joined & part
                return joined
        raise self._error(node)

    def _compared(self, node: ast.expr, first: ast.expr, compared: type[ast.cmpop], second: ast.expr) -> Any:
        if compared not in _COMPARISONS:
            raise self._error(node)
        if not isinstance(first, ast.Name) and not isinstance(second, ast.Name):
            raise self._error(node, "is not a comparison of a column")
        if compared in (ast.In, ast.NotIn):
            if not isinstance(first, ast.Name) or not isinstance(second, ast.List | ast.Tuple):
                raise self._error(node, "is not `column in [value, ...]`")
            return _COMPARISONS[compared](self._value(first), self._values(second))
        return _COMPARISONS[compared](self._value(first), self._value(second))

    def _values(self, node: ast.List | ast.Tuple) -> list[Any]:
        """Return the values of a list: numbers, or texts."""
        values = [self._value(item) for item in node.elts if not isinstance(item, ast.Name)]
        texts = sum(isinstance(value, str) for value in values)
        if not values or len(values) < len(node.elts) or texts not in (0, len(values)):
            raise self._error(node, "is not a list of numbers or of texts")
        return values

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name):
                self.columns.append(name)
                return pc.field(name)
            case ast.Constant(value=bool()):
                raise self._error(node, "is neither a number nor a text")
            case ast.Constant(value=int() | float() | str() as value):
                return self._checked(node, value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -self._checked(node, value)
        raise self._error(node, "is not a column, a number or a text")

    def _checked(self, node: ast.expr, value: Any) -> Any:
        if isinstance(value, int) and value >= 1 << 63:
            raise self._error(node, "is too large for a column of the index")
        return value

    def _error(self, node: ast.AST, what: str = "is not a comparison") -> ConfigError:
        return ConfigError(f"--where {self.text!r}: {ast.unparse(node)!r} {what}. {_EXAMPLE}")


_EXAMPLE = "An example: \"motion > 2 and (level_db >= -40 or label in ['dog', 'cat'])\"."
