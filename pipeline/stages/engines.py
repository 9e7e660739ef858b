"""compile, evaluate: what needs a runtime and no clock."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cluster import clustered, over_shards
from pipeline.evaluate import Classify, as_classifier, classifier, predict, restrict, score
from pipeline.mistakes import mistakes
from pipeline.onnxmodel.session import OnnxSession
from pipeline.places import toolchain_of
from pipeline.record import Accuracy
from pipeline.stage import Context, Progress
from pipeline.stages.data import read_preprocess, read_split
from pipeline.task import Task
from targets.capability import Capability
from targets.checks import require_runnable
from targets.errors import DeviceError, ModelError
from targets.preprocess import Preprocess
from targets.toolchain import Engine, EngineOptions, Toolchain, load_toolchain

# images, rows, progress → scores
ScoresOf = Callable[[NDArray[np.generic], NDArray[np.int64], Callable[[int], None]], NDArray[np.float32]]
# Batches a worker of a cluster sees at a time.
SHARD = 32


def compile_engine(context: Context) -> None:
    """Compile a model for a device. Artefact: engine, a folder with engine.json."""
    settings = context.settings
    model = context.inputs["model"]
    capability = Capability.model_validate(settings["capability"])
    require_runnable(model, capability, f"{settings['device']} with {settings['toolchain']}")
    folder = context.out / "engine"
    folder.mkdir()
    options = EngineOptions(settings["precision"], settings["threads"], settings["raw"])
    toolchain_of(settings, context.progress).compile(model, settings["device"], options, folder)


def compile_alone(context: Context) -> None:
    """Compile a model that was checked, outside of a build. Its folder is the engine's."""
    settings = context.settings
    options = EngineOptions(settings["precision"], settings["threads"], settings["raw"])
    toolchain = toolchain_of(settings, context.progress)
    toolchain.compile(context.inputs["model"], settings["device"], options, context.out)


def evaluate(context: Context) -> None:
    """Score an engine on the test split. Artefact: accuracy.json.

    This is the only stage that is given the test split.
    """
    accuracy = score_engine(
        Engine.load(context.inputs["engine"]),
        Task.load(context.inputs["task"]),
        context.inputs["test"],
        read_preprocess(context.inputs["preprocess"]),
        context.progress,
        context.settings["examples"],
        toolchain_of(context.settings, context.progress),
        spread=clustered() and "host" not in context.settings,
    )
    text = accuracy.model_dump_json(indent=1)
    (context.out / "accuracy.json").write_text(text + "\n", encoding="utf-8")


def estimate(context: Context) -> None:
    """Score an ONNX file on the test split, for an engine that is not run. Artefact: accuracy.json."""
    session = OnnxSession(context.inputs["model"])
    classify, batch = as_classifier(session.run, session.inputs, session.outputs)
    accuracy = _score(
        partial(_here, classify, batch, read_preprocess(context.inputs["preprocess"])),
        batch,
        Task.load(context.inputs["task"]),
        context.inputs["test"],
        context.progress,
    )
    text = accuracy.model_dump_json(indent=1)
    (context.out / "accuracy.json").write_text(text + "\n", encoding="utf-8")


def score_engine(
    engine: Engine,
    task: Task,
    split: Path,
    preprocess: Preprocess,
    progress: Progress,
    examples: int = 0,
    toolchain: Toolchain | None = None,
    spread: bool = False,
) -> Accuracy:
    """Run an engine over a split and score it for a task.

    An engine with as many outputs as the task is taken as it is; one that tells apart all classes of the
    data set is restricted to the task's. The most frequent confusions come with so many `examples`. Without
    a `toolchain` the engine runs on this machine; `spread`, on workers of the cluster that are like it.

    Raises:
        ModelError: the engine's outputs are neither.
    """
    tool = toolchain or load_toolchain(engine.toolchain)
    runner = tool.open(engine)
    try:
        classify, batch = classifier(runner)
        if spread:
            part = partial(predict_part, engine.folder, tool.fingerprint(), split / "images.npy", preprocess)
            return _score(partial(_spread, part, SHARD * batch), batch, task, split, progress, examples)
        here = partial(_here, classify, batch, preprocess)
        return _score(here, batch, task, split, progress, examples)
    finally:
        runner.close()


def predict_part(
    folder: Path,
    fingerprint: Mapping[str, str],
    images: Path,
    preprocess: Preprocess,
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Scores [n, K] of some images by an engine, on whichever machine this is.

    Args:
        folder: of the engine.
        fingerprint: of the machine and runtime its figures are to be of.
        images: .npy file of the split.
        preprocess: from stored images to the network's input.
        rows: which images [n].

    Raises:
        DeviceError: this machine or its runtime is another.
    """
    engine = Engine.load(folder)
    toolchain = load_toolchain(engine.toolchain)
    if toolchain.fingerprint() != fingerprint:
        raise DeviceError(
            "a worker's CPU or runtime is not that of the machine the build is for",
            where=platform.node(),
            mend="give the cluster workers that are alike, or build without --scheduler",
        )
    runner = toolchain.open(engine)
    try:
        classify, batch = classifier(runner)
        return predict(classify, np.load(images, mmap_mode="r"), preprocess, batch, rows=rows)
    finally:
        runner.close()


def _here(
    classify: Classify,
    batch: int,
    preprocess: Preprocess,
    images: NDArray[np.generic],
    rows: NDArray[np.int64],
    progress: Callable[[int], None],
) -> NDArray[np.float32]:
    return predict(classify, images, preprocess, batch, progress, rows)


def _spread(
    part: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    size: int,
    images: NDArray[np.generic],
    rows: NDArray[np.int64],
    progress: Callable[[int], None],
) -> NDArray[np.float32]:
    """The same from a cluster. Shards are whole batches: every image is in the batch it would be in here."""
    del images, progress
    shards = [rows[start : start + size] for start in range(0, len(rows), size)]
    return np.concatenate(list(over_shards(part, shards)))


def _score(
    scores_of: ScoresOf,
    batch: int,
    task: Task,
    split: Path,
    progress: Progress,
    examples: int = 0,
) -> Accuracy:
    images, labels = read_split(split)
    labels = task.translate(labels)
    mine = np.flatnonzero(labels >= 0)
    done = itertools.accumulate(itertools.repeat(batch))
    scores = scores_of(images, mine, lambda _: progress("evaluating", min(next(done), len(mine)), len(mine)))
    predictions = _predictions(scores, task)
    accuracy = score(predictions, labels[mine], task.outputs)
    shown = mistakes(accuracy, images, labels[mine], predictions, mine, examples)
    return accuracy.model_copy(update={"mistakes": shown})


def _predictions(scores: NDArray[np.float32], task: Task) -> NDArray[np.int64]:
    if scores.shape[1] not in (len(task.outputs), len(task.known)):
        raise ModelError(
            f"the network gives {scores.shape[1]} scores; the task has {len(task.outputs)} outputs, "
            f"the data {len(task.known)} classes",
            where="task.classes",
            mend="name the classes this network tells apart",
        )
    own = scores.shape[1] == len(task.outputs)
    seen = scores if own else restrict(scores, task.wanted, other=task.other)
    chosen: NDArray[np.int64] = seen.argmax(axis=1)
    return chosen
