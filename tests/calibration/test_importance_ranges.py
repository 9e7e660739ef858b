"""What errors cost according to gradients, against what they really cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import ASYMMETRIC, SYMMETRIC, reference
from float_models import Net, batches, images, pattern, small_network
from onnx import numpy_helper

from calibration.clipping import costs, least_cost_range
from calibration.histogram import SIDE
from calibration.importance import Importance, joined
from calibration.load import load
from calibration.qdq import quantize
from calibration.ranges import choose, collect, weigh_values
from calibration.simulate import output_distance, simulate
from targets.errors import ModelError


@pytest.fixture(scope="module")
def weighed(tmp_path_factory):
    path = small_network(tmp_path_factory.mktemp("net") / "net.onnx")
    inputs = batches(images(64, (3, 32, 32)))
    observations = collect(path, inputs)
    return path, weigh_values(path, observations, inputs)


def disturbed(path: Path, tensor: str, change, x: np.ndarray) -> float:
    """Return the divergence of the outputs when a tensor is changed."""
    graph = load(path)
    model = graph.model
    expected = simulate(model, [{"input": x}])
    value = reference(model, x, [tensor])[0]
    rest = [node for node in model.graph.node if tensor not in node.output]
    del model.graph.node[:]
    model.graph.node.extend(rest)
    del model.graph.output[1:]
    model.graph.input.extend(item for item in model.graph.value_info if item.name == tensor)
    return output_distance(expected, simulate(model, [{"input": x, tensor: change(value)}]))


def relus(path: Path) -> list[str]:
    return [node.output[0] for node in load(path).nodes if node.op_type == "Relu"][:2]


@pytest.mark.parametrize("index", [0, 1])
def test_costs_predict_what_rounding_really_costs(weighed, index: int) -> None:
    path, observations = weighed
    name = relus(path)[index]
    high = observations.histograms[name].maximum
    step = high / 255
    got = disturbed(
        path,
        name,
        lambda value: np.rint(value / step).astype(np.float32) * np.float32(step),
        images(128, (3, 32, 32)),
    )
    predicted = costs(observations.importance[name], np.array([0.0]), np.array([high]), False)[0]
    assert predicted == pytest.approx(got, rel=0.5)


@pytest.mark.parametrize("index", [0, 1])
def test_costs_predict_what_clipping_really_costs(weighed, index: int) -> None:
    path, observations = weighed
    name = relus(path)[index]
    limit = 0.7 * observations.histograms[name].maximum
    got = disturbed(path, name, lambda value: np.minimum(value, np.float32(limit)), images(64, (3, 32, 32)))
    predicted = observations.importance[name].clipping(np.array([0.0]), np.array([limit]))[0]
    assert predicted == pytest.approx(got, rel=0.6)


def test_weights_lie_where_the_values_do_and_zeros_weigh_nothing(weighed) -> None:
    observations = weighed[1]
    for name, importance in observations.importance.items():
        counts = observations.histograms[name].counts.copy()
        counts[SIDE] -= observations.histograms[name].zeros
        assert (importance.weights >= 0).all()
        # Only a share of the values is counted, but all are weighed.
        assert importance.weights[counts > 0].sum() > 0.9 * importance.weights.sum() > 0


def test_clipping_nothing_costs_nothing_and_clipping_more_costs_something(weighed) -> None:
    for name, histogram in weighed[1].histograms.items():
        importance = weighed[1].importance[name]
        low, high = np.array([min(histogram.minimum, 0.0)]), np.array([max(histogram.maximum, 0.0)])
        assert importance.clipping(low, high)[0] <= 1e-3 * importance.clipping(low / 4, high / 4)[0]


def test_coarser_bins_hold_the_same(weighed) -> None:
    for importance in weighed[1].importance.values():
        coarse = importance.coarser(importance.exponent + 3)
        assert coarse.weights.sum() == pytest.approx(importance.weights.sum())
        edge = np.array([2.0 ** (importance.exponent + 3) * 5])
        assert coarse.clipping(-edge, edge) == pytest.approx(importance.clipping(-edge, edge))


def test_costs_of_several_tensors_add_up(weighed) -> None:
    first, second = (weighed[1].importance[name] for name in relus(weighed[0]))
    limits = np.array([0.0]), np.array([2.0])
    both = costs(joined([first, second]), *limits, False)[0]
    assert both == pytest.approx(sum(costs(part, *limits, False)[0] for part in (first, second)), rel=0.02)


def test_a_channel_nobody_reads_may_be_clipped(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("input", 8))
    y = net.conv(x, 8)
    weights = {item.name: item for item in net.initializers}
    loud, reader = (weights[node.input[1]] for node in (net.nodes[0], net.nodes[2]))
    for tensor, index, factor in ((loud, np.s_[0], 100), (reader, np.s_[:, 0], 0)):
        value = numpy_helper.to_array(tensor).copy()
        value[index] *= factor
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    path = net.save(tmp_path / "net.onnx", net.head(net.relu(y)))
    inputs = batches(images(32))
    observations = weigh_values(path, collect(path, inputs), inputs)
    histogram = observations.histograms[x]
    quiet = np.sort(reference(path, images(32), [x])[0][:, 1:].max((0, 2, 3)))[-1]
    high = least_cost_range(histogram, observations.importance[x], False)[1]
    assert high < 2 * quiet < histogram.maximum / 4
    distances = []
    for method in ("mse", "importance"):
        quantize(path, observations, ASYMMETRIC, tmp_path / "out.onnx", method)
        outputs = [simulate(model, inputs) for model in (load(path).model, onnx.load(tmp_path / "out.onnx"))]
        distances.append(output_distance(*outputs))
    assert distances[1] < 0.2 * distances[0]


def test_same_signs_give_the_same_ranges(weighed) -> None:
    path, observations = weighed
    again = weigh_values(path, observations, batches(images(64, (3, 32, 32)), 16))
    assert choose(again, "importance", SYMMETRIC) == choose(observations, "importance", SYMMETRIC)


def test_without_weights_squared_errors_decide(tmp_path: Path) -> None:
    path = pattern("average_pool", tmp_path)
    observations = collect(path, batches(images(32)))
    assert choose(observations, "importance", SYMMETRIC) == choose(observations, "mse", SYMMETRIC)
    with pytest.raises(ModelError, match="gradient rule"):
        weigh_values(path, observations, batches(images(8)))


def test_no_gradient_no_cost() -> None:
    nothing = Importance(0, np.zeros(2 * SIDE), np.zeros(SIDE), np.zeros(SIDE))
    assert nothing.clipping(np.array([-1.0]), np.array([1.0]))[0] == 0
