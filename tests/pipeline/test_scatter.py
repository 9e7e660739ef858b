from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SHAPE, batches, build
from torch import Tensor

from pipeline.compress.groups import find_groups
from pipeline.compress.readers import find_readers
from pipeline.compress.scatter import WIDE, Scatter, blocks, collect, gram, one_hot, pooled

seeds = st.integers(0, 2**31)


def samples(seed: int, count: int, columns: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Far from zero, where centring at the end would lose every digit.
    x = torch.randn(count, columns, generator=generator, dtype=torch.float64) + 1e4
    return x, torch.nn.functional.one_hot(torch.arange(count) % classes, classes).double()


def same(one: Scatter, other: Scatter, tolerance: float = 1e-9) -> None:
    assert one.count == pytest.approx(other.count)
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        a, b = getattr(one, name), getattr(other, name)
        scale = float(b.abs().max()) + 1e-12
        assert float((a - b).abs().max()) / scale < tolerance, name


@settings(deadline=None, max_examples=40)
@given(seeds, st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_partial_sums_merge_to_one_pass(seed: int, sizes: list[int]) -> None:
    x, y = samples(seed, sum(sizes))
    merged = None
    for part_x, part_y in zip(x.split(sizes), y.split(sizes), strict=True):
        part = Scatter.of(part_x, part_y)
        if merged is None:
            merged = part
        else:
            merged.merge(part)
    assert merged is not None
    same(merged, Scatter.of(x, y))


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(2, 30))
def test_one_pass_is_the_textbook_formula(seed: int, count: int) -> None:
    x, y = samples(seed, count)
    found = Scatter.of(x, y)
    centred = x - x.mean(0)
    torch.testing.assert_close(found.xx, centred.T @ centred)
    torch.testing.assert_close(found.xy, centred.T @ (y - y.mean(0)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("columns", [1, 2 * WIDE, 2 * WIDE + 1, 4 * WIDE + 3])
def test_half_of_a_gram_matrix_is_enough(columns: int) -> None:
    x = torch.randn(7, columns, dtype=torch.float64)
    torch.testing.assert_close(gram(x), x.T @ x)


def test_class_statistics() -> None:
    x, y = samples(3, 31)
    found = Scatter.of(x, y)
    means = torch.stack([x[y[:, k] == 1].mean(0) for k in range(3)])
    torch.testing.assert_close(found.class_counts(), y.sum(0))
    torch.testing.assert_close(found.class_means(), means)
    between = (y.sum(0)[:, None] * (means - x.mean(0)).square()).sum(0)
    torch.testing.assert_close(found.between(), between, rtol=1e-6, atol=1e-6)
    within = (x - y @ means).square().sum(0)
    torch.testing.assert_close(found.within(), within, rtol=1e-6, atol=1e-6)


def test_balanced_targets_have_unit_norm_and_empty_classes_none() -> None:
    x, y = samples(3, 30)
    y = torch.cat([y, torch.zeros(30, 1, dtype=torch.float64)], dim=1)
    balanced = Scatter.of(x, y).balanced()
    torch.testing.assert_close(balanced.yy.diagonal(), torch.tensor([1.0, 1.0, 1.0, 0.0]).double())
    assert torch.isfinite(balanced.xy).all()


@pytest.mark.parametrize("name", ["chain", "depthwise", "residual"])
def test_collect_is_independent_of_how_images_are_batched(name: str) -> None:
    network = build(name)
    groups = find_groups(network, SHAPE)
    readers = find_readers(network, groups, SHAPE)
    small = batches()
    large = [(torch.cat([x for x, _ in small]), torch.cat([y for _, y in small]))]
    one = collect(network, readers, small, one_hot(3))
    other = collect(network, readers, large, one_hot(3))
    for group in groups:
        same(one[group.leader], other[group.leader], 1e-5)
        assert len(blocks(readers[group.leader])) == group.width


def test_readers_see_channels_where_flatten_puts_them() -> None:
    network = build("chain")
    readers = find_readers(network, find_groups(network, SHAPE), SHAPE)
    (reader,) = readers["c"]
    assert reader.layer == "d"
    assert reader.columns.tolist() == [list(range(16 * c, 16 * c + 16)) for c in range(5)]
    maps = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(pooled([reader], {"d": maps.flatten(1)}), maps.mean((2, 3)).double())


def test_readers_of_a_residual_sum() -> None:
    network = build("residual")
    readers = find_readers(network, find_groups(network, SHAPE), SHAPE)
    found = [(reader.layer, reader.source) for reader in readers["stem.0"]]
    assert found == [("stages.0.0.conv1", 0), ("stages.1.0.conv1", 1), ("stages.1.0.shortcut.0", 1)]
    assert blocks(readers["stem.0"]).tolist() == [[c, c + 8] for c in range(8)]


def test_depthwise_convolutions_do_not_count_as_readers() -> None:
    network = build("depthwise")
    readers = find_readers(network, find_groups(network, SHAPE), SHAPE)
    assert [reader.layer for reader in readers["up"]] == ["down"]
