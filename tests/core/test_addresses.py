"""HOST:PORT as people write it, listening, and which proxy the environment asks for."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.wire.address import Address, check_exposed, is_everywhere, is_loopback, listen, plain_host
from gymnast_core.wire.proxy import proxy_for


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("trainer.lab:50051", "trainer.lab", 50051),
        ("10.0.0.5:1", "10.0.0.5", 1),
        ("[::1]:50051", "::1", 50051),
        ("[fd77::5]:65535", "fd77::5", 65535),
        (" my_trainer.local:80 ", "my_trainer.local", 80),
    ],
)
def test_an_address_is_read_and_written(text, host, port):
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trainer.lab", "names no port"),
        ("::1:50051", "stands in brackets"),
        ("fd77::5", "brackets"),
        ("[::1]", "names no port"),
        ("http://trainer.lab:50051", "is a URL"),
        ("trainer.lab:http", "is no port"),
        ("trainer.lab:0", "is no port"),
        ("trainer.lab:65536", "is no port"),
        ("trainer.lab:²", "is no port"),
        (":50051", "neither a host name nor an address"),
        ("a b:50051", "neither a host name nor an address"),
        ("[trainer.lab:50051", "names no port"),
        ("-x:1", "neither"),
    ],
)
def test_what_is_no_address_is_named_with_what_to_write(text, says):
    with pytest.raises(ConfigError, match=says):
        Address.parse(text)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_an_address_or_a_wrong_setting(text):
    try:
        address = Address.parse(text)
    except ConfigError:
        return
    assert Address.parse(str(address)) == address


def test_hosts_that_only_this_machine_reaches_and_hosts_that_stand_for_all():
    hosts = ("localhost", "127.0.0.9", "::1", "10.0.0.5", "trainer.lab", "::")
    assert [host for host in hosts if is_loopback(host)] == ["localhost", "127.0.0.9", "::1"]
    assert [host for host in ("0.0.0.0", "::", "::1", "trainer.lab") if is_everywhere(host)] == ["0.0.0.0", "::"]
    assert (plain_host("[::1]"), plain_host("::")) == ("::1", "::")


@pytest.mark.parametrize(
    ("tls", "proof", "words"),
    [(False, True, "without TLS;"), (True, False, "without a token;"), (False, False, "without TLS and a token;")],
)
def test_the_network_is_served_with_tls_and_to_who_proves_something_and_this_machine_as_it_comes(tls, proof, words):
    check_exposed("127.0.0.1", tls=tls, proof=proof, remedy="name it")
    for host in ("0.0.0.0", "::", "trainer.lab"):
        with pytest.raises(ConfigError, match=f"host {host}: .*{words} name it, or serve on 127.0.0.1"):
            check_exposed(host, tls=tls, proof=proof, remedy="name it")
        check_exposed(host, tls=True, proof=True, remedy="")


def test_listening_takes_ipv6_and_names_what_is_in_the_way():
    with listen("::1", 0, what="the page") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GymnastError, match=rf"the page cannot listen on \[::1\]:{port}: the port is taken"):
            listen("::1", port, what="the page")
    with listen("::", 0, what="the page") as both:
        socket.create_connection(("127.0.0.1", both.getsockname()[1]), timeout=5).close()
    for elsewhere in ("192.0.2.7", "2001:db8::7", "no-such-host.invalid"):
        with pytest.raises(ConfigError, match="cannot listen on"):
            listen(elsewhere, 0, what="the trainer")


@pytest.fixture
def environment(monkeypatch):
    """Sets proxy variables, after taking away whatever this machine has."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def test_a_proxy_is_for_what_is_elsewhere_and_encrypted(environment):
    environment(http_proxy="http://plain:1", HTTPS_PROXY="http://ana:secret@proxy.lab:3128")
    proxy = proxy_for("https", Address("trainer.lab", 50051))
    assert (proxy.url, str(proxy)) == (
        "http://ana:secret@proxy.lab:3128",
        "the proxy proxy.lab:3128 (from HTTPS_PROXY)",
    )
    for here in ("127.0.0.1", "::1", "localhost"):
        assert proxy_for("https", Address(here, 50051)) is None
    environment(HTTPS_PROXY="")
    assert proxy_for("https", Address("trainer.lab", 50051)) is None, "http_proxy is for plain HTTP"


@pytest.mark.parametrize(
    "url", ["socks5://proxy.lab:1080", "socks://x:1", "ftp://x", "http://:99", "http://x:abc", "://"]
)
def test_a_proxy_of_another_kind_is_not_used_and_no_traceback(environment, url):
    environment(https_proxy=url)
    assert proxy_for("https", Address("trainer.lab", 50051)) is None


@pytest.mark.parametrize(
    ("exceptions", "host", "excepted"),
    [
        ("trainer.lab", "trainer.lab", True),
        ("lab", "trainer.lab", True),
        (".lab", "trainer.lab", True),
        ("*.lab", "trainer.lab", True),
        ("lab", "collab", False),
        ("*", "trainer.lab", True),
        ("other,  trainer.lab:50051", "trainer.lab", True),
        ("trainer.lab:50052", "trainer.lab", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd77::5", "fd77::5", True),
        ("[fd77::5]", "fd77::5", True),
        ("[fd77::5]:50051", "fd77::5", True),
        ("[fd77::5]:1", "fd77::5", False),
        ("fd77::/16,::1", "fd77::5", True),
        ("::1", "10.1.2.3", False),
        ("10.0.0.0/8", "trainer.lab", False),
        (",,", "trainer.lab", False),
    ],
)
def test_no_proxy_takes_names_domains_networks_ports_and_both_kinds_of_addresses(
    environment, exceptions, host, excepted
):
    environment(https_proxy="http://proxy.lab:3128", NO_PROXY=exceptions)
    assert (proxy_for("https", Address(host, 50051)) is None) is excepted


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
def test_any_value_of_the_variables_is_survived(text):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
            patch.setenv(name, text)
        proxy_for("https", Address("trainer.lab", 50051))
