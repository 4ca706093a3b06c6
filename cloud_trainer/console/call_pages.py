"""What the page of calls for a person shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cloud_trainer.console.sources import Sources
from cloud_trainer.store.sql_pages import PageRow
from gymnast_core.paging import KINDS, PageDelivery
from gymnast_core.web.auth import User


def calls(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, object]:
    """Calls for a person: open ones with their messages, answered ones, and the receivers."""
    ask = sources.ask.pages
    found = ask.all(user)
    unanswered = [page for page in found if not page.acknowledged_ns]
    deliveries = ask.deliveries(user, unanswered)
    return {
        "open": [_call(page, deliveries.get(page.page_id, [])) for page in unanswered],
        "answered": [page for page in found if page.acknowledged_ns],
        "receivers": ask.receivers(user),
        "said": query.get("said", ""),
    }


def _call(page: PageRow, deliveries: Sequence[PageDelivery]) -> dict[str, object]:
    """An open call, with whom it reached."""
    reached = sorted({one.receiver for one in deliveries if one.sent_ns})
    return {
        "page": page,
        "meaning": KINDS[page.kind][:1].upper() + KINDS[page.kind][1:],
        "sent": f"Sent to {', '.join(reached)}." if reached else "Sent to nobody yet.",
        "late": [one for one in deliveries if not one.sent_ns and one.error],
        "detail": json.dumps(dict(page.detail), indent=1, ensure_ascii=False),
    }
