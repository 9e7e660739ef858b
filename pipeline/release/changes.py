"""CHANGES.md: what differs from the release before, in figures."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.release.manifest import Manifest, ProductInfo
from targets.bundle.figures import milliseconds


def changes_text(now: Manifest, before: Manifest | None) -> str:
    """Return CHANGES.md: accuracy, latency, size, operators, labels and input, against another release.

    Args:
        now: this release; its list of files is not looked at.
        before: the release it follows; None for a first one.
    """
    lines = [f"# {now.name} {now.version} on {now.target.name}", ""]
    if before is None:
        lines.append("The first release, or none to compare with was given.")
    else:
        lines += [f"Against {before.bundle}, built {before.released_from}.", ""]
        found = [*_general(now, before), *_products(now, before)]
        lines += [f"- {line}" for line in found] or ["Nothing a user would notice has changed."]
    return "\n".join(lines) + "\n"


def _general(now: Manifest, before: Manifest) -> Iterator[str]:
    for what, new, old in (
        ("device", now.target.device, before.target.device),
        ("runtime", now.target.runtime, before.target.runtime),
        ("compiled with", now.target.toolchain_version, before.target.toolchain_version),
        ("data set", now.data.name, before.data.name),
        ("licence of the model", now.model_licence, before.model_licence),
        ("licence of the data", now.data.licence, before.data.licence),
    ):
        if new != old:
            yield f"{what}: {old} → {new}"
    if now.labels != before.labels:
        yield f"**labels**: {', '.join(before.labels)} → {', '.join(now.labels)}"
    if now.pixels != before.pixels:
        yield "**input**: images are prepared in another way; see `pixels` in manifest.json"


def _products(now: Manifest, before: Manifest) -> Iterator[str]:
    old = {product.variant: product for product in before.products}
    new = {product.variant: product for product in now.products}
    yield from (f"{name}: new" for name in new if name not in old)
    yield from (f"{name}: gone" for name in old if name not in new)
    for name, product in new.items():
        if name in old:
            yield from (f"{name}: {line}" for line in _product(product, old[name]))


def _product(now: ProductInfo, before: ProductInfo) -> Iterator[str]:
    if now.model.sha256_onnx == before.model.sha256_onnx:
        yield "the same model"
    a, b = before.accuracy, now.accuracy
    if (a.top1, a.images) != (b.top1, b.images):
        sure = "" if _apart(a.top1_interval, b.top1_interval) else ", within what chance explains"
        yield f"accuracy {a.top1:.2%} → {b.top1:.2%} ({100 * (b.top1 - a.top1):+.2f} points{sure})"
    early, late = before.latency, now.latency
    if early.median_ms != late.median_ms:
        apart = _apart(early.median_interval_ms, late.median_interval_ms)
        sure = "" if apart else ", within what chance explains"
        share = late.median_ms / early.median_ms - 1
        then, now_ms = milliseconds(early.median_ms), milliseconds(late.median_ms)
        yield f"median latency {then} → {now_ms} ({share:+.1%}{sure})"
    yield from _sizes(now, before)
    if now.inputs != before.inputs or now.outputs != before.outputs:
        yield "**inputs or outputs have other names, types or shapes**"
    gone, come = _operators(now, before)
    if gone or come:
        yield f"operators: {' '.join(['+' + name for name in come] + ['−' + name for name in gone])}"


def _sizes(now: ProductInfo, before: ProductInfo) -> Iterator[str]:
    if now.engine.size_bytes != before.engine.size_bytes:
        yield f"engine {before.engine.size_bytes:,} → {now.engine.size_bytes:,} bytes"
    if now.model.parameters != before.model.parameters:
        yield f"parameters {before.model.parameters:,} → {now.model.parameters:,}"


def _operators(now: ProductInfo, before: ProductInfo) -> tuple[list[str], list[str]]:
    old, new = set(before.model.operators), set(now.model.operators)
    return sorted(old - new), sorted(new - old)


def _apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[1] < other[0] or other[1] < one[0]
