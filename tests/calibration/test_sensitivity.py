from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import ASYMMETRIC
from float_models import Net, batches, images
from hypothesis import given
from hypothesis import strategies as st

from calibration.ranges import collect
from calibration.sensitivity import lift, measure_sensitivities, rank_agreement
from targets.errors import GateFailed


def test_the_layer_with_an_outlier_in_its_input_is_the_most_sensitive(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("input", 8))
    y = net.relu(net.conv(x, 8))
    weight = next(item for item in net.initializers if item.name == net.nodes[-2].input[1])
    value = onnx.numpy_helper.to_array(weight).copy()
    # One channel of two thousand times the others' range, which the next layer hardly reads.
    value[0] *= 2000
    weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))
    z = net.conv(y, 4)
    reader = next(item for item in net.initializers if item.name == net.nodes[-1].input[1])
    value = onnx.numpy_helper.to_array(reader).copy()
    value[:, 0] /= 2000
    reader.CopyFrom(onnx.numpy_helper.from_array(value, reader.name))
    path = net.save(tmp_path / "net.onnx", z)
    found = measure_sensitivities(
        path, collect(path, batches(images(32))), ASYMMETRIC, batches(images(16, seed=3)), "minmax"
    )
    assert [item.measured for item in found] == sorted((item.measured for item in found), reverse=True)
    assert found[0].node == net.nodes[-1].name
    assert found[0].measured > 3 * found[1].measured
    assert max(found, key=lambda item: item.estimated).node == found[0].node


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30, unique=True))
def test_rank_agreement_is_one_with_itself_and_minus_one_reversed(values: list[float]) -> None:
    assert rank_agreement(values, values) == pytest.approx(1)
    assert rank_agreement(values, [-value for value in values]) == pytest.approx(-1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0, 1))
def test_the_fewest_layers_are_lifted(costs: list[float], share: float) -> None:
    costs = sorted(costs, reverse=True)
    ranked = [f"layer{index}" for index in range(len(costs))]
    limit = share * sum(costs) + 1e-9 + (costs[-1] if share < 1 else 0.0)

    def loss(lifted: tuple[str, ...]) -> float:
        return float(sum(costs[len(lifted) :]))

    found = lift(ranked, loss, limit)
    assert found.loss == loss(found.layers) <= limit
    assert found.layers == tuple(ranked[: len(found.layers)])
    assert not found.layers or loss(found.layers[:-1]) > limit
    assert len(found.losses) <= np.log2(len(costs)) + 3


def test_an_unreachable_limit_names_the_nearest() -> None:
    with pytest.raises(GateFailed, match="1 of 2 layers in float") as caught:
        lift(["a", "b"], lambda lifted: 0.5 - 0.1 * len(lifted), 0.1)
    assert "0.4" in str(caught.value)
