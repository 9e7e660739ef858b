"""Every budget, from a float model to a plan, a QDQ model and a packed file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from calibration_cases import ASYMMETRIC, SYMMETRIC
from float_models import Net, batches, images, small_network

from calibration.budgets import AverageBits, Budget, LargestDrop, Latency, PackedSize
from calibration.mix import Base, Mixed, quantize_mixed
from calibration.packing import pack_file
from calibration.plan import BitsPlan
from calibration.qdq import quantize
from calibration.ranges import Batch, collect
from targets.errors import ConfigError, DataError
from targets.packed import unpack_file

DATA = batches(images(64))
SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "schema" / "mixed.schema.json").read_text(encoding="utf-8")
)


def chain(path: Path) -> Path:
    net = Net(2)
    x = net.relu(net.conv("input", 24, strides=[2, 2]))
    x = net.relu(net.conv(x, 16))
    return net.save(path, net.head(net.relu(net.conv(x, 12, k=1)), 6))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chain(tmp_path_factory.mktemp("mix") / "model.onnx")


@pytest.fixture(scope="module")
def base(model: Path) -> Base:
    int8 = model.with_name("int8.onnx")
    quantize(model, collect(model, DATA), ASYMMETRIC, int8)
    return Base(model, int8)


def make(model: Path, budget: Budget, folder: Path, base: Base) -> Mixed:
    folder.mkdir(exist_ok=True)
    return quantize_mixed(model, DATA, ASYMMETRIC, budget, folder, base)


def test_average_bits_are_kept_and_everything_is_written(model: Path, base: Base, tmp_path: Path) -> None:
    made = make(model, AverageBits(4.0), tmp_path, base)
    assert made.plan.average_bits == pytest.approx(4.0, abs=0.2)
    assert made.plan.average_bits <= 4.0
    assert BitsPlan.load(tmp_path / "bits.json") == made.plan
    assert {path.name for path in tmp_path.iterdir()} == {
        "float.onnx",
        "int8.onnx",
        "bits.json",
        "model.onnx",
        "model.packed",
    }
    unpack_file(made.packed, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == made.model.read_bytes()
    assert 0.0 <= made.int8_distance < made.distance < 0.5
    assert made.sizes.packed_bytes == made.packed.stat().st_size
    document = json.loads(json.dumps(made.document()))
    jsonschema.validate(document, SCHEMA)
    assert document["budget"] == "4 bits a weight"


def test_the_repairs_of_int8_come_first(tmp_path: Path) -> None:
    model = small_network(tmp_path / "model.onnx")
    done: list[str] = []
    data = batches(images(32, (3, 32, 32)))
    out = tmp_path / "out"
    out.mkdir()
    made = quantize_mixed(
        model, data, SYMMETRIC, AverageBits(5.0), out, progress=lambda what, *_: done.append(what)
    )
    assert made.float_model.read_bytes() != model.read_bytes()
    assert made.plan.model_sha256 == BitsPlan.load(out / "bits.json").model_sha256
    order = list(dict.fromkeys(done))
    assert "observing ranges" in order[0]
    assert [what for what in order if "width" in what or "rounding weights" in what] == [
        "measuring what every width costs",
        f"rounding weights to {made.plan.average_bits:.2f} bits on average",
    ]


def test_the_same_arguments_give_the_same_bytes(model: Path, base: Base, tmp_path: Path) -> None:
    first, second = (make(model, AverageBits(3.5), tmp_path / name, base) for name in "ab")
    for one, other in (first.model, second.model), (first.packed, second.packed):
        assert one.read_bytes() == other.read_bytes()
    assert first.document() == second.document()


def test_a_packed_size_is_kept(model: Path, base: Base, tmp_path: Path) -> None:
    packed = pack_file(base.int8, tmp_path / "int8.packed")
    size = packed.packed_bytes - packed.weight_bytes // 3
    made = make(model, PackedSize(size), tmp_path / "out", base)
    assert 0.8 * size < made.packed.stat().st_size <= size


def test_the_fewest_bits_that_keep_a_drop_are_taken(model: Path, base: Base, tmp_path: Path) -> None:
    made = make(model, LargestDrop(0.0002, "divergence"), tmp_path, base)
    assert made.distance <= 0.0002
    assert any(tried.figure > 0.0002 for tried in made.tried)
    assert min(tried.average_bits for tried in made.tried if tried.figure <= 0.0002) == made.plan.average_bits


def test_a_figure_of_ones_own_is_taken_as_it_is(model: Path, base: Base, tmp_path: Path) -> None:
    seen: list[Path] = []

    def lost(candidate: Path) -> float:
        seen.append(candidate)
        onnx.checker.check_model(onnx.load(candidate))
        return 1.0

    made = make(model, LargestDrop(1.0, lost), tmp_path, base)
    assert made.plan.average_bits == pytest.approx(2.25, abs=0.15)
    assert len(seen) == len(made.tried) <= 6


def test_disagreement_counts_answers(model: Path, base: Base, tmp_path: Path) -> None:
    made = make(model, LargestDrop(20.0), tmp_path, base)
    assert made.disagreement <= 20.0
    assert (made.disagreement * 16 / 100) == pytest.approx(round(made.disagreement * 16 / 100))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (AverageBits(1.5), "ask for 2"),
        (AverageBits(9.0), "ask for 8"),
        (AverageBits(float("nan")), "2 to 8"),
        (PackedSize(100), r"allow \d+ bytes"),
        (PackedSize(-1), "above 0"),
        (LargestDrop(-0.5), "above 0"),
        (LargestDrop(1e-9, "divergence"), r"allow \S+, or keep"),
        (LargestDrop(0.5, lambda _: 3.0), "allow 3, or keep"),
    ],
    ids=str,
)
def test_budgets_that_cannot_be_met_are_refused_with_the_nearest(
    budget: Budget, message: str, model: Path, base: Base, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        make(model, budget, tmp_path, base)
    assert refused.match(message)
    assert not (tmp_path / "model.onnx").exists()


def test_too_few_batches_are_refused(model: Path, base: Base, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 batches"):
        quantize_mixed(model, DATA[:3], ASYMMETRIC, AverageBits(4.0), tmp_path, base)


class FakeTarget:
    """Milliseconds made up from the nodes of a model: what is float, split or INT8 costs as told."""

    def __init__(self, whole: float, part: float, plain: float = 10.0) -> None:
        self.whole, self.part, self.plain = whole, part, plain
        self.timed = 0

    def __call__(self, models: Mapping[str, Path], inputs: Sequence[Batch]) -> dict[str, float]:
        assert all(len(value) == 1 for batch in inputs for value in batch.values())
        self.timed += len(models)
        return {name: self._ms(onnx.load(path)) for name, path in models.items()}

    def _ms(self, model: onnx.ModelProto) -> float:
        made = {name: node for node in model.graph.node for name in node.output}
        total = self.plain
        for node in model.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                weights = made.get(node.input[1])
                total += {"": self.whole, "Cast": self.part}.get(weights.op_type if weights else "", 0.0)
        return total


def formed(model: Path, base: Base, folder: Path, target: FakeTarget, ms: float) -> Mixed:
    return make(model, Latency(ms, target, alignment=4), folder, base)


def forms(made: Mixed) -> dict[str, str]:
    return {form.node: form.form for form in made.forms}


def test_time_left_is_spent_on_the_form_that_measures_best(model: Path, base: Base, tmp_path: Path) -> None:
    cheap_split = formed(model, base, tmp_path / "a", FakeTarget(whole=2.0, part=0.1), 10.35)
    assert list(forms(cheap_split).values()).count("split") == 2
    dear_split = formed(model, base, tmp_path / "b", FakeTarget(whole=0.1, part=2.0), 10.35)
    assert list(forms(dear_split).values()).count("float") == 3
    assert "split" not in forms(dear_split).values()
    for made in cheap_split, dear_split:
        assert made.distance < made.int8_distance
        chosen = [form for form in made.forms if form.form != "container"]
        assert all(
            form.latency_ms["split"] > 0 and form.reason for form in chosen if len(form.latency_ms) > 2
        )


def test_the_plan_says_which_channels_are_float(model: Path, base: Base, tmp_path: Path) -> None:
    made = formed(model, base, tmp_path, FakeTarget(whole=2.0, part=0.1), 10.15)
    (split,) = (form for form in made.forms if form.form == "split")
    bits = {layer.node: layer.bits for layer in made.plan.layers}
    assert bits[split.node].count(16) == split.float_channels
    assert split.float_channels % 4 == 0
    assert all(set(widths) == {8} for node, widths in bits.items() if node != split.node)
    constants = [item for item in onnx.load(made.model).graph.initializer if item.data_type == 10]
    assert [item.dims[0] for item in constants] == [split.float_channels]


def test_without_time_to_spare_everything_stays_int8(model: Path, base: Base, tmp_path: Path) -> None:
    made = formed(model, base, tmp_path, FakeTarget(whole=1.0, part=1.0), 10.0)
    assert set(forms(made).values()) == {"container"}
    assert all("other layers" in form.reason for form in made.forms)


def test_float_layers_that_cost_nothing_are_taken(model: Path, base: Base, tmp_path: Path) -> None:
    made = formed(model, base, tmp_path, FakeTarget(whole=-0.5, part=0.5), 10.1)
    assert set(forms(made).values()) == {"float"}


def test_a_latency_below_int8_is_refused_with_that_of_int8(model: Path, base: Base, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allow 10 ms"):
        formed(model, base, tmp_path, FakeTarget(1.0, 1.0), 9.0)


def test_the_latency_that_was_measured_is_recorded(model: Path, base: Base, tmp_path: Path) -> None:
    made = formed(model, base, tmp_path, FakeTarget(whole=1.0, part=0.9), 12.5)
    assert max(tried.figure for tried in made.tried if tried.figure <= 12.5) == 12.0
    jsonschema.validate(json.loads(json.dumps(made.document())), SCHEMA)
    assert np.isfinite(made.document()["distance"])
