"""Which ONNX operators run, and within which limits: tables shared by devices, and their checks.

A table is a TOML file of this folder (docs/targets.md explains every key).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Literal

from pydantic import Field

from targets.datafile import Part, read_data_file, schema_of
from targets.errors import ConfigError
from targets.violation import Violation

if TYPE_CHECKING:
    import onnx

FOLDER = Path(__file__).parent
STANDARD_DOMAINS = ("", "ai.onnx")
NAMED_NODES = 3


class Limit(Part):
    """One thing an operator must keep to; exactly one of the last five keys is given besides its operator."""

    operator: str
    mend: str
    attribute: str | None = Field(default=None, description="of the operator; at_most or one_of is about it")
    at_most: int | None = Field(default=None, description="largest value of the attribute, or any of it")
    one_of: list[int | str] | None = Field(default=None, description="values the attribute may have")
    spatial: list[int] | None = Field(default=None, description="numbers of spatial dimensions of a window")
    constant_input: int | None = Field(default=None, description="index of an input that must be constant")
    outputs: int | None = Field(default=None, description="how many outputs may be used")

    def rule(self) -> str:
        """Return what the operator must keep to, in words."""
        if self.spatial is not None:
            return f"{self.operator} has {_either(self.spatial)} spatial dimensions"
        if self.constant_input is not None:
            return f"input {self.constant_input} of {self.operator} is constant"
        if self.outputs is not None:
            return f"{self.operator} has at most {self.outputs} outputs"
        if self.one_of is not None:
            return f"{self.attribute} of {self.operator} is {_either(self.one_of)}"
        return f"{self.attribute} of {self.operator} is at most {self.at_most}"

    def broken_by(self, node: onnx.NodeProto, graph: Known) -> str | None:
        """Return what a node has instead; None when it keeps to the limit or nothing is known."""
        if self.spatial is not None:
            found = graph.spatial(node)
            return f"{found} spatial dimensions" if found and found not in self.spatial else None
        if self.constant_input is not None:
            return graph.computed_input(node, self.constant_input)
        if self.outputs is not None:
            used = [output for output in node.output if output]
            return f"{len(used)} outputs" if len(used) > self.outputs else None
        wrong = [value for value in _values(node, self.attribute) if not self._allows(value)]
        return f"{self.attribute} {wrong[0]}" if wrong else None

    def _allows(self, value: Any) -> bool:
        return value in self.one_of if self.one_of is not None else value <= self.at_most


class OperatorTable(Part):
    """All operators something runs."""

    schema_: Literal["edgewright.operators/1"] = Field(alias="schema")
    name: str
    description: str
    source: str = Field(description="where the facts are from")
    operators: list[str] = Field(min_length=1, description="ONNX operators that run")
    limits: list[Limit] = Field(default_factory=list)
    mend: dict[str, str] = Field(default_factory=dict, description="operator that does not run → what to do")


class Known:
    """What a graph says of its tensors without running anything: which are constant, and of which rank."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
        made = {node.output[0]: node.op_type for node in graph.node if node.output}
        self.constants = set(self.ranks) | {name for name, kind in made.items() if kind == "Constant"}
        self.quantized = {
            node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"
        }

    def spatial(self, node: onnx.NodeProto) -> int | None:
        """How many dimensions a window has; None when unknown."""
        for attribute in node.attribute:
            if attribute.name == "kernel_shape":
                return len(attribute.ints)
        weight = node.input[1] if len(node.input) > 1 else ""
        rank = self.ranks.get(self.quantized.get(weight, weight))
        return rank - 2 if rank else None

    def computed_input(self, node: onnx.NodeProto, index: int) -> str | None:
        """The name of an input that is computed; None when it is constant or absent."""
        name = node.input[index] if index < len(node.input) else ""
        return f"computed {name}" if name and name not in self.constants else None


def table_names() -> list[str]:
    """Return the names of the tables that come with edgewright."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@lru_cache(maxsize=None)
def load_table(name: str) -> OperatorTable:
    """Read a table by name.

    Raises:
        ConfigError: there is no such table, or its file is not valid.
    """
    if name not in table_names():
        raise ConfigError(
            f"there is no table of operators {name!r}", mend=f"use one of: {', '.join(table_names())}"
        )
    return read_data_file(FOLDER / f"{name}.toml", OperatorTable, "table of operators")


def operators_json_schema() -> dict[str, Any]:
    """Return the JSON schema of tables, published as docs/schema/operators.schema.json."""
    return schema_of(OperatorTable)


def check_operators(model: onnx.ModelProto, table: OperatorTable) -> list[Violation]:
    """List the operators a table lacks and the limits that are broken, one violation for each kind."""
    known = Known(model.graph)
    found: dict[tuple[str, str, str, str], list[onnx.NodeProto]] = {}
    for node in all_nodes(model):
        if node.op_type not in table.operators:
            mend = table.mend.get(node.op_type, "replace it in the network, or choose another toolchain")
            key = (node.op_type, f"does not run {node.op_type}", mend, "")
            found.setdefault(key, []).append(node)
        for limit in table.limits:
            broken = limit.operator == node.op_type and limit.broken_by(node, known)
            if broken:
                found.setdefault((node.op_type, limit.rule(), limit.mend, broken), []).append(node)
    return [
        Violation(rule, f"{broken} at {named(nodes)}" if broken else named(nodes), mend, operator)
        for (operator, rule, mend, broken), nodes in found.items()
    ]


def check_refused(model: onnx.ModelProto, refused: dict[str, str]) -> list[Violation]:
    """List the operators of a model that are refused by name.

    Args:
        model: read without its weights or with them.
        refused: operator → why, and how to mend.
    """
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in all_nodes(model):
        if node.op_type in refused:
            found.setdefault(node.op_type, []).append(node)
    return [
        Violation(f"does not run {operator}", named(nodes), refused[operator], operator)
        for operator, nodes in found.items()
    ]


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes of ONNX's own operators, those of functions and inside If, Loop and Scan too."""
    for body in (model.graph.node, *(function.node for function in model.functions)):
        yield from (node for node in _within(body) if node.domain in STANDARD_DOMAINS)


def named(nodes: list[onnx.NodeProto]) -> str:
    """Return "node a, b, c and 2 more"."""
    names = list(dict.fromkeys(node.name or ", ".join(node.output) for node in nodes))
    more = f" and {len(names) - NAMED_NODES} more" if len(names) > NAMED_NODES else ""
    return f"node {', '.join(names[:NAMED_NODES])}{more}"


def _within(body: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in body:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _within(graph.node)


def _values(node: onnx.NodeProto, attribute: str | None) -> list[Any]:
    """An attribute's value as a list; empty when the operator's default is used."""
    from onnx import helper

    for given in node.attribute:
        if given.name == attribute:
            value = helper.get_attribute_value(given)
            values = list(value) if isinstance(value, (list, tuple)) else [value]
            return [each.decode() if isinstance(each, bytes) else each for each in values]
    return []


def _either(values: Iterable[object]) -> str:
    return " or ".join(str(value) for value in values)
