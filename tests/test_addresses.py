"""Which addresses the gateway may connect to."""

from __future__ import annotations

import pytest

from mcpgw.addresses import opened_by, vetted
from mcpgw.errors import UsageError

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.1",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "192.31.196.1",
    "192.169.0.1",
    "198.17.255.255",
    "198.20.0.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "2001:200::1",
    "2620:4f:8000::1",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.0.1",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::127.0.0.1",
    "::10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0.0.0.0",
    "::ffff:224.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "64:ff9b:1:ffff::a00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo, client 10.0.0.1
    "2001:0:a00:1:0:0:f7f7:f7f7",  # Teredo, server 10.0.0.1
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "",
    "localhost",
    "127.1",
    "0x7f.0.0.1",
    "1.1.1.1 ",
]
PRIVATE = [
    "10.0.0.1",
    "100.64.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "::ffff:10.0.0.1",
    "::ffff:192.168.1.1",
    "fc00::1",
    "fd12:3456::1",
    "2001:db8::1",
    "2001:10::1",
    "2001:2::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    "4000::1",
]
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"]
EVERYTHING = ("0.0.0.0/0", "::/0")


@pytest.mark.requirement("addresses:table")
@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_passes(address: str) -> None:
    assert vetted((), False)(address)


@pytest.mark.requirement("addresses:table")
@pytest.mark.parametrize("address", NEVER)
def test_no_configuration_opens_these_addresses(address: str) -> None:
    assert not vetted((), False)(address)
    assert not vetted(EVERYTHING, True)(address)


@pytest.mark.requirement("addresses:table")
@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_needs_the_operators_list(address: str) -> None:
    assert not vetted((), True)(address)
    assert vetted(EVERYTHING, False)(address)


@pytest.mark.requirement("addresses:table")
@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_passes_while_it_is_allowed(address: str) -> None:
    assert vetted((), True)(address)
    assert not vetted((), False)(address)
    assert not vetted(("10.0.0.0/8",), False)(address)


def test_a_network_opens_itself_and_nothing_beside_it() -> None:
    allowed = vetted(("10.1.0.0/16", "fd12:3456::/32"), False)
    assert allowed("10.1.255.255") and allowed("::ffff:10.1.0.1") and allowed("fd12:3456::1")
    assert not allowed("10.2.0.1") and not allowed("fd12:3457::1") and not allowed("192.168.0.1")


@pytest.mark.requirement("addresses:table")
def test_what_is_opened_is_what_the_operator_lists_public_or_not() -> None:
    opened = opened_by(("10.1.0.0/16", "93.184.215.0/24"), True)
    assert opened("10.1.2.3") and opened("93.184.215.14") and opened("127.0.0.1") and opened("::1")
    assert not opened("1.1.1.1") and not opened("10.2.0.1") and not opened("name.example")
    assert not opened_by((), False)("127.0.0.1")
    for address in NEVER:
        assert not opened_by(EVERYTHING, True)(address)


@pytest.mark.parametrize("network", ["10.1.2.3/16", "10.0.0.0/33", "internal", ""])
def test_a_network_that_is_none_is_a_usage_error(network: str) -> None:
    with pytest.raises(UsageError, match="is not a network"):
        vetted((network,), False)
