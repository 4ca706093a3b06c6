"""What is sent of calls for a person: words, and the forms that webhooks, Slack, ntfy and mail want them in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import EmailMessage
from email.utils import format_datetime

from cloud_trainer.store.sql_pages import PageRow
from gymnast_core.text import one_line, printable

_MOST_NAMED = 5
_SUBJECT = 160
_NTFY_PRIORITY = {"first": 4, "reminder": 5}


@dataclass(frozen=True)
class Notice:
    """One message: calls of one kind, of one tenant.

    Attributes:
        rows: the calls, the newest last.
        round: the highest of them; above 0 it is a reminder.
        now_ns: wall clock.
        page_url: of the operator's page; empty where it is not known.
    """

    rows: Sequence[PageRow]
    round: int
    now_ns: int
    page_url: str = ""

    @property
    def kind(self) -> str:
        """Of all of them."""
        return self.rows[-1].kind

    @property
    def count(self) -> int:
        """How many calls came, those that joined others included."""
        return sum(row.count for row in self.rows)

    @property
    def robots(self) -> list[str]:
        """Whom they are about."""
        return sorted({row.robot for row in self.rows if row.robot})

    @property
    def delivery(self) -> str:
        """The same for a message that is sent again because its answer was lost."""
        return f"{self.rows[-1].page_id}.{self.round}"

    @property
    def link(self) -> str:
        """To answer at."""
        return f"{self.page_url.rstrip('/')}/calls" if self.page_url else ""

    @property
    def title(self) -> str:
        """One line."""
        named = ", ".join(self.robots[:_MOST_NAMED])
        if len(self.robots) > _MOST_NAMED:
            named += f" and {len(self.robots) - _MOST_NAMED} more"
        words = f"{self.kind.replace('_', ' ')}{f' on {named}' if named else ''}"
        if self.count > 1:
            words += f", {self.count} times"
        if self.round:
            minutes = (self.now_ns - min(row.received_ns for row in self.rows)) // 60_000_000_000
            words = f"nobody has answered for {minutes} min: {words}"
        return one_line(words)

    @property
    def body(self) -> str:
        """What happened, and how to answer."""
        lines = [f"{row.robot or 'trainer'}: {printable(row.text)}" for row in self.rows[-_MOST_NAMED:]]
        ids = " ".join(row.page_id for row in self.rows[-_MOST_NAMED:])
        answer = f"Answer: {self.link}" if self.link else f"Answer: gymnast pages ack {ids}"
        return "\n".join([*lines, answer])

    def to_json(self) -> dict[str, object]:
        """As a webhook gets it."""
        newest = self.rows[-1]
        return {
            "id": newest.page_id, "ids": [row.page_id for row in self.rows], "kind": self.kind, "robot": newest.robot,
            "robots": self.robots, "title": self.title, "text": newest.text, "detail": dict(newest.detail),
            "at": _iso(newest.at_ns), "count": self.count, "reminder": self.round, "tenant": newest.tenant,
            "link": self.link,
        }  # fmt: skip

    def to_slack(self) -> dict[str, object]:
        """As Slack's incoming webhooks get it: &, < and > are its markup, and a robot's words have none."""
        text = f"{self.title}\n{self.body}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return {"text": text}

    def to_ntfy(self, topic: str) -> dict[str, object]:
        """As an ntfy server gets it at its root."""
        priority = _NTFY_PRIORITY["reminder" if self.round else "first"]
        found: dict[str, object] = {"topic": topic, "title": self.title, "message": self.body, "priority": priority}
        found["tags"] = ["rotating_light" if self.round else "warning", self.kind]
        return {**found, "click": self.link} if self.link else found

    def to_mail(self, sender: str, to: Sequence[str]) -> EmailMessage:
        """As a mail; no word of a robot reaches a header but on one line, of bounded length."""
        mail = EmailMessage()
        mail["Subject"] = f"[gymnast] {self.title}"[:_SUBJECT]
        mail["From"], mail["To"] = sender, ", ".join(to)
        mail["Date"] = format_datetime(datetime.fromtimestamp(self.now_ns / 1e9, timezone.utc))
        mail["Message-ID"] = f"<{self.delivery}@gymnast.invalid>"
        if self.round:
            mail["References"] = f"<{self.rows[-1].page_id}.0@gymnast.invalid>"
        mail["Auto-Submitted"] = "auto-generated"
        details = json.dumps(dict(self.rows[-1].detail), indent=1, ensure_ascii=True)
        mail.set_content(f"{self.body}\n\n{details}\n" if self.rows[-1].detail else f"{self.body}\n")
        return mail


def _iso(at_ns: int) -> str:
    """A robot's clock may be anything; one that no calendar has is left out."""
    try:
        return datetime.fromtimestamp(at_ns / 1e9, timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError):
        return ""
