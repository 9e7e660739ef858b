"""Which nodes the user wants left in float: by name, by operator type or by regular expression."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from calibration.graph import FloatGraph
from targets.errors import ConfigError


@dataclass(frozen=True)
class Ignore:
    """Rules that have been checked against a model.

    Args:
        exact: node names and operator types.
        patterns: regular expressions over whole node names.
    """

    exact: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    @classmethod
    def parse(cls, rules: Iterable[str], graph: FloatGraph) -> Ignore:
        """Check rules against a model.

        Raises:
            ConfigError: a rule is not a regular expression or fits no node.
        """
        known = {word for node in graph.nodes for word in (node.name, node.op_type)}
        rules = tuple(rules)
        patterns = tuple(_compile(rule, known) for rule in rules if rule not in known)
        return cls(frozenset(known.intersection(rules)), patterns)

    def rule(self, node: onnx.NodeProto) -> str:
        """Return a rule that fits the node, "" when none does."""
        for word in (node.name, node.op_type):
            if word in self.exact:
                return word
        return next((item.pattern for item in self.patterns if item.fullmatch(node.name)), "")


def _compile(rule: str, known: set[str]) -> re.Pattern[str]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ConfigError(
            f"ignore rule {rule!r} is no regular expression and no node's name: {error}",
            mend="correct or escape it",
        ) from error
    if not any(pattern.fullmatch(word) for word in known):
        raise ConfigError(
            f"ignore rule {rule!r} fits no node of the model",
            mend="give a node's name, an operator type, or a regular expression over whole node names",
        )
    return pattern
