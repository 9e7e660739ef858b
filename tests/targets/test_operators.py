"""Tables of operators and what they find in a model; a model's quantization against a convention."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import helper
from small_graphs import CASES, Graph, all_positive, conv_relu

from targets.capability import QuantizationConvention, load_device
from targets.checks import check_model
from targets.conventions import check_convention
from targets.datafile import tomllib
from targets.errors import ConfigError
from targets.operators import (
    FOLDER,
    OperatorTable,
    check_operators,
    load_table,
    operators_json_schema,
    table_names,
)

PUBLISHED = Path(__file__).parents[2] / "docs" / "schema" / "operators.schema.json"
SYMMETRIC = QuantizationConvention(activations="int8-symmetric", weight_bits=8, quantize_residual_inputs=True)
SEVEN_BITS = QuantizationConvention(
    activations="uint8-asymmetric", weight_bits=7, quantize_residual_inputs=True
)


def table(*limits: dict[str, object]) -> OperatorTable:
    return OperatorTable.model_validate(
        {
            "schema": "edgewright.operators/1",
            "name": "test",
            "description": "",
            "source": "made up",
            "operators": ["Conv", "MaxPool", "Relu", "CumSum"],
            "limits": [{"mend": "do otherwise", **limit} for limit in limits],
            "mend": {"Sigmoid": "take Relu"},
        }
    )


def pooled(**attributes: object) -> onnx.ModelProto:
    node = helper.make_node("MaxPool", ["x"], ["y"], name="node y", kernel_shape=[2, 2], **attributes)
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy")
    return helper.make_model(helper.make_graph([node], "graph", [x], [y]))


def found(model: onnx.ModelProto, *limits: dict[str, object]) -> list[str]:
    return [str(violation) for violation in check_operators(model, table(*limits))]


def test_every_table_is_valid_and_named_as_its_file_and_the_schema_is_current() -> None:
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == operators_json_schema()
    for name in table_names():
        assert load_table(name).name == name
        content = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
        jsonschema.validate(content, operators_json_schema())


def test_every_table_speaks_of_real_operators() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    # Removed from ONNX long ago; parsers still name them.
    known |= {"ImageScaler", "ParametricSoftplus", "ScaledTanh", "Upsample", "Scatter"}
    for name in table_names():
        one = load_table(name)
        assert set(one.operators) <= known
        assert {limit.operator for limit in one.limits} <= set(one.operators)
        assert not set(one.mend) & set(one.operators)


def test_an_unknown_table_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="tensorrt-10"):
        load_table("tensorrt-99")


def test_a_missing_operator_is_named_once_with_its_nodes_and_what_to_do() -> None:
    graph = Graph()
    x = "x"
    for _ in range(5):
        x = graph.op("Sigmoid", x)
    graph.op("Relu", x, output="y")
    (violation,) = found(graph.model({"x": [1, 4]}, {"y": [1, 4]}))
    nodes = "node node sigmoid0, node sigmoid1, node sigmoid2 and 2 more"
    assert violation == f"does not run Sigmoid; found {nodes}; take Relu"


@pytest.mark.parametrize(
    ("model", "limit", "expected"),
    [
        (
            pooled(strides=[1, 3]),
            {"operator": "MaxPool", "attribute": "strides", "at_most": 2},
            "strides of MaxPool is at most 2; found strides 3 at node node y",
        ),
        (
            pooled(dilations=[2, 2]),
            {"operator": "MaxPool", "attribute": "dilations", "one_of": [1]},
            "dilations of MaxPool is 1; found dilations 2 at",
        ),
        (
            pooled(auto_pad="SAME_UPPER"),
            {"operator": "MaxPool", "attribute": "auto_pad", "one_of": ["NOTSET", "VALID"]},
            "auto_pad of MaxPool is NOTSET or VALID; found auto_pad SAME_UPPER",
        ),
        (
            pooled(),
            {"operator": "MaxPool", "spatial": [3]},
            "MaxPool has 3 spatial dimensions; found 2 spatial dimensions",
        ),
        (
            conv_relu(),
            {"operator": "Conv", "spatial": [1]},
            "Conv has 1 spatial dimensions; found 2 spatial dimensions",
        ),
    ],
)
def test_a_broken_limit(model: onnx.ModelProto, limit: dict[str, object], expected: str) -> None:
    (violation,) = found(model, limit)
    assert violation.startswith(expected) and violation.endswith("do otherwise")


@pytest.mark.parametrize(
    "limit",
    [
        {"operator": "MaxPool", "attribute": "strides", "at_most": 2},
        {"operator": "MaxPool", "attribute": "dilations", "one_of": [1]},
        {"operator": "MaxPool", "spatial": [2]},
        {"operator": "MaxPool", "outputs": 1},
        {"operator": "Conv", "attribute": "strides", "at_most": 0},
    ],
)
def test_a_limit_that_is_kept(limit: dict[str, object]) -> None:
    assert found(pooled(strides=[2, 2]), limit) == []


def test_an_input_that_must_be_constant() -> None:
    limit = {"operator": "CumSum", "constant_input": 1}
    for axis, violations in (("fixed", 0), ("given", 1)):
        nodes = [helper.make_node("CumSum", ["x", axis], ["y"])]
        graph = helper.make_graph(
            nodes,
            "graph",
            [
                helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2]),
                helper.make_tensor_value_info("given", onnx.TensorProto.INT64, []),
            ],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
            [onnx.numpy_helper.from_array(np.array(0, np.int64), "fixed")],
        )
        assert len(found(helper.make_model(graph), limit)) == violations


def test_a_second_output_that_is_used() -> None:
    model = pooled()
    limit = {"operator": "MaxPool", "outputs": 1}
    model.graph.node[0].output.append("indices")
    assert found(model, limit)[0].startswith("MaxPool has at most 1 outputs; found 2 outputs")


@pytest.mark.parametrize(("case", "kinds"), [("int8 signed", []), ("conv relu", [])])
def test_a_convention_that_is_kept(case: str, kinds: list[str]) -> None:
    assert [each.operator for each in check_convention(CASES[case].model, SYMMETRIC)] == kinds


def test_asymmetric_activations_where_zero_points_must_be_0() -> None:
    rules = {each.rule for each in check_convention(CASES["int8 unsigned"].model, SYMMETRIC)}
    assert rules == {"activations are int8 with zero-point 0", "every zero-point is 0"}


def test_weights_of_eight_bits_where_sums_saturate() -> None:
    assert check_convention(all_positive(), SEVEN_BITS) == []
    model = all_positive()
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, 64, np.int8), tensor.name))
    (violation,) = check_convention(model, SEVEN_BITS)
    assert violation.rule.startswith("weights are within ±63") and violation.operator == "DequantizeLinear"


def test_a_model_that_does_not_fit_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    graph = Graph()
    graph.op("Conv", "x", graph.constant(np.zeros((64, 64, 9, 9))), output="y")
    onnx.save(graph.model({"x": [1, 64, 9, 9]}, {"y": [1, 64, 1, 1]}), path)
    capability = load_device("x86-avx2").capability()
    assert check_model(path, capability, [2]) == []
    (violation,) = check_model(path, capability, [1, 8])
    assert violation.found == "1 MiB of weights"
