"""Calls for a person: kept once, delivered to real servers, repeated until somebody answers, over restarts too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager

import grpc
import pytest

from cloud_trainer.paging import desk as desk_module
from cloud_trainer.paging.config import PagingConfig, read_paging
from cloud_trainer.paging.desk import PageDesk
from cloud_trainer.paging.sending import signature
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.store.database import Database
from gymnast_client import Trainer
from gymnast_core.errors import ConfigError
from gymnast_core.paging import Page
from gymnast_core.wire.channel import domain_error
from gymnast_core.wire.errors import NotFoundError, NotPermittedError
from gymnast_core.wire.gymnast.v1 import pages_pb2, pages_pb2_grpc
from tests.hostile.lab import Lab
from tests.receivers import PATIENCE_S, certificate_in, mail_server, until, web_server

WEB = {"name": "web", "way": "webhook"}


@contextmanager
def running(database_url, config, **options):
    with closing(Database(database_url)) as database:
        desk = PageDesk(database, config, **options)
        desk.start()
        try:
            yield desk
        finally:
            desk.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return certificate_in(tmp_path_factory.mktemp("certificate"))


def paging(*receivers, **values):
    return PagingConfig(receivers=list(receivers), **values)


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"url": "http://10.0.0.5/hook"}, "http://10.0.0.5 is readable on the way; use https"),
            ({"url": "ftp://10.0.0.5/hook"}, "must begin with https://"),
            ({"url": "https://ada:pw@host/hook"}, "neither a user nor a fragment"),
            ({"url": "https://host:99999/"}, "its url is none"),
            ({"way": "ntfy", "url": "https://ntfy.sh/"}, "ends with the topic"),
            ({"way": "slack", "secret": "env:KEY"}, "secret signs a webhook"),
            ({"secret": "swordfish"}, "@FILE or env:VARIABLE"),
            ({"secret": "env:GYMNAST_NO_SUCH"}, "variable GYMNAST_NO_SUCH is not set"),
            ({"secret": "@missing"}, "cannot be read"),
            ({"kinds": ["motor_falt"]}, "no kind 'motor_falt'.*did you mean motor_fault"),
            ({"way": "pigeon"}, "not one of"),
            ({"colour": "red"}, "unknown settings.*colour"),
            ({"ca_file": "missing.pem"}, "there is no file"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_name(self, tmp_path, changes, named):
        (tmp_path / "pages.json").write_text(json.dumps({"receivers": [{**WEB, "url": "https://h/x", **changes}]}))
        with pytest.raises(ConfigError, match=named):
            read_paging(tmp_path / "pages.json")

    def test_mail_that_others_could_read_is_refused(self):
        mail = {"name": "m", "way": "email", "host": "smtp.lab", "sender": "a@b", "to": ["c@d"], "security": "none"}
        with pytest.raises(ConfigError, match=r"mail to smtp\.lab would be readable"):
            paging(mail)
        assert paging({**mail, "plain": True}).receivers[0].port == 587
        with pytest.raises(ConfigError, match="no e-mail address"):
            paging({**mail, "plain": True, "to": ["c@d\nBcc: everybody@else"]})

    def test_two_of_one_name_are_refused(self):
        with pytest.raises(ConfigError, match="two receivers are called web"):
            paging({**WEB, "url": "https://a/"}, {**WEB, "url": "https://b/"})

    def test_a_trainer_does_not_start_with_a_wrong_file(self, tmp_path):
        (tmp_path / "pages.json").write_text('{"receivers": [{"name": "x"}]}')
        with pytest.raises(ConfigError, match="way"):
            Service(ServiceConfig(folder=tmp_path / "trainer", pages=tmp_path / "pages.json"))


class TestSending:
    def test_a_webhook_is_signed_over_https(self, tmp_path, certificate, database_url):
        (tmp_path / "key").write_text("swordfish\n")
        with web_server(certificate) as inbox:
            receiver = {**WEB, "url": f"{inbox.url}/hook?x=1", "secret": f"@{tmp_path / 'key'}",
                        "ca_file": str(certificate / "ca.pem")}  # fmt: skip
            with running(database_url, paging(receiver, page_url="https://trainer.lab:8600/")) as desk:
                page = Page("motor_fault", "wx-1", "elbow: overload <3 times>", 1, {"motor": "elbow"})
                desk.raise_page("default", page)
                [post] = inbox.wait(1)
        said = post.json()
        assert post.path == "/hook?x=1"
        assert (said["id"], said["kind"], said["robot"], said["count"]) == (page.page_id, "motor_fault", "wx-1", 1)
        assert (said["text"], said["detail"]) == ("elbow: overload <3 times>", {"motor": "elbow"})
        assert said["link"] == "https://trainer.lab:8600/calls"
        signed = signature("swordfish", post.headers["X-Gymnast-Timestamp"], post.body)
        assert post.headers["X-Gymnast-Signature"] == signed
        assert post.headers["X-Gymnast-Delivery"] == f"{page.page_id}.0"

    def test_a_certificate_of_nobody_is_not_trusted(self, certificate, database_url):
        with web_server(certificate) as inbox, running(database_url, paging({**WEB, "url": inbox.url})) as desk:
            [tried] = desk.test("default", "ada")
            assert "CERTIFICATE_VERIFY_FAILED" in tried.error
            assert inbox.posts == []

    def test_slack_and_ntfy_get_what_they_take(self, tmp_path, database_url):
        with web_server() as inbox:
            receivers = (
                {"name": "slack", "way": "slack", "url": f"{inbox.url}/services/T/B"},
                {"name": "ntfy", "way": "ntfy", "url": f"{inbox.url}/my-lab", "token": f"@{tmp_path / 'token'}"},
            )
            (tmp_path / "token").write_text("tk_1")
            with running(database_url, paging(*receivers)) as desk:
                desk.raise_page("default", Page("lost_object", "wx-1", "<!channel> the cube & bowl"))
                inbox.wait(2)
        posts = {post.path: post for post in inbox.posts}
        slack = posts["/services/T/B"].json()["text"]
        assert slack.startswith(
            "lost object on wx-1\nwx-1: &lt;!channel&gt; the cube &amp; bowl\nAnswer: gymnast pages ack"
        )
        ntfy = posts["/"].json()
        assert (ntfy["topic"], ntfy["title"], ntfy["priority"]) == ("my-lab", "lost object on wx-1", 4)
        assert posts["/"].headers["Authorization"] == "Bearer tk_1"

    @pytest.mark.parametrize("security", ["starttls", "tls", "none"])
    def test_mail_comes_by_smtp(self, tmp_path, certificate, security):
        (tmp_path / "password").write_text("open sesame")
        login = ("gymnast", "open sesame") if security == "starttls" else None  # aiosmtpd takes logins there
        with mail_server(None if security == "none" else certificate, security, login) as box:
            receiver = {"name": "mail", "way": "email", "host": "127.0.0.1", "port": box.port, "security": security,
                        "sender": "gymnast@lab.example", "to": ["ada@lab.example", "bob@lab.example"]}  # fmt: skip
            if login:
                receiver |= {"user": login[0], "password": f"@{tmp_path / 'password'}"}
            if security != "none":
                receiver["ca_file"] = str(certificate / "ca.pem")
            with running(f"sqlite:///{tmp_path / 's.db'}", paging(receiver)) as desk:
                desk.raise_page("default", Page("spool_full", "wx-1\r\nBcc: x@y", "no room", 1, {"bytes": 5}))
                [mail] = box.wait(1)
        assert mail["Subject"] == r"[gymnast] spool full on wx-1\r\nBcc: x@y"
        assert mail["Bcc"] is None
        assert mail["X-Rcpt"] == "ada@lab.example,bob@lab.example"
        assert '"bytes": 5' in mail.get_content()
        assert box.logins == ([login] if login else [])

    def test_starttls_is_not_left_out_where_the_server_has_none(self, tmp_path):
        receiver = {"name": "mail", "way": "email", "host": "127.0.0.1", "sender": "a@b.c", "to": ["d@e.f"]}
        with mail_server(None, "none") as box:
            config = paging({**receiver, "port": box.port})
            with running(f"sqlite:///{tmp_path / 's.db'}", config) as desk:
                assert "STARTTLS" in desk.test("default", "ada")[0].error
            assert box.mails == []

    def test_a_redirect_is_not_followed(self, tmp_path):
        with web_server() as elsewhere, web_server() as inbox:
            inbox.status, inbox.headers = 302, {"Location": elsewhere.url}
            with running(f"sqlite:///{tmp_path / 's.db'}", paging({**WEB, "url": inbox.url})) as desk:
                [tried] = desk.test("default", "ada")
                assert "answered 302; redirects are not followed" in tried.error
            assert elsewhere.posts == []

    def test_no_secret_of_an_address_is_in_an_error(self, tmp_path):
        (tmp_path / "url").write_text("http://127.0.0.1:1/services/T0/secret")
        receiver = {"name": "slack", "way": "slack", "url": f"@{tmp_path / 'url'}"}
        with running(f"sqlite:///{tmp_path / 's.db'}", paging(receiver)) as desk:
            [tried] = desk.test("default", "ada")
        assert tried.error
        assert "secret" not in tried.error


class TestDesk:
    def test_one_call_is_sent_once_however_often_it_is_raised(self, database_url):
        with web_server() as inbox, running(database_url, paging({**WEB, "url": inbox.url}, quiet_s=0.0)) as desk:
            page = Page("motor_fault", "wx-1", "elbow")
            for _ in range(3):
                desk.raise_page("default", page)
            inbox.wait(1)
            desk.raise_page("default", Page("spool_full", "wx-1", "no room"))
            assert [post.json()["kind"] for post in inbox.wait(2)] == ["motor_fault", "spool_full"]
            assert [row.count for row in desk.store.calls("default")] == [1, 1]

    def test_a_flood_is_one_message_and_a_reminder_with_the_count(self, database_url):
        clock = Clock()
        with web_server() as inbox:
            config = paging({**WEB, "url": inbox.url}, quiet_s=0.0, remind_minutes=10)
            with running(database_url, config, clock_ns=clock) as desk:
                first = Page("over_force", "wx-1", "shoulder 1")
                desk.raise_page("default", first)
                inbox.wait(1)
                for number in range(2, 31):
                    desk.raise_page("default", Page("over_force", "wx-1", f"shoulder {number}"))
                desk.raise_page("default", Page("arm_fault", "wx-1", "camera"))
                inbox.wait(2)
                assert [post.json()["kind"] for post in inbox.posts] == ["over_force", "arm_fault"]
                clock.pass_minutes(11)
                desk._wake()
                said = next(post.json() for post in inbox.wait(4)[2:] if post.json()["kind"] == "over_force")
                assert (said["count"], said["text"], said["reminder"]) == (30, "shoulder 30", 1)
                assert said["title"] == "nobody has answered for 11 min: over force on wx-1, 30 times"
                row = desk.acknowledge("default", desk.store.calls("default")[0].page_id, "ada", "looked")
                assert row.count in (1, 30)

    def test_an_answer_ends_the_reminders_and_answers_those_that_joined(self, database_url):
        clock = Clock()
        with web_server() as inbox:
            config = paging({**WEB, "url": inbox.url}, quiet_s=0.0, remind_minutes=10)
            with running(database_url, config, clock_ns=clock) as desk:
                first, second = (Page("hard_reset", "wx-1", text) for text in ("once", "twice"))
                desk.raise_page("default", first)
                inbox.wait(1)
                desk.raise_page("default", second)
                assert desk.store.answers("default", "wx-1", [first.page_id, second.page_id]) == {}
                desk.acknowledge("default", second.page_id, "ada", "cube is back")
                answers = desk.store.answers("default", "wx-1", [first.page_id, second.page_id])
                assert {(row.by, row.note) for row in answers.values()} == {("ada", "cube is back")}
                assert len(answers) == 2
                assert desk.store.answers("default", "wx-2", [first.page_id]) == {}
                assert desk.acknowledge("default", first.page_id, "bob", "late").acknowledged_by == "ada"
                clock.pass_minutes(60)
                desk._wake()
                desk.raise_page("default", Page("hard_reset", "wx-1", "again"))
                assert [post.json()["text"] for post in inbox.wait(2)] == ["once", "again"]
                assert inbox.posts[1].json()["reminder"] == 0

    def test_a_second_person_is_called_when_the_first_does_not_answer(self, tmp_path):
        clock = Clock()
        with web_server() as first, web_server() as second:
            late = {**WEB, "name": "boss", "url": second.url, "after_minutes": 30}
            config = paging({**WEB, "url": first.url}, late, quiet_s=0.0, remind_minutes=1000)
            with running(f"sqlite:///{tmp_path / 's.db'}", config, clock_ns=clock) as desk:
                desk.raise_page("default", Page("estop", "wx-1", "stopped"))
                first.wait(1)
                assert second.posts == []
                clock.pass_minutes(31)
                desk._wake()
                second.wait(1)
                assert len(first.posts) == 1

    def test_what_is_over_by_itself_reminds_nobody_and_stays_open(self, tmp_path):
        clock = Clock()
        with web_server() as inbox:
            config = paging({**WEB, "url": inbox.url}, quiet_s=0.0, remind_minutes=10)
            with running(f"sqlite:///{tmp_path / 's.db'}", config, clock_ns=clock) as desk:
                desk.raise_page("default", Page("robot_silent", "wx-1", "silent"))
                inbox.wait(1)
                desk.over("default", "wx-1", "robot_silent")
                clock.pass_minutes(60)
                assert desk.store.due(clock()) == []
                [row] = desk.store.calls("default", open_only=True)
                assert row.over_ns
                desk.raise_page("default", Page("robot_silent", "wx-1", "silent again"))
                assert inbox.wait(2)[1].json()["count"] == 2

    def test_only_those_are_called_whom_it_concerns(self, tmp_path):
        with web_server() as one, web_server() as other, web_server() as foreign:
            config = paging(
                {**WEB, "url": one.url, "kinds": ["motor_fault"], "robots": ["wx-1"]},
                {**WEB, "name": "all", "url": other.url},
                {**WEB, "name": "foreign", "url": foreign.url, "tenant": "acme"},
                quiet_s=0.0,
            )  # fmt: skip
            with running(f"sqlite:///{tmp_path / 's.db'}", config) as desk:
                for kind, robot in (("motor_fault", "wx-1"), ("motor_fault", "wx-2"), ("estop", "wx-1")):
                    desk.raise_page("default", Page(kind, robot, "x"))
                other_calls = {
                    (post.json()["kind"], robot)
                    for post in until(lambda: sum(p.json()["count"] for p in other.posts) >= 3 and other.posts, "three")
                    for robot in post.json()["robots"]
                }
                assert len(other_calls) == 3
                assert [post.json()["robot"] for post in one.wait(1)] == ["wx-1"]
                assert foreign.posts == []
                with pytest.raises(NotFoundError, match="no receiver is configured"):
                    desk.test("nobody", "ada")

    def test_messages_of_one_kind_keep_their_distance(self, tmp_path):
        clock = Clock()
        with web_server() as inbox:
            config = paging({**WEB, "url": inbox.url}, quiet_s=60.0)
            with running(f"sqlite:///{tmp_path / 's.db'}", config, clock_ns=clock) as desk:
                desk.raise_page("default", Page("spool_full", "wx-0", "no room"))
                inbox.wait(1)
                for number in range(1, 8):
                    desk.raise_page("default", Page("spool_full", f"wx-{number}", "no room"))
                desk.raise_page("default", Page("estop", "wx-1", "stopped"))
                assert [post.json()["kind"] for post in inbox.wait(2)] == ["spool_full", "estop"]
                clock.pass_minutes(1.1)
                desk._wake()
                said = inbox.wait(3)[2].json()
                assert (said["count"], said["robots"]) == (7, [f"wx-{number}" for number in range(1, 8)])
                assert said["title"] == "spool full on wx-1, wx-2, wx-3, wx-4, wx-5 and 2 more, 7 times"

    def test_what_is_refused_comes_later_and_a_hanging_receiver_delays_nobody(self, database_url, monkeypatch):
        monkeypatch.setattr(desk_module, "RETRY_S", 0.05)
        with web_server() as refusing, web_server() as hanging, web_server() as fine:
            refusing.status = 503
            hanging.free.clear()
            config = paging(
                {**WEB, "url": refusing.url}, {**WEB, "name": "hangs", "url": hanging.url},
                {**WEB, "name": "fine", "url": fine.url},
            )  # fmt: skip
            with running(database_url, config) as desk:
                began_s = time.monotonic()
                page = Page("motor_fault", "wx-1", "elbow")
                desk.raise_page("default", page)
                assert time.monotonic() - began_s < 5.0
                fine.wait(1)
                refusing.wait(3)
                refusing.status = 200
                tried = until(
                    lambda: next((one for one in desk.store.deliveries("default", [page.page_id])[page.page_id]
                                  if one.receiver == "web" and one.sent_ns), None), "the delivery",
                )  # fmt: skip
                assert tried.attempts >= 3
                assert len(fine.posts) == 1

    def test_a_kind_of_a_newer_robot_is_not_lost(self, tmp_path):
        with running(f"sqlite:///{tmp_path / 's.db'}", paging()) as desk:
            desk.raise_page("default", Page("coffee_out", "wx-1", "x" * 5000))
            [row] = desk.store.calls("default")
            assert (row.kind, row.text[:13], len(row.text)) == ("other", "coffee_out: x", 1000)

    def test_a_receiver_that_is_configured_no_more_is_forgotten(self, tmp_path):
        url = f"sqlite:///{tmp_path / 's.db'}"
        page = Page("estop", "wx-1", "stopped")
        with running(url, paging({**WEB, "url": "http://127.0.0.1:1/"})) as desk:
            desk.raise_page("default", page)
        with running(url, paging()) as desk:
            assert desk.store.deliveries("default", [page.page_id]) == {}
            assert len(desk.store.calls("default")) == 1


KILLED = """
import sys, time
from cloud_trainer.paging.config import PagingConfig
from cloud_trainer.paging.desk import PageDesk
from cloud_trainer.store.database import Database
from gymnast_core.paging import Page
desk = PageDesk(Database(sys.argv[1]), PagingConfig(receivers=[{"name": "web", "way": "webhook", "url": sys.argv[2]}]))
desk.start()
for number in range(5):
    desk.raise_page("default", Page("motor_fault", f"wx-{number}", "elbow"))
