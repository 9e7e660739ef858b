"""Scores, intervals, baselines and streaming over a data set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx_networks import make_model, saved

from pipeline.evaluate import classifier, predict, restrict, score, wilson
from pipeline.record import Accuracy
from targets.errors import DataError, ModelError
from targets.preprocess import Preprocess
from targets.toolchain import EngineOptions, TensorSpec, load_toolchain

COUNTS = st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
LOGITS = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 7)), elements=st.floats(-700, 700))


@given(COUNTS)
def test_wilson_interval_holds_the_estimate_and_stays_within_0_and_1(counts):
    low, high = wilson(*counts)
    assert 0.0 <= low <= counts[0] / counts[1] <= high <= 1.0
    assert low < high


@given(COUNTS, st.integers(2, 50))
def test_wilson_interval_shrinks_with_more_images_of_the_same_accuracy(counts, factor):
    correct, count = counts
    few, many = wilson(correct, count), wilson(correct * factor, count * factor)
    assert many[1] - many[0] < few[1] - few[0]


@given(COUNTS)
def test_wilson_interval_of_errors_mirrors_that_of_successes(counts):
    correct, count = counts
    low, high = wilson(correct, count)
    mirrored = wilson(count - correct, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(COUNTS)
def test_wilson_bounds_solve_the_score_equation(counts):
    correct, count = counts
    share = correct / count
    for bound in wilson(correct, count):
        if 0 < bound < 1:
            distance = abs(share - bound) / math.sqrt(bound * (1 - bound) / count)
            assert distance == pytest.approx(1.959963984540054, rel=1e-5)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_a_score_agrees_with_counting(pairs):
    labels, predictions = np.array(pairs).T
    names = ["a", "b", "c", "other"]
    found = score(predictions, labels, names)
    confusion = np.array(found.confusion)
    assert confusion.sum() == found.images == len(pairs)
    assert np.trace(confusion) == found.correct == sum(a == b for a, b in pairs)
    assert found.top1 == found.correct / found.images
    for index, each in enumerate(found.classes):
        hits = sum(pair == (index, index) for pair in pairs)
        truly, called = (list(side).count(index) for side in (labels, predictions))
        assert each.label == names[index] and each.count == truly
        assert each.recall == (hits / truly if truly else None)
        assert each.precision == (hits / called if called else None)
        assert all(confusion[index, j] == pairs.count((index, j)) for j in range(4))
    assert Accuracy.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("predictions", "labels"), [([], []), ([0, 1], [0]), ([0, 2], [0, 1]), ([0, 1], [0, -1])]
)
def test_what_cannot_be_scored_is_refused(predictions, labels):
    with pytest.raises(DataError):
        score(np.array(predictions, np.int64), np.array(labels, np.int64), ["a", "b"])


@given(LOGITS, st.data(), st.booleans())
def test_restricted_probabilities_sum_to_one(logits, data, other):
    wanted = data.draw(st.permutations(range(logits.shape[1])))
    wanted = wanted[: data.draw(st.integers(1, len(wanted)))]
    scores = restrict(logits, wanted, other=other)
    assert scores.shape == (len(logits), len(wanted) + other)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, rtol=1e-9)
    assert not np.isnan(scores).any() and (scores <= 1e-12).all()


@given(
    arrays(np.float64, st.tuples(st.integers(1, 4), st.just(5)), elements=st.floats(-20, 20)),
    st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True),
)
def test_restriction_equals_brute_force(logits, wanted):
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rest = [index for index in range(5) if index not in wanted]
    expected = np.column_stack([probabilities[:, wanted], probabilities[:, rest].sum(axis=1)])
    np.testing.assert_allclose(np.exp(restrict(logits, wanted, other=True)), expected, rtol=1e-9)
    chosen = restrict(logits, wanted, other=False).argmax(axis=1)
    kept = logits[:, wanted]
    assert (kept[np.arange(len(kept)), chosen] >= kept.max(axis=1) - 1e-12).all()


def test_other_with_no_class_left_is_never_chosen():
    scores = restrict(np.array([[1.0, 2.0]]), [1, 0], other=True)
    assert scores[0, 2] == -np.inf and scores.argmax() == 0


@pytest.mark.parametrize("wanted", [[0, 0], [3], [-1]])
def test_classes_the_network_does_not_have_are_refused(wanted):
    with pytest.raises(ModelError, match="has 3"):
        restrict(np.zeros((1, 3)), wanted, other=True)


# ---------------------------------------------------------------- streaming


def mean_and_first(batch):
    return np.column_stack([batch.mean(axis=(1, 2, 3)), batch[:, 0, 0, 0]])


@given(count=st.integers(1, 20), batch=st.integers(1, 7))
def test_every_image_is_predicted_once_whatever_the_batch(count, batch):
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 3, 2)
    done, sizes = [], []

    def infer(prepared):
        sizes.append(len(prepared))
        return mean_and_first(prepared)

    found = predict(infer, images, Preprocess(), batch, done.append)
    np.testing.assert_allclose(found, mean_and_first(Preprocess()(images)), rtol=1e-6)
    assert sum(done) == count and set(sizes) == {batch}


def test_a_memory_mapped_data_set_is_read_a_batch_at_a_time(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    seen = []

    def watch(prepared):
        seen.append(prepared.nbytes)
        return mean_and_first(prepared)

    found = predict(watch, np.load(tmp_path / "images.npy", mmap_mode="r"), Preprocess(), 8)
    np.testing.assert_array_equal(found, predict(mean_and_first, images, Preprocess(), 8))
    assert max(seen) == 8 * 16 * 4


def test_no_images_and_wrong_outputs_are_refused():
    images = np.zeros((4, 2, 2, 1), np.uint8)
    with pytest.raises(DataError, match="no images"):
        predict(mean_and_first, images[:0], Preprocess(), 2)
    with pytest.raises(ModelError, match="not one row"):
        predict(lambda batch: batch, images, Preprocess(), 2)


@pytest.mark.parametrize(("batch", "expected"), [("n", 16), (1, 1), (3, 3)])
def test_an_engine_becomes_a_classifier_of_its_own_batch(tmp_path, batch, expected):
    from onnx import helper

    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["s"])]
    weight = np.random.default_rng(0).standard_normal((12, 4))
    model = saved(
        make_model(nodes, {"w": weight}, {"image": [batch, 3, 2, 2]}, {"s": [batch, 4]}), tmp_path / "m.onnx"
    )
    toolchain = load_toolchain("onnxruntime")
    (tmp_path / "engine").mkdir()
    engine = toolchain.compile(model, "this-machine", EngineOptions(), tmp_path / "engine")
    infer, size = classifier(toolchain.open(engine), chunk=16)
    assert size == expected
    images = np.random.default_rng(1).integers(0, 256, (20, 2, 2, 3), dtype=np.uint8)
    expected_scores = Preprocess()(images).reshape(20, -1) @ weight
    np.testing.assert_allclose(
        predict(infer, images, Preprocess(), size), expected_scores, rtol=1e-4, atol=1e-5
    )


class Described:
    """A runner that is never run."""

    def __init__(self, inputs, outputs):
        self.inputs = tuple(TensorSpec(f"in{i}", "float32", shape) for i, shape in enumerate(inputs))
        self.outputs = tuple(TensorSpec(f"out{i}", "float32", shape) for i, shape in enumerate(outputs))

    def infer(self, inputs):
        raise AssertionError("it was run")


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [([(1, 3, 2, 2)] * 2, [(1, 4)]), ([(1, 3, 2, 2)], [(1, 4, 7, 7)]), ([(1, 3, 2, 2)], [(1, 4), (1, 4)])],
)
def test_an_engine_that_is_no_classifier_is_refused(inputs, outputs):
    with pytest.raises(ModelError, match="one is needed"):
        classifier(Described(inputs, outputs))
