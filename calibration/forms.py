"""Spend milliseconds on accuracy: which layers run as INT8, which are split, which stay in float.

Weights of fewer bits never change the latency of the *container* form: INT8 values on a coarser grid. What
does is float: of some of a layer's output channels (*split*) or of all. Which is worth its time depends on
the target, so each form of each sensitive layer is timed there, beside plain INT8, in the whole model; then
the steps that save most divergence a millisecond are taken, as many as the budget allows, measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.bits import Item, hull_steps
from calibration.budgets import Latency
from calibration.variants import Split, Variants
from targets.errors import ConfigError

Form = Literal["container", "split", "float"]
FORMS: tuple[Form, ...] = ("container", "split", "float")
# Of the plain INT8 latency: what cannot be told from nothing.
LEAST_PRICE = 1e-3
# Whole models measured on the way to the one that fits.
ROUNDS = 6
# Of a layer's noise, what the channels of its split that stay float carry.
SHARE = 0.5


@dataclass(frozen=True)
class LayerForm:
    """How a layer runs, and why.

    Args:
        node: its name.
        form: chosen.
        float_channels: output channels in 16-bit float.
        latency_ms: form → the whole model's latency with this layer alone in that form, measured together.
        divergence: form → what this layer alone, quantized in that form, moves the model's outputs.
        reason: in words.
    """

    node: str
    form: Form
    float_channels: int
    latency_ms: dict[str, float]
    divergence: dict[str, float]
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A layer that may be split or kept in float.

    Args:
        node: its name.
        divergence: of the model's outputs when it alone is quantized.
        split: its output channels that would stay float, [C]; None where it cannot be split.
        split_divergence: what is left of the divergence then.
        channels: C.
    """

    node: str
    divergence: float
    split: NDArray[np.bool_] | None
    split_divergence: float
    channels: int

    @property
    def divergences(self) -> dict[Form, float]:
        """Form → what is left of the divergence."""
        left: dict[Form, float] = {"container": self.divergence, "float": 0.0}
        return left if self.split is None else {**left, "split": self.split_divergence}


