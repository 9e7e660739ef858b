"""How often a network is right: predictions over a data set, and what they score."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.record import Accuracy, ClassScore
from targets.batches import CHUNK, Infer, batch_size, batches
from targets.errors import DataError, ModelError
from targets.preprocess import Preprocess
from targets.toolchain import Runner, TensorSpec

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
Classify = Callable[[NDArray[np.float32]], NDArray[np.generic]]


def classifier(runner: Runner, chunk: int = CHUNK) -> tuple[Classify, int]:
    """Turn an opened engine of one input and one [N, classes] output into a function on arrays.

    Args:
        runner: opened engine.
        chunk: images at once where its batch is dynamic.

    Returns:
        The function, and the batch it has to be called with.

    Raises:
        ModelError: the engine has more inputs, or no output or more than one of rank 2.
    """
    return as_classifier(runner.infer, runner.inputs, runner.outputs, chunk)


def as_classifier(
    infer: Infer, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], chunk: int = CHUNK
) -> tuple[Classify, int]:
    """The same of anything that takes and gives named tensors; results and errors as of `classifier`."""
    image = _only(inputs, "inputs")
    scores = _only([spec for spec in outputs if len(spec.shape) == 2], "outputs [images, classes]")

    def classify(batch: NDArray[np.float32]) -> NDArray[np.generic]:
        return infer({image.name: batch})[scores.name]

    return classify, batch_size(inputs, chunk)


def predict(
    infer: Classify,
    images: NDArray[np.generic],
    preprocess: Preprocess,
    batch: int,
    progress: Callable[[int], None] = lambda _: None,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Run a classifier over a data set that may be larger than memory.

    Args:
        infer: takes exactly `batch` preprocessed images, returns [batch, K].
        images: [N, H, W, C], possibly memory-mapped; N ≥ 1.
        preprocess: from stored images to the network's input.
        batch: images in one call; the last call is filled up with the last image.
        progress: called after each batch with the number of images done in it.
        rows: which images [n], n ≥ 1; None for all.

    Returns:
        [n, K] scores.

    Raises:
        DataError: there is no image.
        ModelError: the output is not [batch, K].
    """
    wanted = np.arange(len(images)) if rows is None else rows
    if not len(wanted):
        raise DataError("there are no images to evaluate", mend="check the data set and its test split")
    parts: list[NDArray[np.float32]] = []
    for places in batches(len(wanted), batch):
        result = infer(preprocess(np.asarray(images[wanted[places]])))
        if result.ndim != 2 or len(result) != batch:
            raise ModelError(
                f"the network gives {list(result.shape)} for {batch} images, not one row of scores each",
                mend="give a classifier with one output [images, classes]",
            )
        parts.append(result.astype(np.float32))
        progress(int(places[-1] - places[0]) + 1)
    return np.concatenate(parts)[: len(wanted)]


def restrict(logits: NDArray[np.generic], wanted: Sequence[int], *, other: bool) -> NDArray[np.float64]:
    """Turn a network for all classes into one for some of them: the baseline nobody had to train.

    Args:
        logits: [N, K], before softmax.
        wanted: classes to keep, in the order of the outputs.
        other: everything else becomes one further, last output; otherwise the network chooses among the
            wanted classes alone.

    Returns:
        Log-probabilities [N, len(wanted) + other]; each row's probabilities sum to 1. With `other` they are
        those of the softmax over all K classes. −inf where `other` has no class left.

    Raises:
        ModelError: a wanted class is named twice or is none of the K.
    """
    classes = logits.shape[1]
    if len(set(wanted)) != len(wanted) or not all(0 <= index < classes for index in wanted):
        raise ModelError(
            f"classes {list(wanted)} are not different outputs of a network that has {classes}",
            mend="let the classes of the task be outputs of the network",
        )
    scores = logits.astype(np.float64)
    kept = scores[:, list(wanted)]
    if not other:
        return kept - _log_sum_exp(kept)
    rest = np.delete(scores, list(wanted), axis=1)
    return np.concatenate([kept, _log_sum_exp(rest)], axis=1) - _log_sum_exp(scores)


def score(predictions: NDArray[np.integer], labels: NDArray[np.integer], outputs: Sequence[str]) -> Accuracy:
    """Score predictions.

    Args:
        predictions: [N] indices into `outputs`.
        labels: [N] what is right.
        outputs: label of each output.

    Raises:
        DataError: there is no image, the lengths differ, or an index is no output.
    """
    if not len(labels) or predictions.shape != labels.shape:
        raise DataError(
            f"{len(predictions)} predictions for {len(labels)} labels cannot be scored",
            mend="give one prediction for each image, and at least one image",
        )
    if min(predictions.min(), labels.min()) < 0 or max(predictions.max(), labels.max()) >= len(outputs):
        raise DataError(
            f"labels or predictions lie outside 0..{len(outputs) - 1}", mend="check the task's classes"
        )
    count = len(outputs)
    flat = labels.astype(np.int64) * count + predictions.astype(np.int64)
    confusion = np.bincount(flat, minlength=count * count).reshape(count, count)
    correct = int(np.trace(confusion))
    return Accuracy(
        images=len(labels),
        correct=correct,
        top1=correct / len(labels),
        top1_interval=wilson(correct, len(labels)),
        classes=[_class_score(label, confusion, index) for index, label in enumerate(outputs)],
        confusion=confusion.tolist(),
        right=base64.b64encode(np.packbits(predictions == labels).tobytes()).decode("ascii"),
    )


def right_images(accuracy: Accuracy) -> NDArray[np.bool_] | None:
    """Return which test images were right, [images], or None where the record does not say.

    Raises:
        ModelError: the record says it of another number of images.
    """
    if accuracy.right is None:
        return None
    try:
        packed = np.frombuffer(base64.b64decode(accuracy.right, validate=True), np.uint8)
        right = np.unpackbits(packed, count=accuracy.images).astype(bool)
    except ValueError as error:
        raise ModelError("what was right is not base64 of one bit an image") from error
    if len(packed) != -(-accuracy.images // 8) or int(right.sum()) != accuracy.correct:
        raise ModelError(
            f"what was right is not said of {accuracy.images} images, {accuracy.correct} of them"
        )
    return right


def wilson(correct: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927, JASA 22:209–212, eq. for p₁ and p₂).

    Args:
        correct: successes, 0..count.
        count: trials, at least 1.
        z: quantile of the normal distribution; the default gives 95 %.
    """
    share = correct / count
    shrink = 1.0 + z * z / count
    centre = (share + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # The exact bounds at no and at full success are the ends; rounding must not cross the estimate.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def _class_score(label: str, confusion: NDArray[np.integer], index: int) -> ClassScore:
    right = int(confusion[index, index])
    count, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
    return ClassScore(
        label=label,
        count=count,
        recall=right / count if count else None,
        precision=right / predicted if predicted else None,
    )


def _log_sum_exp(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, K] → [N, 1], −inf for K = 0."""
    if not scores.shape[1]:
        return np.full((len(scores), 1), -np.inf)
    top: NDArray[np.float64] = scores.max(axis=1, keepdims=True)
    total: NDArray[np.float64] = np.exp(scores - top).sum(axis=1, keepdims=True)
    return top + np.log(total)


def _only(specs: Sequence[TensorSpec], what: str) -> TensorSpec:
    if len(specs) != 1:
        raise ModelError(
            f"the network has {len(specs)} {what}, one is needed",
            mend="give a classifier with one image input and one output of scores",
        )
    return specs[0]
