# SPDX-License-Identifier: Apache-2.0
"""The data contract of a stream: what its records must look like, and what is made of them.

A record goes through fixed steps: trim, map, cast, unit, default, clip, derive; then it is checked;
then personal data is hashed or dropped. docs/application.md says what each does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from headrace.definition_types import Closed, ColumnName, Name, Span
from headrace.errors import Invalid
from headrace.expression import ColumnType, Expression, parse_expression
from headrace.units import conversion

NUMBERS = ("int64", "float64")
RESERVED_FIELDS = range(19_000, 20_000)
Value = StrictBool | StrictInt | StrictFloat | StrictStr
_PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "int64": (int,),
    "float64": (int, float),
    "bool": (bool,),
}


class Pii(Closed):
    """What a column says about a person, and what is stored of it.

    `hash`: HMAC-SHA256 of the text under ingest's own key, as 64 hexadecimal digits; `drop`: null.
    """

    category: Literal["identity", "contact", "location", "financial", "health", "other"]
    treatment: Literal["keep", "hash", "drop"]


class Column(Closed):
    """One column of a data contract."""

    type: ColumnType
    required: bool = False
    unit: str | None = None
    unit_from: str | None = None
    description: str | None = None
    min: float | None = None
    max: float | None = None
    one_of: tuple[str, ...] | None = Field(default=None, min_length=1)
    trim: bool = False
    map: dict[str, int | float | str | None] | None = None
    cast: bool = False
    default: Value | None = None
    clip: bool = False
    derive: str | None = None
    pii: Pii | None = None
    field: int | None = Field(default=None, gt=0, lt=1 << 29)
    index: Literal["text"] | None = None

    @property
    def conversion(self) -> tuple[float, float] | None:
        """Factor and offset from the sent unit to the stored one; None when nothing converts."""
        return None if self.unit_from is None else conversion(self.unit_from, self.unit or "")

    @property
    def treatment(self) -> str:
        return "keep" if self.pii is None else self.pii.treatment

    @model_validator(mode="after")
    def _keys_fit(self) -> Column:
        for holds, problem in _misfits(self):
            if holds:
                raise ValueError(problem)
        if self.unit_from is not None:
            conversion(self.unit_from, self.unit or "")
        return self


def _misfits(column: Column) -> list[tuple[bool, str]]:
    """What would be accepted and never do what it says."""
    lower, upper, default = column.min, column.max, column.default
    bounded = lower is not None or upper is not None
    number = column.type in NUMBERS
    made = column.derive is not None
    return [
        (
            lower is not None and upper is not None and lower > upper,
            f"min {lower} is above max {upper}: no value is taken",
        ),
        (bounded and column.type in ("string", "bool"), "min and max are for numbers and times"),
        (column.index is not None and column.type != "string", "index: text needs a string"),
        (column.clip and not (number and bounded), "clip needs a number with min or max"),
        (column.cast and not number, "cast takes numbers sent as text: int64 or float64"),
        (column.unit_from is not None and column.type != "float64", "unit_from needs a float64"),
        (column.unit_from is not None and column.unit is None, "unit_from needs unit"),
        (default is not None and column.required, "a column with a default is never missing:"
         " take required or default away"),
        (default is not None and not _fits(column, default),
         f"default must be of type {column.type}, within min, max and one_of"),
        (column.treatment == "hash" and column.type != "string", "only texts are hashed"),
        (column.treatment == "drop" and column.required, "a dropped column cannot be required"),
        (made and (column.trim or column.cast or column.map is not None
                   or column.unit_from is not None),
         "a derived column is not sent: trim, map, cast and unit_from do not apply"),
    ]  # fmt: skip


def _wire_misfit(column: Column) -> str | None:
    """Why a column cannot be one of a Protobuf message."""
    if (column.derive is None) != (column.field is not None):
        return "field is needed, but for derived columns, which have none"
    if column.field in RESERVED_FIELDS:
        return "fields 19000 to 19999 belong to Protobuf itself"
    if column.cast:
        return "cast is for JSON: Protobuf has its types"
    mapped = [value for value in (column.map or {}).values() if value is not None]
    kind = {"string": str, "int64": int}.get(column.type)
    if mapped and not (kind and all(type(value) is kind for value in mapped)):
        return "map gives text for a string, or whole numbers for an int64, or null"
    return None


def _fits(column: Column, default: Value) -> bool:
    exact = _PYTHON_TYPES.get(column.type, ())
    if not isinstance(default, exact) or (isinstance(default, bool) and column.type != "bool"):
        return False
    if column.one_of is not None and str(default) not in column.one_of:
        return False
    lower, upper = column.min, column.max
    if isinstance(default, str) or (lower is None and upper is None):
        return True
    return (lower is None or default >= lower) and (upper is None or default <= upper)


class Stream(Closed):
    """A data contract: what the records of a stream must look like.

    Times are `timestamp` columns: int64 microseconds since the epoch, or RFC 3339 text. Without
    `known_time` a record becomes known when Kafka received it. A rule is broken by a record for
    which its expression is false.
    """

    kind: Literal["stream"] = "stream"
    name: Name
    description: str
    owner: str
    key: ColumnName
    id: ColumnName
    event_time: ColumnName
    known_time: ColumnName | None = None
    lateness_allowed_s: Span = Field(alias="lateness_allowed")
    retention_s: Span | None = Field(None, alias="retention")
    columns: dict[ColumnName, Column]
    rules: dict[ColumnName, str] = Field(default_factory=dict)
    format: Literal["json", "protobuf"] = "json"

    @property
    def types(self) -> dict[str, ColumnType]:
        """The type of each column."""
        return {name: column.type for name, column in self.columns.items()}

    @cached_property
    def derived(self) -> dict[str, Expression]:
        """The expressions of the derived columns, each after those that it reads."""
        waiting = {
            name: self._parsed(f"columns.{name}.derive", column.derive)
            for name, column in self.columns.items()
            if column.derive is not None
        }
        ordered: dict[str, Expression] = {}
        while waiting:
            ready = [name for name, each in waiting.items() if not each.columns & waiting.keys()]
            if not ready:
                raise ValueError(f"derived columns read one another: {', '.join(sorted(waiting))}")
            ordered |= {name: waiting.pop(name) for name in ready}
        return ordered

    @cached_property
    def row_rules(self) -> dict[str, Expression]:
        """The expressions of the rules, by name."""
        return {name: self._parsed(f"rules.{name}", text) for name, text in self.rules.items()}

    def _parsed(self, key: str, text: str) -> Expression:
        try:
            return parse_expression(text, self.types)
        except Invalid as err:
            told = err.metadata
            problem = f"{key}, position {told['position']}: {told['problem']}"
            raise ValueError(problem) from err

    @model_validator(mode="after")
    def _fields_fit(self) -> Stream:
        """The wire format of Protobuf needs a number for each column that is sent."""
        numbers = [column.field for column in self.columns.values() if column.field is not None]
        if self.format == "json" and numbers:
            raise ValueError("field is for format: protobuf")
        if len(set(numbers)) != len(numbers):
            raise ValueError("a field number is given twice")
        for name, column in self.columns.items():
            if self.format == "protobuf" and (problem := _wire_misfit(column)):
                raise ValueError(f"column {name}: {problem}")
        return self

    @model_validator(mode="after")
    def _roles_are_columns(self) -> Stream:
        times = [self.event_time, *([self.known_time] if self.known_time else [])]
        for role in [self.key, self.id, *times]:
            if role not in self.columns:
                raise ValueError(f"column {role} is not declared")
            if self.columns[role].treatment != "keep":
                raise ValueError(f"column {role} finds the record: publish a pseudonym instead")
        for role in times:
            if self.columns[role].type != "timestamp":
                raise ValueError(f"column {role} must be a timestamp")
        return self

    @model_validator(mode="after")
    def _expressions_fit(self) -> Stream:
        for name, expression in self.derived.items():
            wanted = self.columns[name].type
            if expression.type != wanted and (expression.type, wanted) != ("int64", "float64"):
                raise ValueError(f"columns.{name}.derive is {expression.type}, not {wanted}")
        for name, expression in self.row_rules.items():
            if expression.type != "bool":
                raise ValueError(f"rules.{name} is {expression.type}; a rule is a condition")
        return self
