"""Plans of bits as documents."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from float_models import small_network

from calibration.load import load
from calibration.plan import BitsPlan
from targets.errors import ConfigError

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "schema" / "bits.schema.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> BitsPlan:
    graph = load(small_network(tmp_path_factory.mktemp("plan") / "model.onnx"))
    rng = np.random.default_rng(0)
    bits = {
        node.name: rng.choice([2, 3, 4, 5, 6, 8, 16], graph.constants[node.input[1]].dims[0])
        for node in graph.nodes
        if node.op_type in ("Conv", "Gemm")
    }
    return BitsPlan.of(graph, "fisher", bits)


def test_a_plan_survives_its_file_and_fits_the_schema(plan: BitsPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "bits.json")
    assert BitsPlan.load(tmp_path / "bits.json") == plan
    jsonschema.validate(json.loads((tmp_path / "bits.json").read_text()), SCHEMA)


def test_sums(plan: BitsPlan) -> None:
    weights = [layer.weights for layer in plan.layers for _ in layer.bits]
    bits = [width for layer in plan.layers for width in layer.bits]
    assert plan.average_bits == pytest.approx(np.average(bits, weights=weights))
    assert plan.document()["weight_bytes"] == int(np.ceil(np.dot(bits, weights) / 8))


def test_the_table_names_every_layer(plan: BitsPlan) -> None:
    table = plan.table()
    assert all(layer.node in table for layer in plan.layers)
    assert f"{plan.average_bits:.2f} bits a weight" in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "edgewright.bits/2"}, "its schema is"),
        (
            {"layers": [{"node": "a", "weights_per_channel": 9, "bits": "47"}]},
            "has widths 7; there are 234568f",
        ),
        ({"layers": [{"node": "a"}]}, "not a plan"),
        ({"layers": 3}, "not a plan"),
    ],
)
def test_other_documents_are_refused(
    plan: BitsPlan, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "bits.json").write_text(json.dumps({**plan.document(), **change}))
    with pytest.raises(ConfigError, match=message):
        BitsPlan.load(tmp_path / "bits.json")
