"""Filter grafting: what the mixing obeys, and that a ring of networks trains."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_functions import CPU, examples, network, ring
from training_functions import SETTINGS as MANY

from pipeline.compress.distill import cross_entropy
from pipeline.compress.graft import Cultivation, equal_epochs, fit_grafted, fit_or_graft
from pipeline.compress.mixing import diverse_rate, entropy, mixed, own_share, own_shares
from pipeline.fit import accuracy
from pipeline.network import load_weights
from pipeline.run import Listener, Run
from pipeline.stage import Stage
from pipeline.store import Store

HERE = Path(__file__).parent
SETTINGS = replace(MANY, epochs=4, batch_size=32, flip=False, shift=0)
entropies = st.floats(0.0, math.log(10))


def quiet(*_):
    """Tell nobody."""


def plain(_):
    return nullcontext(cross_entropy)


def states(*seeds):
    return [network(seed=seed).state_dict() for seed in seeds]


@given(entropies, entropies)
def test_two_layers_keep_all_of_each_other_between_them(a, b):
    assert own_share(a, b) + own_share(b, a) == pytest.approx(1.0)
    assert 0.0 < own_share(a, b) < 1.0
    assert (own_share(a, b) > 0.5) == (a > b) or math.isclose(a, b, abs_tol=1e-12)


def test_entropy_counts_how_evenly_weights_lie():
    assert entropy(torch.zeros(4, 4)) == pytest.approx(0.0)
    assert entropy(torch.arange(1000.0)) == pytest.approx(math.log(10))
    assert entropy(torch.tensor([0.0] * 99 + [1.0])) < entropy(torch.randn(100))


def test_without_strength_grafting_is_the_mean():
    own, other = states(0, 1)
    for name, weights in mixed(own, other, own_shares(own, other, strength=0.0)).items():
        if weights.is_floating_point():
            torch.testing.assert_close(weights, (own[name] + other[name]) / 2)


def test_the_result_depends_on_both_networks():
    own, other, third = states(0, 1, 2)
    first = mixed(own, other, own_shares(own, other))
    by_other = mixed(own, third, own_shares(own, third))
    by_own = mixed(third, other, own_shares(third, other))
    assert not torch.equal(first["0.weight"], by_other["0.weight"])
    assert not torch.equal(first["0.weight"], by_own["0.weight"])


def test_two_networks_are_one_right_after_a_graft():
    a, b = states(0, 1)
    one, other = mixed(a, b, own_shares(a, b)), mixed(b, a, own_shares(b, a))
    for name, weights in one.items():
        torch.testing.assert_close(weights, other[name])


def test_what_follows_a_convolution_is_mixed_as_it_is():
    own, other = states(0, 1)
    shares = own_shares(own, other)
    assert len(set(shares.values())) == 1
    assert shares["0.weight"] == own_share(entropy(own["0.weight"]), entropy(other["0.weight"]))


@given(st.floats(1e-3, 1.0), st.integers(2, 6))
def test_learning_rates_differ_and_the_last_is_the_one_asked_for(rate, networks):
    rates = [diverse_rate(rate, number, networks) for number in range(1, networks + 1)]
    assert rates == sorted(rates)
    assert len(set(rates)) == networks
    assert rates[-1] == pytest.approx(rate)
    assert rates[0] > 0


def test_a_single_network_gets_no_less_compute():
    assert equal_epochs(2, 1) == 2
    assert equal_epochs(3, 4) >= 3 * 4


def test_softened_outputs_count_once_there_is_a_network_to_learn_from():
    images, logits, labels = torch.randn(4, 1, 8, 8), torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    loss, other = Cultivation(cross_entropy), network(seed=1).eval()
    alone = cross_entropy(images, logits, labels, 0.5)
    assert torch.equal(loss(images, logits, labels, 0.5), alone)
    loss.learn_from(other)
    assert loss(images, logits, labels, 0.5) > alone
    assert not [*loss.parameters()], "the other network is not trained by this loss"
    told = other(images)
    torch.testing.assert_close(loss(images, told, labels, 0.5), cross_entropy(images, told, labels, 0.5))


@pytest.mark.parametrize("networks", [2, 3])
def test_a_ring_learns_and_leaves_the_best_of_it(networks):
    first, second = network(), network()
    given = (networks, plain, examples(), examples(seed=1), SETTINGS, 0, quiet)
    trained = fit_grafted(first, *given, hardware=CPU)
    assert trained.select_top1 == accuracy(first, examples(seed=1)) > 0.9
    assert len(trained.results) == SETTINGS.epochs
    again = fit_grafted(second, *given, hardware=CPU)
    assert again == trained
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_grafting_is_kept_only_if_the_select_split_prefers_it():
    model = network()
    trained = fit_or_graft(
        model, 2, plain, examples(), examples(seed=1), replace(SETTINGS, epochs=1), 0, quiet
    )
    assert trained.select_top1 == accuracy(model, examples(seed=1))
    assert "2 grafted networks" in trained.words
    assert ("the grafted is kept" in trained.words) != ("the single one is kept" in trained.words)


def test_a_ring_of_processes_trains_as_a_ring_in_one_does(tmp_path):
    together, apart = network(), tmp_path / "apart"
    trained = ring(together, 2)
    apart.mkdir()
    store = Store(tmp_path / "store")
    store.prepare()
    stage = Stage("s", "training_functions:graft", files={"out": apart}, processes=2)
    Run(store, tmp_path, tmp_path / "debris", HERE, Listener()).run([stage])
    results = torch.tensor([(one.loss, one.select_top1) for one in trained.results])
    for rank in (0, 1):
        found = load_weights(apart / f"{rank}.safetensors")
        torch.testing.assert_close(found.pop("results"), results)
        assert float(found.pop("select")) == pytest.approx(trained.select_top1)
        torch.testing.assert_close(found, dict(together.state_dict()))


def test_one_network_trains_as_it_always_did():
    model, other = network(), network()
    given = (examples(), examples(seed=1), SETTINGS, 0, quiet)
    trained = fit_or_graft(model, 1, plain, *given)
    assert trained.words == ""
    assert len(trained.results) == SETTINGS.epochs
    from pipeline.fit import fit

    assert fit(other, cross_entropy, *given) == trained.results
    for a, b in zip(copy.deepcopy(model).state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
