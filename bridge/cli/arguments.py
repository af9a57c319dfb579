"""Input tensors on the command line: ``NAME:SHAPE[:DTYPE]``, such as ``x:1x3x224x224`` or ``ids:batch,128:int64``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.errors import SpecError

_FORM = "write NAME:SHAPE or NAME:SHAPE:DTYPE, such as x:1x3x224x224 or ids:batch,128:int64"


@dataclass
class Described:
    """One input as the options describe it; its settings are those of `bridge.Input`."""

    name: str | None
    settings: dict[str, Any] = field(default_factory=dict)


def described(
    inputs: Sequence[str],
    minima: Sequence[str] = (),
    optima: Sequence[str] = (),
    maxima: Sequence[str] = (),
    dtypes: Sequence[str] = (),
) -> list[Described]:
    """The inputs that the options describe, in the order of their first mention."""
    found: list[Described] = []
    for option, field_name, texts in (
        ("--input", "shape", inputs),
        ("--min", "min_shape", minima),
        ("--opt", "opt_shape", optima),
        ("--max", "max_shape", maxima),
    ):
        for index, text in enumerate(texts):
            name, shape, dtype = parsed(option, text)
            one = _of_name(found, name, index)
            if field_name in one.settings:
                raise SpecError(f"{option} {text}: given twice for {name or f'input {index}'}")
            one.settings[field_name] = shape
            if dtype:
                one.settings["dtype"] = dtype
    _set_dtypes(found, dtypes)
    return found


def parsed(option: str, text: str) -> tuple[str | None, tuple[int | str, ...], str | None]:
    """(name, shape, dtype) of one option's value."""
    parts = text.split(":")
    unnamed = len(parts) == 1 or bool(re.match(r"-?\d", parts[0]))
    name = None if unnamed else parts.pop(0)
    if name == "" or not 1 <= len(parts) <= 2:
        raise SpecError(f"{option} {text}: not understood", hint=_FORM)
    return name, shape_of(option, parts[0], text), parts[1] if len(parts) == 2 else None


def shape_of(option: str, text: str, whole: str) -> tuple[int | str, ...]:
    """The sizes and names in "1x3x224x224" or "batch,3,224,224"; () for the empty text, a single number."""
    words = text.split(",") if "," in text else re.split(r"(?<=\d)x|x(?=-?\d)", text)
    words = [word.strip() for word in words] if text else []
    for word in words:
        if not re.fullmatch(r"-?\d+|[A-Za-z_]\w*", word):
            raise SpecError(f"{option} {whole}: {word!r} is neither a size nor a dimension's name", hint=_FORM)
    return tuple(int(word) if re.fullmatch(r"-?\d+", word) else word for word in words)


def _of_name(found: list[Described], name: str | None, index: int) -> Described:
    """The input of that name, or without names the one in that place; made when it is new."""
    if name is None and index < len(found):
        return found[index]
    for one in found:
        if name is not None and one.name == name:
            return one
    found.append(Described(name))
    return found[-1]


def _set_dtypes(found: list[Described], dtypes: Sequence[str]) -> None:
    for text in dtypes:
        name, _, dtype = text.rpartition(":")
        chosen = [one for one in found if one.name == name] if name else found
        if not chosen:
            known = ", ".join(one.name for one in found if one.name)
            raise SpecError(f"--dtype {text}: there is no input {name!r}", hint=f"the inputs: {known or 'none'}")
        for one in chosen:
            one.settings["dtype"] = dtype


def spec_inputs(found: Iterable[Described], argument_names: Sequence[str]) -> dict[str, Any]:
    """A CompileSpec's ``inputs`` and ``kwarg_inputs``: by name where the names are its arguments', else by place."""
    from bridge.spec import Input

    made = [(one.name, Input.at(f"input {one.name or index}", **one.settings)) for index, one in enumerate(found)]
    if not made:
        return {}
    known = [name for name, _ in made if name in argument_names]
    strange = [name for name, _ in made if name is not None and name not in argument_names]
    if known and strange:
        hint = f"the arguments: {', '.join(argument_names)}"
        raise SpecError(f"--input {strange[0]}: the module has no such argument", hint=hint)
    if len(known) < len(made):
        return {"inputs": [Input.at("input", **_fields(one), name=name) for name, one in made]}
    by_name = {str(name): one for name, one in made}
    placed: list[Input] = []
    for name in argument_names:
        if name not in by_name:
            break
        placed.append(by_name.pop(name))
    return {"inputs": placed, "kwarg_inputs": by_name}


def _fields(given: Any) -> dict[str, Any]:
    return {name: getattr(given, name) for name in given.__slots__ if name != "name"}
