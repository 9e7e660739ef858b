"""Statistics taken in shards are those of a single pass, and nothing grows with the number of images."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_networks import residual_net, saved
from small_networks import SHAPE, batches, build
from test_scatter import same

from calibration.ranges import collect, collect_part, join
from pipeline import cluster
from pipeline.compress import scatter
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import CRITERIA, rank
from pipeline.compress.readers import find_readers
from pipeline.compress.reconstruction import decisive_reconstructions, reconstructions
from pipeline.datasets.prepared import PreparedBatches
from pipeline.evaluate import predict
from pipeline.listing import FileList
from pipeline.run import outside_digest
from targets.preprocess import Preprocess

cuts = st.lists(st.integers(1, 4), min_size=1, max_size=5)


class PicklingClient:
    """Runs what it is given at once, as another process would have got it."""

    def __init__(self, address):
        self.tasks = 0

    def __enter__(self):
        return self

    def __exit__(self, *why):
        return None

    def submit(self, function, shard, pure):
        import cloudpickle

        function, shard = pickle.loads(cloudpickle.dumps((function, shard)))
        return SimpleNamespace(result=lambda: function(shard))


@pytest.fixture
def workers(monkeypatch):
    monkeypatch.setenv(cluster.VARIABLE, "tcp://somewhere")
    monkeypatch.setattr(cluster, "connect", PicklingClient)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[Path, Path]:
    """A model, and images for it on disk."""
    folder = tmp_path_factory.mktemp("stored")
    model: onnx.ModelProto = residual_net()
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.standard_normal((24, 2, 9, 9)).astype(np.float32))
    return saved(model, folder / "model.onnx"), folder / "images.npy"


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shard=st.integers(1, 5), size=st.integers(1, 3))
def test_ranges_of_shards_are_those_of_one_pass(stored, shard, size):
    model, images = stored
    whole = PreparedBatches({"input": np.load(images, mmap_mode="r")}, size, np.arange(0, 24, 2))
    parts = [pickle.loads(pickle.dumps(part)) for part in whole.cut(shard)]
    assert all(isinstance(part.arrays["input"], np.memmap) for part in parts)
    once = collect(model, whole)
    joined = join(model, (collect_part(model, part) for part in parts), whole)
    assert (joined.samples, joined.inputs_sha256) == (once.samples, once.inputs_sha256)
    for name, histogram in once.histograms.items():
        other = joined.histograms[name]
        assert (other.minimum, other.maximum, other.zeros) == (
            histogram.minimum,
            histogram.maximum,
            histogram.zeros,
        )
        assert other.exponent == histogram.exponent and (other.counts == histogram.counts).all()


@pytest.fixture(scope="module")
def evidence():
    network = build("residual")
    groups = find_groups(network, SHAPE)
    return Evidence(network, groups, find_readers(network, groups, SHAPE), batches(9), 3)


def test_scatter_of_shards_is_that_of_one_pass(workers, monkeypatch, evidence):
    whole = scatter.collect_part(evidence.network, evidence.readers, scatter.one_hot(3), evidence.batches)
    monkeypatch.setattr(scatter, "SHARD", 2)
    found = scatter.collect(evidence.network, evidence.readers, evidence.batches, scatter.one_hot(3))
    assert found.keys() == whole.keys()
    for leader, one in whole.items():
        same(found[leader], one)


@pytest.mark.parametrize("name", CRITERIA)
def test_channels_are_ranked_by_shards_as_by_one_pass(name, monkeypatch, request, evidence):
    once = rank(name, evidence)
    request.getfixturevalue("workers")
    for shard in (1, 2, 4):
        monkeypatch.setattr(scatter, "SHARD", shard)
        found = rank(name, evidence)
        for leader, removal in once.items():
            assert found[leader].order == removal.order
            assert found[leader].lost == pytest.approx(removal.lost, rel=0, abs=1e-9 * removal.lost[-1])


@pytest.mark.parametrize("systems", [reconstructions, decisive_reconstructions])
def test_least_squares_of_shards_are_those_of_one_pass(systems, monkeypatch, request, evidence):
    once = systems(evidence)
    request.getfixturevalue("workers")
    monkeypatch.setattr(scatter, "SHARD", 2)
    for leader, found in systems(evidence).items():
        for one, other in zip(once[leader], found, strict=True):
            for whole, joined in ((one.xx, other.xx), (one.xy, other.xy)):
                assert float((whole - joined).abs().max()) <= 1e-9 * float(whole.abs().max())


@settings(deadline=None, max_examples=30)
@given(cuts)
def test_predictions_of_shards_are_those_of_one_pass(sizes):
    images = np.arange(sum(sizes), dtype=np.uint8)[:, None, None, None].repeat(2, 3)
    seen = Preprocess(scale=0.5, mean=(0.0,), std=(1.0,), layout="NCHW", reverse_channels=False)

    def infer(batch):
        return batch.reshape(len(batch), -1)

    whole = predict(infer, images, seen, 3)
    ends = np.cumsum(sizes)
    rows = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    parts = [predict(infer, images, seen, 3, rows=each) for each in rows]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_errors_of_shards_come_whole(workers):
    from targets.errors import DataError

    def fails(shard):
        raise DataError("no", where="here", mend="so")

    with pytest.raises(DataError) as caught:
        list(cluster.over_shards(fails, [1]))
    assert caught.value.mend == "so"


names = st.sets(st.text("ab.é", min_size=1).filter(lambda name: name.strip(".")), min_size=1, max_size=6)


@settings(deadline=None, max_examples=20)
@given(names)
def test_a_list_of_files_is_their_sorted_paths(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp("listing")
    for place in ("one", "two/deep"):
        (folder / place).mkdir(parents=True)
        for name in found:
            (folder / place / f"{name}.png").touch()
    (folder / "two" / "note.txt").touch()
    files, counts = FileList.below(folder, ["two", "gone", "one"], lambda name: name.endswith(".png"))
    assert counts == [len(found), 0, len(found)]
    expected = sorted((folder / "two").rglob("*.png")) + sorted((folder / "one").rglob("*.png"))
    assert list(files) == files[:] == expected and files[-1] == expected[-1]


def test_a_folders_digest_follows_names_sizes_and_dates(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.png").write_bytes(b"1")
    first = outside_digest(tmp_path)
    assert outside_digest(tmp_path) == first
    (tmp_path / "a" / "one.png").rename(tmp_path / "a" / "two.png")
    assert outside_digest(tmp_path) != first
