"""Which studies are for us, on which phase, to which destinations: a site's rules.

A TOML file; the first rule that matches decides:

    unmatched = "ignore"                 # or "take", the default

    [[rule]]
    name = "phantoms and QA"
    exclude = true
    match = { PatientID = "^(QA|PHANTOM)" }

    [[rule]]
    name = "breast, centre A"
    from = ["MR1", "MR2"]                # calling AE titles
    match = { StudyDescription = "breast|mamma", MagneticFieldStrength = { min = 1.4 } }
    unless = { SeriesDescription = "biopsy" }
    phase = "post-2"
    destinations = ["RESEARCH@10.0.0.9:104"]

A rule matches a study when all of `match` holds for the header of one of its images,
and `unless` for none. A text is a regular expression that is searched for, upper and
lower case alike; several values of an attribute are joined by a backslash.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from dicom_node.destination import Destination, parse_destination
from dicom_node.errors import SettingsError
from dicom_node.silence import silence
from dicom_node.study import Reason

MAX_PATTERN: Final = 500
MAX_VALUE: Final = 2_000
"""Characters of a value that a pattern is searched in; a header may hold megabytes."""


PATTERN: Final = "pattern"
SPAN: Final = "span"
INSIDE: Final = frozenset({PATTERN, SPAN, "[key]"})
"""Steps of a place that stand in no file."""
CONDITIONS: Final = frozenset({"match", "unless"})
WANTED: Final = {
    "unmatched": '"take" or "ignore"',
    "rule": "each rule under a line [[rule]]",
    "name": "a text of 1 to 64 characters",
    "from": 'a list of AE titles, as ["MR1", "MR2"]',
    "match": 'a table of conditions, as { StudyDescription = "breast" }',
    "unless": 'a table of conditions, as { PatientID = "^QA" }',
    "exclude": "true or false",
    "phase": '"pre", "post-1", "post-2" ...',
    "destinations": 'a list, as ["RESEARCH@10.0.0.9:104"]',
    "min": "a number",
    "max": "a number",
}
"""What a person should write in each field."""
NOT_RIGHT: Final = "is not what it should be"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _pattern(text: str) -> str:
    if len(text) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN} characters")
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


def _keyword(text: str) -> str:
    if tag_for_keyword(text) is None:
        raise ValueError(f"{text!r} is no keyword of a DICOM attribute, as PatientID")
    return text


def _destination(text: str) -> str:
    parse_destination(text)
    return text


class Span(_Strict):
    """Numbers from `min` to `max`, both included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


def _form(value: object) -> str | None:
    """Tell the two forms of a condition apart, so that one is judged, not both."""
    if isinstance(value, str):
        return PATTERN
    return SPAN if isinstance(value, dict | Span) else None


Condition = Annotated[
    Annotated[str, AfterValidator(_pattern), Tag(PATTERN)] | Annotated[Span, Tag(SPAN)],
    Discriminator(_form),
]
Conditions = dict[Annotated[str, AfterValidator(_keyword)], Condition]


class Rule(_Strict):
    """One rule; without conditions it matches every study of its senders."""

    name: str = Field(min_length=1, max_length=64)
    senders: tuple[str, ...] = Field(default=(), alias="from")
    match: Conditions = Field(default_factory=dict)
    unless: Conditions = Field(default_factory=dict)
    exclude: bool = False
    phase: str | None = Field(default=None, pattern=r"^(pre|post-[1-9][0-9]?)$")
    destinations: tuple[Annotated[str, AfterValidator(_destination)], ...] | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.exclude and (self.phase or self.destinations is not None):
            raise ValueError("an excluded study has neither phase nor destinations")
        return self


class RoutingRules(_Strict):
    """The rules of a site, in their order."""

    unmatched: Literal["take", "ignore"] = "take"
    rule: tuple[Rule, ...] = ()

    @property
    def others(self) -> str:
        """What studies are that no rule matches, in a word."""
        return "taken" if self.unmatched == "take" else "ignored"

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [one.name for one in self.rule]
        double = next((one for one in names if names.count(one) > 1), None)
        if double is not None:
            raise ValueError(f"two rules have one name, {double!r}: give each its own")
        return self


@dataclass(frozen=True, slots=True)
class Routing:
    """What the rules say of a study; `rule` is None where none matched.

    `phase` and `destinations` are None where the rules leave them as they are.
    """

    rule: str | None
    ignored: Reason | None = None
    phase: str | None = None
    destinations: tuple[Destination, ...] | None = None

    @property
    def why(self) -> str:
        """One sentence for the study's history."""
        if self.ignored is Reason.NO_RULE:
            return "No routing rule matches it, and such studies are ignored here."
        if self.ignored is not None:
            return f"Routing rule {self.rule!r} excludes it."
        return f"Routing rule {self.rule!r}." if self.rule else "No routing rule."


