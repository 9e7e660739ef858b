"""compile, evaluate: what needs a runtime and no clock."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from targets.errors import ModelError
from targets.preprocess import Preprocess
from targets.toolchain import Engine, EngineOptions, Toolchain, load_toolchain


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
    )
    text = accuracy.model_dump_json(indent=1)
    (context.out / "accuracy.json").write_text(text + "\n", encoding="utf-8")


def estimate(context: Context) -> None:
    """Score an ONNX file on the test split, for an engine that is not run. Artefact: accuracy.json."""
    session = OnnxSession(context.inputs["model"])
    accuracy = _score(
        *as_classifier(session.run, session.inputs, session.outputs),
        Task.load(context.inputs["task"]),
        context.inputs["test"],
        read_preprocess(context.inputs["preprocess"]),
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
) -> Accuracy:
    """Run an engine over a split and score it for a task.

    An engine with as many outputs as the task is taken as it is; one that tells apart all classes of the
    data set is restricted to the task's. The most frequent confusions come with so many `examples`. Without
    a `toolchain` the engine runs on this machine.

    Raises:
        ModelError: the engine's outputs are neither.
    """
    runner = (toolchain or load_toolchain(engine.toolchain)).open(engine)
    try:
        return _score(*classifier(runner), task, split, preprocess, progress, examples)
    finally:
        runner.close()


def _score(
    classify: Classify,
    batch: int,
    task: Task,
    split: Path,
    preprocess: Preprocess,
    progress: Progress,
    examples: int = 0,
) -> Accuracy:
    images, labels = read_split(split)
    labels = task.translate(labels)
    mine = np.flatnonzero(labels >= 0)
    done = itertools.accumulate(itertools.repeat(batch))
    scores = predict(
        classify,
        images if len(mine) == len(labels) else images[mine],
        preprocess,
        batch,
        lambda _: progress("evaluating", min(next(done), len(mine)), len(mine)),
    )
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
