"""URLs that the fetcher must not ask for, and some that it may, as data: (URL, what its name resolves to).

One row for each way in which a URL leads, or seems to lead, somewhere else than to a public host over https.
"""

from __future__ import annotations

PUBLIC_V4, PUBLIC_V6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
Row = tuple[str, tuple[str, ...]]


def _hosts(*hosts: str) -> list[Row]:
    return [(f"https://{host}/", ()) for host in hosts]


def _names(*answers: tuple[str, ...]) -> list[Row]:
    return [("https://name.example/", answer) for answer in answers]


# Addresses as people write them, of every range that is not for the public.
_PLAIN = _hosts(
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "169.254.170.2",
    "168.63.129.16",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[2001::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[100::1]",
)
# Addresses inside addresses.
_CARRIED = _hosts(
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
)
# Numbers that resolvers and browsers take for addresses.
_DISGUISED = _hosts(
    "127.1",
    "127.0.1",
    "0",
    "0x7f.1",
    "0x7f000001",
    "0X7F.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "2130706433",
    "0x7f.0x0.0x0.0x1",
    "127.0.0.1.",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "169.254.43518",
    "10.1",
    "１２７.0.0.1",
    "127。0。0。1",
    "127．0．0．1",
    "127｡0｡0｡1",
    "①②⑦.⓪.⓪.①",
    "%31%32%37.0.0.1",
    "127%2e0.0.1",
    "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "app.localhost",
    "ｌｏｃａｌｈｏｓｔ",
)
# What no two parsers read alike, or what is no URL of the web.
_AMBIGUOUS: list[Row] = [
    (url, ())
    for url in (
        "http://name.example/",
        "http://93.184.215.14/",
        "ftp://name.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:application/json,{}",
        "gopher://127.0.0.1:6379/_INFO",
        "//name.example/",
        "/relative",
        "",
        "https:/name.example/",
        "https:name.example/",
        "https:///name.example/",
        "https://",
        "https://?q",
        "https://user@name.example/",
        "https://user:secret@name.example/",
        "https://name.example@127.0.0.1/",
        "https://127.0.0.1#@name.example/",
        "https://name.example#fragment",
        "https://name.example\\@127.0.0.1/",
        "https:\\\\name.example/",
        "https://name.example:0/",
        "https://name.example:65536/",
        "https://name.example:99999999/",
        "https://name.example:44 3/",
        "https://name.example:４４３/",
        "https://name .example/",
        "https://name\t.example/",
        "https://na\nme.example/",
        " https://name.example/",
        "https://name.example/\r\nx: y",
        "https://name.example/\x00",
        "https://name..example/",
        "https://.example/",
        "https://-name.example/",
        "https://name.example%00.evil/",
        "https://name.example%2f@evil/",
        "https://256.256.256.256/",
        "https://1.2.3.4.5/",
        "https://09.0.0.1/",
        "https://0x.0x.0x.0x/",
        "https://4294967296/",
        "https://name.0x7f/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://[::ffff:127.0.0.1%25lo]/",
        "https://[v1.fe]/",
        "https://name.example/" + "a" * 3000,
        f"https://{'a' * 64}.example/",
        "https://bücher.example/",
        "https://na\u00adme.example/",
    )
]
# Names, by what they resolve to: one bad address among good ones is enough.
_RESOLVED = _names(
    ("127.0.0.1",),
    ("10.0.0.5",),
    ("169.254.169.254",),
    ("::1",),
    ("fd12:3456::1",),
    ("::ffff:127.0.0.1",),
    ("64:ff9b::a9fe:a9fe",),
    (PUBLIC_V4, "127.0.0.1"),
    ("10.0.0.5", PUBLIC_V4),
    (PUBLIC_V6, "fe80::1"),
    (PUBLIC_V4, PUBLIC_V6, "0.0.0.0"),
)
DENIED: list[Row] = [*_PLAIN, *_CARRIED, *_DISGUISED, *_AMBIGUOUS, *_RESOLVED]

ALLOWED: list[tuple[Row, str]] = [
    (("https://name.example/", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://NAME.Example/", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://name.example./", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://name.example", (PUBLIC_V6,)), PUBLIC_V6),
    (("https://name.example:8443/a/b?c=d&e", (PUBLIC_V4, PUBLIC_V6)), PUBLIC_V4),
    (("https://name.example?query", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://xn--bcher-kva.example/", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://under_score.example/", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://n%61me.example/", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://ｎame.example/", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://name.example/@user", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://name.example/ümläut", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://1.1.1.1/", ("1.1.1.1",)), "1.1.1.1"),
    (("https://0x01010101/", ("1.1.1.1",)), "1.1.1.1"),
    (("https://[2606:4700:4700::1111]/", ("2606:4700:4700::1111",)), "2606:4700:4700::1111"),
    (("https://[2606:4700:4700:0:0:0:0:1111]:8443/", ("2606:4700:4700::1111",)), "2606:4700:4700::1111"),
    (("https://11.0.0.1/", ("11.0.0.1",)), "11.0.0.1"),
    (("https://172.32.0.1/", ("172.32.0.1",)), "172.32.0.1"),
    (("https://localhost.example/", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://127.0.0.1.example/", (PUBLIC_V4,)), PUBLIC_V4),
    (("https://name.example/", ("64:ff9b::101:101",)), "64:ff9b::101:101"),
    (("https://name.example/", ("2002:101:101::1",)), "2002:101:101::1"),
]
