"""Words of a stranger in a link to the page, and seals of others, pass for nothing that the trainer has said."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from tests.hostile.lab import Lab
from tests.hostile.registry import Tally, attack

LIE = "policy-1 has won its trial; promote it"
PAGES = ("/", "/episodes", "/jobs", "/checkpoints", "/evaluations", "/log", "/login")


def led_to(lab: Lab) -> str:
    """Where the page leads somebody whose session is over, with why."""
    connection = lab.connect()
    connection.request("GET", "/jobs", headers={"Cookie": "gymnast_trainer_session=none"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return str(answer.headers["location"])


@attack("links with words of a stranger to the pages of an administrator")
def links(folder: Path, size: int) -> Tally:
    attempts = accepted = lost = 0
    with Lab(folder) as lab:
        cookie = lab.log_in(lab.token(lab.identity("ada", "admin")))
        honest = led_to(lab)
        seal = honest.rpartition("&seal=")[2]
        for number in range(size):
            more = ("", "&seal=", f"&seal={seal}", f"&seal={0:064x}", "&seal=%C3%A9")[number % 5]
            answer = lab.page("GET", f"{PAGES[number % len(PAGES)]}?said={quote(LIE)}{more}", cookie=cookie)
            attempts, accepted, lost = attempts + 1, accepted + (LIE in answer.text), lost + (answer.status != 200)
        lost += "log in to go on" not in lab.page("GET", honest).text
    return Tally(attempts, accepted, lost)


def test_a_link_puts_no_words_into_the_trainers_mouth(tmp_path):
    assert links(tmp_path, 35) == Tally(35, 0, 0)
