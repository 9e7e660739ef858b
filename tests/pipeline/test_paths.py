from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import SHAPE, batches, build
from torch import Tensor, nn

from pipeline.compress.groups import find_groups
from pipeline.compress.paths import (
    PathScores,
    entries,
    exclusiveness,
    for_task,
    keep_set,
    layer_shares,
    path_removal,
    paths,
    score_paths,
    shares,
)
from pipeline.compress.readers import find_readers

CLASSES = ("top", "middle", "bottom")


@st.composite
def any_scores(draw: st.DrawFn) -> Tensor:
    """Scores [channels, classes] with ties and zeros among them; every class has some."""
    channels, classes = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    values = st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0]) | st.floats(0.01, 10.0)
    rows = draw(st.lists(values, min_size=channels * classes, max_size=channels * classes))
    found = torch.tensor(rows, dtype=torch.float64).view(channels, classes)
    found[draw(st.integers(0, channels - 1))] += 1.0
    return found


@given(any_scores(), st.floats(0.05, 1.0))
def test_a_path_holds_its_share_and_no_channel_can_be_spared(found: Tensor, share: float) -> None:
    mass, on = shares(found), paths(found, share)
    held = (mass * on).sum(0)
    assert (held >= share - 1e-8).all()
    least = torch.where(on, mass, 2.0).amin(0)
    assert (held - least < share + 1e-8).all()


@given(any_scores(), st.floats(0.05, 1.0), st.data())
def test_keep_sets_grow_with_the_classes_and_with_the_share(
    found: Tensor, share: float, data: st.DataObject
) -> None:
    some = data.draw(st.lists(st.integers(0, found.shape[1] - 1), min_size=1, unique=True))
    more = sorted({*some, data.draw(st.integers(0, found.shape[1] - 1))})
    assert {*keep_set(found[:, some], share)} <= {*keep_set(found[:, more], share)}
    assert {*keep_set(found, share)} <= {*keep_set(found, min(1.0, share + 0.1))}


@given(any_scores(), st.floats(0.05, 1.0))
def test_every_keep_set_is_a_suffix_of_the_order(found: Tensor, share: float) -> None:
    kept = keep_set(found, share)
    assert path_removal(found).keep(len(kept)) == kept


@given(any_scores(), st.floats(0.05, 1.0))
def test_exclusiveness_is_a_distance_of_sets(found: Tensor, share: float) -> None:
    apart = exclusiveness(found, share)
    on = paths(found, share)
    assert torch.equal(apart, apart.T)
    assert (apart.diagonal() == 0).all()
    for one in range(found.shape[1]):
        for other in range(found.shape[1]):
            both, either = (on[:, one] & on[:, other]).sum(), (on[:, one] | on[:, other]).sum()
            assert apart[one, other] == pytest.approx(1.0 - float(both) / float(either))


def test_a_class_without_scores_has_no_path() -> None:
    found = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    assert (entries(found)[:, 1] == 1.0).all()
    assert keep_set(found, 0.5) == [1]


class Planted(nn.Module):
    """Each class has two channels of its own that alone decide for it; the others decide nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 9, 3, padding=1)
        self.head = nn.Linear(9, 3)
        with torch.no_grad():
            self.stem.weight.abs_()
            self.head.weight.zero_()
            for label in range(3):
                self.head.weight[label, [label, label + 3]] = torch.tensor([1.0, 0.7])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.stem(x)).mean((2, 3)))
        return out


def test_planted_channels_come_back() -> None:
    network = Planted().eval()
    groups = find_groups(network, SHAPE)
    found = score_paths(network, find_readers(network, groups, SHAPE), batches(), CLASSES)
    on = paths(found.groups["stem"], 0.99)
    assert [on[:, label].nonzero().flatten().tolist() for label in range(3)] == [[0, 3], [1, 4], [2, 5]]
    assert (exclusiveness(found.groups["stem"], 0.99) == 1.0 - torch.eye(3)).all()
    task = for_task(found, (2, 0), other=False)["stem"]
    assert keep_set(task, 0.99) == [0, 2, 3, 5]
    assert {1, 4, 6, 7, 8} == {*path_removal(task).order[:5]}


def test_scores_do_not_depend_on_how_images_are_batched() -> None:
    network = build("residual")
    groups = find_groups(network, SHAPE)
    readers = find_readers(network, groups, SHAPE)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    many = batches()
    once = [(torch.cat([x for x, _ in many]), torch.cat([y for _, y in many]))]
    one, other = (score_paths(network, readers, given, CLASSES) for given in (many, once))
    torch.testing.assert_close(dict(one.groups), dict(other.groups), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(network.state_dict(), before)


def test_scores_survive_being_written(tmp_path) -> None:
    found = PathScores(CLASSES, {"a.b": torch.rand(4, 3).double(), "c": torch.rand(2, 3).double()})
    found.save(tmp_path / "paths.npz")
    again = PathScores.load(tmp_path / "paths.npz")
    assert again.classes == CLASSES
    assert list(again.groups) == ["a.b", "c"]
    torch.testing.assert_close(dict(again.groups), dict(found.groups), rtol=1e-6, atol=0.0)


def test_other_is_on_nobodys_path_alone() -> None:
    found = PathScores(CLASSES, {"c": torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 9.0]])})
    task = for_task(found, (0,), other=True)["c"]
    torch.testing.assert_close(task, torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]]))


def test_all_of_the_first_layer_and_less_and_less_behind() -> None:
    assert layer_shares(["a", "b", "c"], 0.9) == pytest.approx({"a": 1.0, "b": 0.95, "c": 0.9})
    assert layer_shares(["a"], 0.9) == pytest.approx({"a": 0.9})