def split_mask(weight: NDArray[np.float64], alignment: int) -> NDArray[np.bool_] | None:
    """Return the fewest channels that carry `SHARE` of a layer's noise, None where no split is left.

    Args:
        weight: sensitivity-weighted noise of each channel, [C].
        alignment: the number of channels is a multiple of it, in either part but for the last.
    """
    order = np.argsort(-weight, kind="stable")
    total = float(weight.sum())
    if len(weight) <= alignment or total <= 0.0:
        return None
    needed = int(np.searchsorted(np.cumsum(weight[order]), SHARE * total)) + 1
    count = -(-needed // alignment) * alignment
    if count >= len(weight):
        return None
    mask = np.zeros(len(weight), bool)
    mask[order[:count]] = True
    return mask


@dataclass(frozen=True)
class Step:
    """A layer that takes another form, and what more that takes than the form before; milliseconds."""

    node: str
    form: Form
    price: float


@dataclass(frozen=True)
class Spending:
    """What a latency budget was spent on.

    Args:
        forms: of all candidates.
        tried: (forms chosen for layers that are not INT8, milliseconds) of every model measured as a whole.
    """

    forms: tuple[LayerForm, ...]
    tried: tuple[tuple[Mapping[str, Form], float], ...]


def spend(
    budget: Latency,
    candidates: Sequence[Candidate],
    variants: Variants,
    progress: Callable[[str, int, int], None],
) -> Spending:
    """Choose the form of every layer.

    Args:
        budget: milliseconds, and who measures them.
        candidates: most sensitive first.
        variants: writes the models to be timed.
        progress: called with what is being done, how much of it is done and how much there is.

    Raises:
        ConfigError: plain INT8 is slower than the budget; the message gives its latency.
    """
    splits = {item.node: item.split for item in candidates if item.split is not None}
    plain = variants.write({}, ())
    alone = budget.timer({"int8": plain}, variants.inputs)["int8"]
    if alone > budget.ms:
        raise _too_slow(budget.ms, alone)
    times = {}
    for number, item in enumerate(candidates):
        progress("timing the forms of layers", number, len(candidates))
        models: dict[str, Path] = {
            form: variants.write(*changes({item.node: form}, splits)) for form in item.divergences
        }
        times[item.node] = dict(budget.timer(models, variants.inputs))
    steps = _steps(candidates, times, alone)
    tried: list[tuple[dict[str, Form], float]] = []

    def measured(forms: dict[str, Form]) -> float:
        progress("timing whole models", len(tried), ROUNDS)
        model = variants.write(*changes(forms, splits))
        tried.append((forms, budget.timer({"mixed": model}, variants.inputs)["mixed"]))
        return tried[-1][1]

    chosen = _search(steps, budget.ms, alone, measured)
    return Spending(tuple(_described(item, chosen, times[item.node]) for item in candidates), tuple(tried))


def _search(
    steps: Sequence[Step], allowed: float, alone: float, measured: Callable[[dict[str, Form]], float]
) -> dict[str, Form]:
    """Return the forms that save most within the time allowed, corrected by what whole models take."""
    best: dict[str, Form] = {}
    low, high = 0.0, 2.0 * (allowed - alone) + sum(step.price for step in steps)
    allowance = allowed - alone
    seen = [best]
    for _ in range(ROUNDS):
        forms = _within(steps, allowance)
        if forms in seen:
            break
        seen.append(forms)
        left = allowed - measured(forms)
        if left >= 0.0:
            low, best = allowance, forms
        else:
            high = allowance
        wanted = allowance + left
        allowance = wanted if low < wanted < high else (low + high) / 2.0
    return best


def _within(steps: Sequence[Step], allowance: float) -> dict[str, Form]:
    """Take steps while there is time for them; a layer ends where one of its steps was too long."""
    forms: dict[str, Form] = {}
    ended: set[str] = set()
    for step in steps:
        if step.price > allowance:
            ended.add(step.node)
        if step.node not in ended:
            forms[step.node] = step.form
            allowance -= step.price
    return forms


def changes(forms: Mapping[str, Form], splits: Mapping[str, Split]) -> tuple[dict[str, Split], list[str]]:
    """Return which layers are split where, and which are float as a whole."""
    parts = {node: splits[node] for node, form in forms.items() if form == "split"}
    return parts, [node for node, form in forms.items() if form == "float"]


def _steps(
    candidates: Sequence[Candidate], times: Mapping[str, Mapping[str, float]], alone: float
) -> list[Step]:
    """Return the steps in the order of divergence saved a millisecond, along each layer's convex hull.

    Forms of one layer were timed together, different layers were not: a machine that was slower for a while
    must not make them dearer, so that milliseconds are shares of plain INT8's.
    """
    steps = []
    for item in candidates:
        left, took = item.divergences, times[item.node]
        forms = sorted(
            (form for form in left if form != "container"), key=lambda form: (took[form], left[form])
        )
        cost = [0.0]
        for form in forms:
            share = max(took[form] / took["container"] - 1.0, cost[-1] / alone + LEAST_PRICE)
            cost.append(share * alone)
        noise = np.array([left["container"], *(left[form] for form in forms)])
        for choice, gain, price in hull_steps(Item(np.array(cost), noise)):
            steps.append((gain, Step(item.node, forms[choice - 1], price)))
    return [step for _, step in sorted(steps, key=lambda pair: -pair[0])]


def _described(item: Candidate, chosen: Mapping[str, Form], times: Mapping[str, float]) -> LayerForm:
    form = chosen.get(item.node, "container")
    channels = {"container": 0, "split": 0 if item.split is None else int(item.split.sum())}
    left = item.divergences
    return LayerForm(
        node=item.node,
        form=form,
        float_channels=channels.get(form, item.channels),
        latency_ms={name: float(times[name]) for name in FORMS if name in times},
        divergence={name: float(left[name]) for name in FORMS if name in left},
        reason=_reason(form, left, times),
    )


def _reason(form: Form, left: Mapping[Form, float], times: Mapping[str, float]) -> str:
    def text(name: Form) -> str:
        more, saved = times[name] - times["container"], left["container"] - left[name]
        return f"{name} {more:+.4f} ms for {saved:.2g} of divergence"

    offers = ", ".join(text(name) for name in FORMS if name in left and name != "container")
    if "split" not in left:
        offers += "; cannot be split usefully"
    kept = "INT8: other layers save more in the time allowed" if form == "container" else f"{form} pays best"
    return f"{kept} ({offers})"


def _too_slow(wanted: float, got: float) -> ConfigError:
    return ConfigError(
        f"{wanted:g} ms cannot be met: plain INT8, the fastest form, takes {got:.3g} ms here",
        mend=f"allow {got:.3g} ms, or make the network smaller: [structure] has budgets in milliseconds",
    )
