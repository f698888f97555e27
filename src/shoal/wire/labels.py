"""Conditions on node labels as they go over the wire: {label: [operator, values]}.

`label_selector` spells them as strings, "v", "!v", "in(a, b)" and "!in(a, b)"; `parse` reads those. A node has its
operator's labels and its id, under two names (`NODE_ID_LABELS`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

IN, NOT_IN, EXISTS, NOT_EXISTS = "in", "!in", "exists", "!exists"
OPERATORS = (IN, NOT_IN, EXISTS, NOT_EXISTS)
NODE_ID_LABELS = ("shoal.io/node-id", "ray.io/node-id")
Conditions = dict[str, list[Any]]

_SELECTOR = re.compile(r"\s*(?P<no>!?)\s*(?:in\s*\((?P<list>[^()]*)\)|(?P<one>[^!,()\s][^!,()]*))\s*")


def parse(selector: Mapping[str, str]) -> Conditions:
    """The conditions that a `label_selector` spells; raises ValueError for one that makes no sense."""
    found: Conditions = {}
    for key, text in selector.items():
        match = _SELECTOR.fullmatch(text)
        if match is None:
            raise ValueError(
                f'label_selector[{key!r}] = {text!r} makes no sense: it may be "v", "!v", "in(a, b)" or "!in(a, b)"'
            )
        listed = match["list"]
        values = [match["one"]] if listed is None else listed.split(",")
        values = [value.strip() for value in values]
        if not all(values):
            raise ValueError(f"label_selector[{key!r}] = {text!r} has an empty value")
        found[key] = [NOT_IN if match["no"] else IN, values]
    return found


def labels_of(node_id: str) -> dict[str, str]:
    """The labels that a node has by itself."""
    return dict.fromkeys(NODE_ID_LABELS, node_id)


def matches(labels: Mapping[str, str], conditions: Iterable[tuple[str, list[Any]]]) -> bool:
    """Whether ``labels`` meet all of these."""
    for key, (op, values) in conditions:
        value = labels.get(key)
        if op == IN:
            if value not in values:
                return False
        elif op == NOT_IN:
            if value is not None and value in values:
                return False
        elif (op == EXISTS) != (value is not None):
            return False
    return True


def describe(conditions: Iterable[tuple[str, list[Any]]]) -> str:
    """For people: "zone in (a, b), disk exists"."""
    words = {IN: "in", NOT_IN: "not in", EXISTS: "exists", NOT_EXISTS: "does not exist"}
    parts = []
    for key, (op, values) in conditions:
        listed = f" ({', '.join(map(str, values))})" if op in (IN, NOT_IN) else ""
        parts.append(f"{key} {words[op]}{listed}")
    return ", ".join(parts)
