"""Which network addresses the gateway may connect to: as a client of upstreams, and to fetch what others name.

An own table, because `ipaddress.is_global` takes several special addresses for public ones (192.0.0.8, 224.0.0.1,
64:ff9b::7f00:1, 2002:7f00:1::, fec0::1 among them in Python 3.11). Sources: the IANA IPv4 and IPv6 Special-Purpose
Address Registries (RFC 6890) and the metadata addresses that cloud providers document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from mcpgw.errors import UsageError


def _v4(*networks: str) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(n) for n in networks)


def _v6(*networks: str) -> tuple[IPv6Network, ...]:
    return tuple(IPv6Network(n) for n in networks)


LOOPBACK_V4 = IPv4Network("127.0.0.0/8")
LOOPBACK_V6 = IPv6Address("::1")
# No configuration opens these.
NEVER_V4 = _v4(
    "0.0.0.0/8",  # this network, unspecified
    "169.254.0.0/16",  # link-local, and most metadata services
    "168.63.129.16/32",  # Azure's host services
    "100.100.100.200/32",  # Alibaba Cloud's metadata
    "192.0.0.192/32",  # Oracle Cloud's metadata
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, broadcast
)
NEVER_V6 = _v6(
    "::/96",  # unspecified, IPv4-compatible (loopback is asked before)
    "64:ff9b:1::/48",  # local-use NAT64: which IPv4 address it means depends on the site
    "fd00:ec2::/32",  # AWS metadata
    "fd20:ce::/32",  # Google Cloud metadata
    "fe80::/10",  # link-local
    "fec0::/10",  # site-local, deprecated
    "ff00::/8",  # multicast
)
# Not public: opened by the operator's list only.
SPECIAL_V4 = _v4(
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT
    "172.16.0.0/12",
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # 6to4 relays, deprecated
    "192.168.0.0/16",
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
)
PUBLIC_V6 = IPv6Network("2000::/3")  # what IANA has opened for global unicast; everything else is special
SPECIAL_V6 = _v6(
    "2001::/23",  # protocol assignments: Teredo, ORCHID, AMT and others
    "2001:db8::/32",  # documentation
    "3fff::/20",  # documentation
)
NAT64 = IPv6Network("64:ff9b::/96")


def vetted(allow_networks: Sequence[str], allow_loopback: bool) -> Callable[[str], bool]:
    """Return the test of an address (as text) that connections go through.

    Public addresses pass; others only inside `allow_networks` (CIDR); loopback also with `allow_loopback`. Link-local,
    metadata, multicast, reserved and unspecified addresses never pass. Raises UsageError for a network that is none.
    """
    opened = opened_by(allow_networks, allow_loopback)

    def allowed(address: str) -> bool:
        ip = _parsed(address)
        return ip is not None and (_public(ip) or opened(address))

    return allowed


def opened_by(allow_networks: Sequence[str], allow_loopback: bool) -> Callable[[str], bool]:
    """Return the test of an address (as text) that the operator has opened, public or not. Raises UsageError."""
    networks = tuple(_network(n) for n in allow_networks)

    def opened(address: str) -> bool:
        ip = _parsed(address)
        if ip is None:
            return False
        if ip == LOOPBACK_V6 or ip in LOOPBACK_V4:
            return allow_loopback or _inside(ip, networks)
        return (_public(ip) or not _never(ip)) and _inside(ip, networks)

    return opened


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """Return the address that is connected to, or None for what is none, or is one on some interface alone."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, IPv4Address):
        return ip
    return None if ip.scope_id is not None else ip.ipv4_mapped or ip


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise UsageError(f"`{text}` is not a network: {error}", fix="write it as 10.1.0.0/16") from None


def _inside(ip: IPv4Address | IPv6Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(ip in network for network in networks)


def _never(ip: IPv4Address | IPv6Address) -> bool:
    # An address that carries another one reaches that one: no list opens it, or it would open what it carries.
    return _inside(ip, NEVER_V4) or _inside(ip, NEVER_V6) or bool(_carried(ip))


def _public(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv4Address):
        return not (ip in LOOPBACK_V4 or _inside(ip, NEVER_V4) or _inside(ip, SPECIAL_V4))
    if carried := _carried(ip):
        return all(_public(inner) for inner in carried)
    return ip in PUBLIC_V6 and not _inside(ip, SPECIAL_V6)


def _carried(ip: IPv4Address | IPv6Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses inside a NAT64 (RFC 6052), 6to4 (RFC 3056) or Teredo (RFC 4380) address."""
    if isinstance(ip, IPv4Address):
        return ()
    if ip in NAT64:
        return (IPv4Address(int(ip) & 0xFFFF_FFFF),)
    if ip.sixtofour is not None:
        return (ip.sixtofour,)
    return ip.teredo or ()
