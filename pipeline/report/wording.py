"""What a share of right answers is called: only labels of the data set make it an accuracy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """Words for results, by who says what an image shows.

    Args:
        score: what a share of right answers is, in full.
        short: the same in one word.
        better: of the variant with more of it.
        truth: what images are sorted by into the rows of a confusion matrix.
        rows: the same in one word.
        right: of an answer that counts.
        note: what a reader has to know besides; empty where the words say all.
    """

    score: str
    short: str
    better: str
    truth: str
    rows: str
    right: str
    note: str = ""


def wording(labels: str) -> Wording:
    """Words for labels of the data set, or of the network named."""
    if labels == "data set":
        return Wording("accuracy", "accuracy", "more accurate", "what they show", "Shown", "right")
    return Wording(
        f"agreement with the {labels}",
        "agreement",
        f"nearer to the {labels}",
        f"what the {labels} takes them for",
        labels.capitalize(),
        f"as the {labels} says",
        f"The images have no labels. What the {labels} takes an image for counts as right, whether it is or "
        f"not: figures are agreement with the {labels}, in float and over all its classes, not accuracy.",
    )
