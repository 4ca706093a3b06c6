"""What the page of the labelling queue shows."""

from __future__ import annotations

from collections.abc import Mapping

from cloud_trainer.console.sources import Sources
from gymnast_core.bounds import whole_number
from gymnast_core.web.auth import User

DOUBTS_SHOWN = 13
DOUBTS = {
    "disagreement": ("contradicted", "A judge found otherwise than its label says. Yours decides."),
    "judges": ("judges differ", "Two judges found different things."),
    "abstention": ("judge abstained", "The judge does not label it."),
    "unlabelled": ("not labelled", "Nobody has labelled it, and no judge has looked at it."),
}
"""Why an episode waits -> in a word, and in a sentence."""


def queue(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, object]:
    """The newest episode that waits for a person, those before it, and where the judge is proven."""
    judging, before = sources.ask.judging, whole_number(query.get("before", "")) or 0
    doubts = judging.doubts(user, before=before, limit=DOUBTS_SHOWN)
    pin = f"/labelling?before={doubts[0].row.sequence + 1}" if doubts else ""  # what arrives meanwhile stays behind it
    return {
        "now": doubts[0] if doubts else None,
        "found": list(zip(doubts[0].judgements, judging.held(user, doubts[0]), strict=True)) if doubts else [],
        "pin": pin,
        "rest": doubts[1:],
        "wanted": before,
        "table": judging.precision(user),
        "judge": judging.version,
        "short": {kind: short for kind, (short, _) in DOUBTS.items()},
        "words": {kind: words for kind, (_, words) in DOUBTS.items()},
        "said": query.get("said", ""),
    }
