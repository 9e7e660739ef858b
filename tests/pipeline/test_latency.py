"""Latency told from a table of layers: what is measured, how it is read, how whole networks correct it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_networks import SHAPE, build

from calibration.qdq import quantize
from calibration.ranges import collect
from pipeline.compress import layer_timing
from pipeline.compress.groups import find_groups
from pipeline.compress.latency import Anchor, FormTimes, LatencyTable, monotone
from pipeline.compress.layer_models import LayerForm, layer_model
from pipeline.compress.layer_timing import LayerTarget, find_grids, geometric, measure_table
from pipeline.compress.shapes import find_shapes
from pipeline.onnxmodel.macs import count_macs
from pipeline.onnxmodel.session import OnnxSession
from targets.capability import QuantizationConvention
from targets.errors import ModelError, StoreError
from targets.toolchain import EngineOptions, load_toolchain

CONVENTION = QuantizationConvention(
    activations="uint8-asymmetric", weight_bits=7, quantize_residual_inputs=True
)


def convolution(**changes):
    values = {
        "kind": "convolution", "size": (9, 7), "kernel": (3, 3), "stride": (1, 1), "dilation": (1, 1),
        "padding": (1, 1), "groups": 1, "activation": "",
    }  # fmt: skip
    return LayerForm(**values | changes)


def linear(**changes):
    values = {"kernel": (), "stride": (), "dilation": (), "padding": ()}
    return convolution(**{"kind": "linear", "size": (), **values, **changes})


FORMS = {
    "plain": (convolution(), 9 * 7 * 4 * 6 * 9),
    "strided": (convolution(stride=(2, 2)), 5 * 4 * 4 * 6 * 9),
    "dilated": (convolution(dilation=(2, 2), padding=(0, 0)), 5 * 3 * 4 * 6 * 9),
    "depthwise": (convolution(groups=0), 9 * 7 * 6 * 9),
    "grouped": (convolution(groups=2), 9 * 7 * 2 * 6 * 9),
    "one-dimensional": (
        convolution(size=(11,), kernel=(5,), stride=(1,), dilation=(1,), padding=(2,)), 11 * 4 * 6 * 5,
    ),
    "transposed": (
        convolution(kind="transposed convolution", kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
        63 * 4 * 6 * 4,
    ),
    "linear": (linear(), 4 * 6),
    "linear in rows": (linear(size=(5,)), 5 * 4 * 6),
    "silu": (convolution(activation="Silu"), 9 * 7 * 4 * 6 * 9),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_layers_model_computes_the_layer_as_often_as_it_says(name):
    form, macs = FORMS[name]
    inputs = 6 if form.groups == 0 else 4
    costs = [count_macs(layer_model(form, inputs, 6, copies)) for copies in (1, 3)]
    rows = form.size[0] if form.kind == "linear" and form.size else 1
    assert np.diff(costs) == 2 * (macs + rows * 6)  # the reader takes the outputs of every copy
    OnnxSession(layer_model(form, inputs, 6, 3))


@pytest.mark.parametrize("form", [convolution(), convolution(groups=0), linear()])
def test_every_copy_is_computed_in_int8_when_quantized(form, tmp_path):
    path, out = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(layer_model(form, 6, 6, 3), path)
    shape = (1, 6, *form.size)
    quantize(
        path,
        collect(path, [{"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}]),
        CONVENTION,
        out,
    )
    graph = onnx.load(out).graph
    read = {name: node.op_type for node in graph.node for name in node.input}
    ends = [node.output[0] for node in graph.node if node.op_type == "Relu"]
    assert len(ends) == 3 and all(read[end] == "QuantizeLinear" for end in ends)


def times(table, inputs=(8, 16, 64), outputs=(8, 32)):
    return FormTimes(
        form=convolution(),
        inputs=list(inputs),
        outputs=list(outputs),
        milliseconds=np.asarray(table).tolist(),
        spread_ms=np.zeros_like(table).tolist(),
    )


@given(factors=st.tuples(*[st.floats(0, 3)] * 4), i=st.integers(8, 64), o=st.integers(8, 32))
def test_times_that_are_linear_in_both_widths_are_told_exactly(factors, i, o):
    def work(i, o):
        return factors[0] + factors[1] * i + factors[2] * o + factors[3] * i * o

    grid = work(np.array([8, 16, 64])[:, None], np.array([8, 32])[None])
    assert float(times(grid).at(i, o)) == pytest.approx(work(i, o))
    many = times(grid).at(np.array([i, 8]), np.array([o, 32]))
    assert many == pytest.approx([work(i, o), work(8, 32)])


def test_beyond_the_grid_times_stay_what_they_are_at_its_edge():
    grid = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert float(times(grid).at(1, 500)) == 2.0 and float(times(grid).at(500, 1)) == 5.0
    assert float(times([[3.0]], (4,), (7,)).at(9, 9)) == 3.0


@given(noisy=arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.floats(0, 10)))
def test_a_table_made_monotone_rises_along_both_axes_and_a_rising_one_stays(noisy):
    found = monotone(noisy)
    assert (np.diff(found, axis=0) >= 0).all() and (np.diff(found, axis=1) >= 0).all()
    np.testing.assert_allclose(monotone(found), found)
    assert noisy.min() <= found.min() and found.max() <= noisy.max()


@given(
    least=st.integers(1, 64),
    factor=st.floats(1, 40),
    alignment=st.sampled_from([1, 4, 8, 16]),
)
def test_widths_measured_span_the_range_in_few_aligned_steps(least, factor, alignment):
    most = int(least * factor)
    points = geometric(least, most, alignment)
    assert (points[0], points[-1]) == (least, most) and list(points) == sorted(set(points))
    assert len(points) <= 4 and all(point % alignment == 0 for point in points[1:-1])


def shapes_of(name):
    network = build(name)
    return find_shapes(network, find_groups(network, SHAPE), SHAPE)


def narrowest(shapes, width=4):
    return {leader: min(width, full) for leader, full in shapes.full.items()}


def test_layers_of_one_form_share_a_grid_that_spans_them_all():
    shapes = shapes_of("depthwise")
    grids = find_grids(shapes, narrowest(shapes), 4)
    pointwise = next(grid for form, grid in grids.items() if form.kernel == (1, 1))
    depthwise = next(grid for form, grid in grids.items() if form.groups == 0)
    assert (
        (pointwise.inputs[0], pointwise.inputs[-1])
        == (4, 16)
        == (pointwise.outputs[0], pointwise.outputs[-1])
    )
    assert depthwise.inputs == (0,) and depthwise.outputs[-1] == 16


@pytest.fixture
def pretended(monkeypatch):
    """A toolchain on which a call takes 0.3 ms and 0.01 ms an input, a layer 0.001 ms a weight."""

    def work(path):
        graph = onnx.load(path).graph
        copies = [each for each in graph.initializer if each.name.startswith("w")]
        call = 0.3 + 0.01 * graph.input[0].type.tensor_type.shape.dim[1].dim_value
        return call + 0.001 * sum(int(np.prod(each.dims)) for each in copies)

    def timed(models, target, settings):
        return {name: SimpleNamespace(samples_ms=[work(path)] * 5) for name, path in models.items()}

    monkeypatch.setattr(layer_timing, "time_models", timed)
    return LayerTarget(
        SimpleNamespace(name="pretended", fingerprint=lambda: {"runtime": "1"}), "board", EngineOptions()
    )


@pytest.mark.parametrize("name", ["chain", "depthwise", "residual"])
def test_a_layers_time_is_told_from_the_calls(name, pretended):
    shapes = shapes_of(name)
    steps = []
    table = measure_table(shapes, narrowest(shapes), pretended, 2, lambda *step: steps.append(step))
    generator = np.random.default_rng(0)
    for _ in range(5):
        widths = {
            leader: int(generator.integers(min(4, full), full + 1)) for leader, full in shapes.full.items()
        }
        weights = sum(layer.weights(widths) for layer in shapes.layers)
        assert float(table.milliseconds(shapes, widths)) == pytest.approx(0.001 * weights, abs=1e-5)
    assert table.fingerprint == {"runtime": "1"} and (table.device, table.toolchain) == ("board", "pretended")
    assert [done for _, done, _ in steps] == list(range(len(table.layers)))


def test_whole_networks_correct_what_the_sum_leaves_out(pretended, tmp_path):
    shapes = shapes_of("residual")
    table = measure_table(shapes, narrowest(shapes), pretended, 2, lambda *_: None)
    middle = {leader: full // 2 for leader, full in shapes.full.items()}
    anchors = [
        Anchor(widths=widths, measured_ms=0.2 + 1.5 * float(table.sum_of_layers(shapes, widths)))
        for widths in (dict(shapes.full), middle, narrowest(shapes))
    ]
    corrected = table.corrected(shapes, anchors)
    assert (corrected.scale, corrected.offset_ms) == pytest.approx((1.5, 0.2), rel=1e-4)
    assert float(corrected.milliseconds(shapes, middle)) == pytest.approx(anchors[1].measured_ms)
    single = table.corrected(shapes, anchors[:1])
    assert single.offset_ms == 0.0
    assert float(single.milliseconds(shapes, shapes.full)) == pytest.approx(anchors[0].measured_ms)
    corrected.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == corrected


def test_a_table_of_another_network_or_file_is_refused(pretended, tmp_path):
    shapes, other = shapes_of("residual"), shapes_of("chain")
    table = measure_table(shapes, narrowest(shapes), pretended, 2, lambda *_: None)
    with pytest.raises(ModelError, match="the latency table has no"):
        table.milliseconds(other, other.full)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(StoreError, match="not a latency table"):
        LatencyTable.load(Path(tmp_path / "other.json"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_real_runtime_fills_a_table(precision, monkeypatch):
    quick = layer_timing.MeasureSettings(
        warmup_min_s=0.0, warmup_max_s=0.0, min_samples=4, min_s=0.0, resamples=1
    )
    monkeypatch.setattr(layer_timing, "LAYER_SETTINGS", quick)
    shapes = shapes_of("chain")
    target = LayerTarget(load_toolchain("onnxruntime"), "x86-avx2", EngineOptions(precision), CONVENTION)
    table = measure_table(shapes, dict(shapes.full), target, 8, lambda *_: None)
    assert table.precision == precision and "onnxruntime" in table.fingerprint
    assert float(table.milliseconds(shapes, shapes.full)) > 0
