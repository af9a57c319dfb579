"""What a rule asks for, as the opset of its graph spells it."""

from __future__ import annotations

from typing import Any

import numpy as np

from rewrites.errors import NewerOpset
from rewrites.schemas import added_later, formerly_attributes, same_attribute, schema_of, schema_of_newer
from rewrites.views import Value

Inputs = tuple[Any, ...]
Attributes = dict[str, Any]


def spelled(op_type: str, domain: str, opset: int, inputs: Inputs, attributes: Attributes) -> tuple[Inputs, Attributes]:
    """Inputs and attributes of a new node, given as the newest opset has them.

    Raises:
        NewerOpset: the operator, an input or an attribute came later than this opset.
    """
    inputs, attributes = _with_attributes(op_type, domain, opset, inputs, attributes)
    return inputs, _there(op_type, domain, opset, inputs, attributes)


def _with_attributes(
    op_type: str, domain: str, opset: int, inputs: Inputs, attributes: Attributes
) -> tuple[Inputs, Attributes]:
    """Inputs that were attributes at this opset, as such: axes, pads, starts ... when they are constant."""
    for position, name in formerly_attributes(op_type, domain, opset):
        if position < len(inputs) and inputs[position] is not None:
            given = inputs[position].constant if isinstance(inputs[position], Value) else inputs[position]
            if given is None:
                raise NewerOpset(f"at opset {opset} {op_type} takes {name} as a constant only")
            attributes = {**attributes, name: np.asarray(given).tolist()}
            inputs = (*inputs[:position], None, *inputs[position + 1 :])
    return inputs, attributes


def _there(op_type: str, domain: str, opset: int, inputs: Inputs, attributes: Attributes) -> Attributes:
    """The attributes without those that came later and are at their defaults.

    Raises:
        NewerOpset: the operator, an input or an attribute came later.
    """
    schema = schema_of(op_type, domain, opset)
    if schema is None:
        if schema_of_newer(op_type, domain, opset) is not None:
            raise NewerOpset(f"opset {opset} has no {op_type}")
        return attributes
    given = max((i + 1 for i, value in enumerate(inputs) if value is not None), default=0)
    if given > schema.max_input:
        raise NewerOpset(f"at opset {opset} {op_type} has {schema.max_input} inputs, not {given}")
    later = added_later(op_type, domain, opset)
    for name in later.keys() & attributes.keys():
        if attributes[name] is not None and not same_attribute(attributes[name], later[name], name):
            raise NewerOpset(f"at opset {opset} {op_type} has no {name}")
    return {name: value for name, value in attributes.items() if name not in later}