print("kept", flush=True)
time.sleep(600)
"""


def test_a_kill_loses_no_call(database_url):
    with web_server() as inbox:
        inbox.free.clear()  # nothing is delivered before the kill
        process = subprocess.Popen([sys.executable, "-c", KILLED, database_url, inbox.url], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"kept"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with running(database_url, paging({**WEB, "url": inbox.url}, quiet_s=0.0)):
            inbox.free.set()
            said = until(lambda: {name for post in inbox.posts for name in post.json()["robots"]}.issuperset(
                f"wx-{number}" for number in range(5)), "every call")  # fmt: skip
            assert said


class TestWire:
    @pytest.fixture
    def lab(self, tmp_path):
        with ExitStack() as held:
            inbox = held.enter_context(web_server())
            (tmp_path / "pages.json").write_text(json.dumps({"receivers": [{**WEB, "url": inbox.url}], "quiet_s": 0.0}))
            limits = {"limits": {"robot_pages_per_hour": 5}}
            lab = held.enter_context(Lab(tmp_path, {"pages": tmp_path / "pages.json", **limits}))
            lab.inbox = inbox  # type: ignore[attr-defined]
            yield lab

    def raised(self, lab, identity, *pages, unanswered=()):
        with lab.channel(identity) as channel:
            rows = [pages_pb2.RaisedPage(page_id=page.page_id, kind=page.kind, text=page.text, at_ns=page.at_ns)
                    for page in pages]  # fmt: skip
            request = pages_pb2.RaisePagesRequest(pages=rows, unanswered=list(unanswered))
            try:
                return pages_pb2_grpc.PageServiceStub(channel).Raise(request, timeout=PATIENCE_S)
            except grpc.RpcError as failure:
                raise domain_error(failure) from failure

    def test_a_robot_calls_a_person_answers_and_the_robot_hears(self, lab):
        robot, page = lab.identity("wx-1", "robot"), Page("hard_reset", "forged", "put the cube back")
        assert list(self.raised(lab, robot, page).kept) == [page.page_id]
        assert lab.inbox.wait(1)[0].json()["robot"] == "wx-1"
        with Trainer(lab.service.address, lab.identity("ada", "operator")) as ada:
            [view] = ada.pages.list()
            assert (view.page_id, view.robot, view.text) == (page.page_id, "wx-1", "put the cube back")
            answered = ada.pages.acknowledge(page.page_id, "done")
            assert (answered.acknowledged_by, answered.note) == ("ada", "done")
            assert list(ada.pages.list()) == []
            assert [row.page_id for row in ada.pages.list(every=True)] == [page.page_id]
            [tried] = ada.pages.test()
            assert (tried.receiver, tried.error) == ("web", "")
            with pytest.raises(NotFoundError, match="no page"):
                ada.pages.acknowledge("page-0000000000000000")
            assert {"acknowledge", "test pages"} <= {entry.action for entry in ada.log.entries()}
        [answer] = self.raised(lab, robot, unanswered=[page.page_id]).answers
        assert (answer.page_id, answer.by, answer.note) == (page.page_id, "ada", "done")

    def test_nobody_answers_or_sees_what_is_not_theirs(self, lab):
        page = Page("estop", "", "stopped")
        self.raised(lab, lab.identity("wx-1", "robot"), page)
        assert list(self.raised(lab, lab.identity("wx-2", "robot"), unanswered=[page.page_id]).answers) == []
        with Trainer(lab.service.address, lab.identity("eve", "operator", "acme")) as eve:
            assert list(eve.pages.list(every=True)) == []
            with pytest.raises(NotFoundError):
                eve.pages.acknowledge(page.page_id)
            with pytest.raises(NotFoundError, match="no receiver"):
                eve.pages.test()
        with (
            Trainer(lab.service.address, lab.identity("wx-1", "robot")) as robot,
            pytest.raises(NotPermittedError, match="may not acknowledge"),
        ):
            robot.pages.acknowledge(page.page_id)

    def test_a_robot_that_calls_without_end_is_slowed_down(self, lab):
        robot = lab.identity("wx-1", "robot")
        flood = [Page("estop", "", str(number)) for number in range(9)]
        assert list(self.raised(lab, robot, *flood).kept) == [page.page_id for page in flood[:5]]
        other = Page("motor_fault", "", "elbow")
        kept = set(self.raised(lab, robot, *flood, other).kept)
        assert kept == {other.page_id, *(page.page_id for page in flood[:5])}, "of another kind it may call"
        assert sorted(row.count for row in lab.service.pages.store.calls("default")) == [1, 5]


class Clock:
    """A wall clock that passes when a test says so."""

    def __init__(self) -> None:
        self._ahead_ns = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        return time.time_ns() + self._ahead_ns

    def pass_minutes(self, minutes: float) -> None:
        self._ahead_ns += round(minutes * 60e9)
