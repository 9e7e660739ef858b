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
        ("compiled with", _compiled_with(now), _compiled_with(before)),
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


def _compiled_with(manifest: Manifest) -> str:
    return manifest.target.toolchain_version or "what the device has"


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
    yield from _accuracy(now, before)
    yield from _latency(now, before)
    yield from _sizes(now, before)
    if now.inputs != before.inputs or now.outputs != before.outputs:
        yield "**inputs or outputs have other names, types or shapes**"
    gone, come = _operators(now, before)
    if gone or come:
        yield f"operators: {' '.join(['+' + name for name in come] + ['−' + name for name in gone])}"


def _accuracy(now: ProductInfo, before: ProductInfo) -> Iterator[str]:
    """What engines on the device scored, or both ONNX files; one of each is no comparison."""
    old, new = before.accuracy, now.accuracy
    what = "accuracy"
    if before.not_run and now.not_run:
        old, new = before.not_run.onnx_accuracy, now.not_run.onnx_accuracy
        what = "accuracy of the ONNX file"
    if old and new and (old.top1, old.images) != (new.top1, new.images):
        sure = "" if _apart(old.top1_interval, new.top1_interval) else ", within what chance explains"
        points = 100 * (new.top1 - old.top1)
        yield f"{what} {old.top1:.2%} → {new.top1:.2%} ({points:+.2f} points{sure})"
    elif (old is None) != (new is None):
        then, since = (f"{each.top1:.2%}" if each else "not measured" for each in (old, new))
        yield f"accuracy on the device {then} → {since}"


def _latency(now: ProductInfo, before: ProductInfo) -> Iterator[str]:
    old, new = before.latency, now.latency
    then, since = (milliseconds(each.median_ms) if each else "not measured" for each in (old, new))
    if old and new and old.median_ms != new.median_ms:
        apart = _apart(old.median_interval_ms, new.median_interval_ms)
        sure = "" if apart else ", within what chance explains"
        share = new.median_ms / old.median_ms - 1
        yield f"median latency {then} → {since} ({share:+.1%}{sure})"
    elif (old is None) != (new is None):
        yield f"median latency {then} → {since}"


def _sizes(now: ProductInfo, before: ProductInfo) -> Iterator[str]:
    old, new = (each.engine.size_bytes if each.engine else None for each in (before, now))
    if old != new:
        then, since = ("built on the device" if size is None else f"{size:,} bytes" for size in (old, new))
        yield f"engine {then} → {since}"
    if now.model.parameters != before.model.parameters:
        yield f"parameters {before.model.parameters:,} → {now.model.parameters:,}"


def _operators(now: ProductInfo, before: ProductInfo) -> tuple[list[str], list[str]]:
    old, new = set(before.model.operators), set(now.model.operators)
    return sorted(old - new), sorted(new - old)


def _apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[1] < other[0] or other[1] < one[0]