EVERYTHING: Final = Routing(None)


def parse(path: Path) -> RoutingRules:
    """Read a file of rules.

    Raises:
        SettingsError: It cannot be read, or is not what it should be; the message
            names every fault.
    """
    given: dict[str, Any] = {}
    try:
        given = tomllib.loads(path.read_text("utf-8"))
        return RoutingRules.model_validate(given)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=True)
        raise SettingsError(f"{path}: {_sentences(faults, given)}") from None


def _sentences(faults: Sequence[Any], given: Mapping[str, Any]) -> str:
    """Say of each faulty place once what to write there."""
    said = (f"{_where(one['loc'], given)} {_what(one)}".strip() for one in faults)
    return "; ".join(dict.fromkeys(said))


def _where(location: Sequence[int | str], given: Mapping[str, Any]) -> str:
    """Name a place as its writer would: the rule by its name, then the fields."""
    if len(location) < 2 or location[0] != "rule":  # noqa: PLR2004 - a rule and its number
        return f"{location[0]}:" if location else ""
    number = int(location[1])
    written = given["rule"][number]
    name = written.get("name") if isinstance(written, Mapping) else None
    rule = f"rule {name!r}" if isinstance(name, str) and name else f"rule {number + 1}"
    inner = [one for one in location[2:] if one not in INSIDE]
    fields = [f"value {one + 1}" if isinstance(one, int) else one for one in inner]
    return f"{rule}, {', '.join(fields)}:" if fields else f"{rule}:"


def _what(fault: Mapping[str, Any]) -> str:
    place = fault["loc"]
    match fault["type"]:
        case "value_error":
            return str(fault["ctx"]["error"])
        case "missing":
            said, wanted = "is missing", WANTED["name"]
        case "extra_forbidden":
            said, wanted = "is not known", f"one of {', '.join(_known(place))}"
        case "union_tag_not_found":
            said, wanted = NOT_RIGHT, "a text, or { min = 1, max = 2 }"
        case _:
            field = next((one for one in reversed(place) if one in WANTED), "rule")
            said, wanted = NOT_RIGHT, WANTED[field]
    return f"{said}: write {wanted}"


def _known(location: Sequence[int | str]) -> list[str]:
    kind: type[BaseModel] = RoutingRules
    if location[0] == "rule":
        kind = Span if set(location) & CONDITIONS else Rule
    return [field.alias or name for name, field in kind.model_fields.items()]


def route(rules: RoutingRules, calling_ae: str, headers: Sequence[Dataset]) -> Routing:
    """Say what the rules make of a study.

    Args:
        rules: The site's.
        calling_ae: Who sent its first object.
        headers: Of one image of each of its series at least.
    """
    for rule in rules.rule:
        with silence():  # a faulty value would be quoted in a warning
            matches = _matches(rule, calling_ae, headers)
        if matches:
            destinations = rule.destinations
            return Routing(
                rule.name,
                Reason.EXCLUDED_BY_RULE if rule.exclude else None,
                rule.phase,
                None
                if destinations is None
                else tuple(parse_destination(one) for one in destinations),
            )
    return Routing(None, Reason.NO_RULE if rules.unmatched == "ignore" else None)


def _matches(rule: Rule, calling_ae: str, headers: Sequence[Dataset]) -> bool:
    if rule.senders and calling_ae not in rule.senders:
        return False
    if rule.unless and any(_holds(rule.unless, one) for one in headers):
        return False
    return not rule.match or any(_holds(rule.match, one) for one in headers)


def _holds(conditions: Mapping[str, Condition], header: Dataset) -> bool:
    return all(
        _is_met(condition, header.get(keyword))
        for keyword, condition in conditions.items()
    )


def _is_met(condition: Condition, value: Any) -> bool:  # noqa: ANN401 - a value of any representation
    several = value is not None and not isinstance(value, str | bytes)
    values = list(value) if several and hasattr(value, "__iter__") else [value]
    if isinstance(condition, str):
        text = "\\".join("" if one is None else str(one) for one in values)
        found = re.search(condition, text[:MAX_VALUE], re.IGNORECASE)
        return bool(text) and found is not None
    return any(_lies_in(condition, one) for one in values)


def _lies_in(span: Span, value: object) -> bool:
    try:
        number = float(str(value))
    except ValueError:
        return False
    low = span.min is None or number >= span.min
    return low and (span.max is None or number <= span.max)
