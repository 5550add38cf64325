"""Limits: no caller gets more tokens than there are, none costs memory without bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ConfigError
from recpolicy.server.rate_limit import MAX_FORWARDED, ClientAddresses, TokenBuckets, client_network
from recpolicy.server.settings import LimitsConfig, read_settings


class Clock:
    """A clock that the test moves."""

    now = 50.0

    def __call__(self):
        return self.now


def test_a_burst_passes_and_then_as_many_as_the_rate_allows():
    clock = Clock()
    buckets = TokenBuckets(10.0, 5, clock)
    assert [buckets.take("a") for _ in range(5)] == [0.0] * 5
    assert buckets.take("a") == pytest.approx(0.1)
    clock.now += 0.25  # 2.5 tokens
    assert [buckets.take("a") > 0 for _ in range(3)] == [False, False, True]
    clock.now += 1000
    assert [buckets.take("a") > 0 for _ in range(6)] == [False] * 5 + [True]


def test_one_caller_does_not_pay_for_another():
    buckets = TokenBuckets(1.0, 1, Clock())
    assert (buckets.take("a"), buckets.take("b")) == (0.0, 0.0)
    assert buckets.take("a") > 0


def test_waiting_as_long_as_was_said_is_enough():
    clock = Clock()
    buckets = TokenBuckets(3.0, 1, clock)
    buckets.take("a")
    clock.now += buckets.take("a") + 1e-9
    assert buckets.take("a") == 0.0


@given(st.lists(st.floats(0, 2), max_size=60), st.floats(0.5, 20), st.integers(1, 10))
def test_never_more_pass_than_burst_and_rate_give(pauses, rate, burst):
    clock = Clock()
    buckets, passed, begun = TokenBuckets(rate, burst, clock), 0, clock.now
    for pause in pauses:
        clock.now += pause
        passed += buckets.take("a") == 0.0
        assert passed <= burst + rate * (clock.now - begun) + 1e-6


def test_the_buckets_held_are_bounded_and_the_least_used_goes_first():
    buckets = TokenBuckets(0.001, 1, Clock(), most=100)
    buckets.take("often")
    for number in range(1000):
        buckets.take(f"address {number}")
        assert buckets.take("often") > 0
        assert len(buckets) <= 100
    assert buckets.take("address 0") == 0.0  # forgotten, so full again


def test_without_a_rate_all_pass_and_nothing_is_held():
    buckets = TokenBuckets(0.0, 1, Clock())
    assert [buckets.take("a") for _ in range(50)] == [0.0] * 50
    assert len(buckets) == 0


def test_a_holder_of_many_ipv6_addresses_is_one_client():
    assert client_network("2001:db8:1:2:aaaa::1") == client_network("2001:db8:1:2:bbbb::2") == "2001:db8:1:2::/64"
    assert client_network("2001:db8:1:3::1") != client_network("2001:db8:1:2::1")
    assert client_network("192.0.2.7") == "192.0.2.7"
    assert client_network("::ffff:192.0.2.7") != client_network("::ffff:192.0.2.8")
    assert client_network("fe80::1%eth0") == "fe80::/64"
    assert client_network("testclient") == "testclient"


def forwarded(*values):
    return [(b"host", b"here"), *((b"x-forwarded-for", value) for value in values)]


@pytest.mark.parametrize(
    ("trusted", "peer", "headers", "client"),
    [
        ((), "127.0.0.1", forwarded(b"192.0.2.7"), "127.0.0.1"),
        (("10.0.0.0/8",), "127.0.0.1", forwarded(b"192.0.2.7"), "127.0.0.1"),
        (("127.0.0.1",), "127.0.0.1", forwarded(b"192.0.2.7"), "192.0.2.7"),
        (("127.0.0.1",), "127.0.0.1", forwarded(b"198.51.100.1, 192.0.2.7"), "192.0.2.7"),
        (("127.0.0.1",), "127.0.0.1", forwarded(b"198.51.100.1", b"192.0.2.7"), "192.0.2.7"),
        (("127.0.0.1", "10.0.0.0/8"), "127.0.0.1", forwarded(b"6.6.6.6, 192.0.2.7, 10.1.2.3"), "192.0.2.7"),
        (("127.0.0.1", "10.0.0.0/8"), "127.0.0.1", forwarded(b"10.1.2.4, 10.1.2.3"), "10.1.2.4"),
        (("127.0.0.1",), "127.0.0.1", forwarded(b"192.0.2.7:5000"), "192.0.2.7"),
        (("::1",), "::1", forwarded(b"[2001:db8::7]:5000"), "2001:db8::7"),
        (("::1",), "::1", forwarded(b"2001:db8::7"), "2001:db8::7"),
        (("127.0.0.0/8",), "::ffff:127.0.0.1", forwarded(b"192.0.2.7"), "192.0.2.7"),
        (("127.0.0.1",), "127.0.0.1", forwarded(b"garbage"), "127.0.0.1"),
        (("127.0.0.1",), "127.0.0.1", forwarded(b"192.0.2.7, unknown"), "127.0.0.1"),
        (("127.0.0.1",), "127.0.0.1", forwarded(b"x" * 50_000), "127.0.0.1"),
        (("127.0.0.1",), "127.0.0.1", forwarded(b""), "127.0.0.1"),
        (("127.0.0.1",), "127.0.0.1", forwarded(), "127.0.0.1"),
        (("127.0.0.1",), "nobody", forwarded(b"192.0.2.7"), "nobody"),
    ],
)
def test_only_a_trusted_proxy_names_the_client_and_only_by_an_address(trusted, peer, headers, client):
    assert ClientAddresses(trusted).client(peer, headers) == client


def test_a_long_list_of_trusted_addresses_is_read_from_its_end_only():
    headers = forwarded(b"192.0.2.7, " + b", ".join([b"10.0.0.1"] * 5_000))
    assert ClientAddresses(["10.0.0.0/8"]).client("10.0.0.9", headers) == "10.0.0.1"
    headers = forwarded(b"192.0.2.7, " + b", ".join([b"10.0.0.1"] * (MAX_FORWARDED - 1)))
    assert ClientAddresses(["10.0.0.0/8"]).client("10.0.0.9", headers) == "192.0.2.7"


@pytest.mark.parametrize("bad", ["10.0.0.1/8", "proxy", "", "10.0.0.0/99", "*"])
def test_a_proxy_that_is_no_address_is_refused(bad):
    with pytest.raises(ConfigError, match=r"trusted_proxies: .* expected addresses or networks"):
        LimitsConfig(trusted_proxies=(bad,))


@pytest.mark.parametrize("bad", ["shop.example:80", "http://shop.example", "", "*.", "a b", "*shop"])
def test_a_host_that_is_no_name_is_refused(bad):
    with pytest.raises(ConfigError, match=r"allowed_hosts: .* is not a host name"):
        LimitsConfig(allowed_hosts=(bad,))


def test_a_token_that_was_taken_for_another_is_given_back():
    buckets = TokenBuckets(0.001, 2, Clock())
    buckets.take("a")
    buckets.give_back("a")
    buckets.give_back("a")  # no more than a bucket holds
    assert [buckets.take("a") > 0 for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("bad", [{"rate": -1}, {"burst": 0}, {"in_flight": 0}, {"seconds": 0}, {"body_bytes": 0}])
def test_a_limit_out_of_range_is_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        LimitsConfig(**bad)


def test_settings_have_a_table_of_limits(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("[limits]\nrate = 5\nrequire_key = true\n")
    limits = read_settings(file).limits
    assert (limits.rate, limits.require_key, limits.in_flight) == (5.0, True, 256)
