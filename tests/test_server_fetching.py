"""Images by URL: a corpus of ways into a private network, none of which may be fetched, and a mutant of each guard."""

import io
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from clipref.server.fetching import MAX_REDIRECTS, Fetcher, is_public
from clipref.server.refusals import Refusal

GOOD, PUBLIC = "pictures.example", "93.184.216.34"
MAX_BYTES = 1000


class World:
    """Hosts with addresses and answers, without a network: what was looked up, connected to, and asked for."""

    def __init__(self, answers: dict[str, bytes] | None = None, addresses: dict[str, list[Any]] | None = None) -> None:
        self.answers = {"/image": answer(b"pixels"), **(answers or {})}
        self.addresses = addresses or {}
        self.looked_up: list[str] = []
        self.connected: list[tuple[str, str]] = []
        self.asked: list[str] = []

    def resolve(self, host: str) -> list[str]:
        self.looked_up.append(host)
        known = self.addresses.get(host, [[PUBLIC]])
        found: list[str] = known[min(self.looked_up.count(host), len(known)) - 1]
        return found

    def connect(self, address: str, host: str, seconds: float) -> socket.socket:
        self.connected.append((address, host))
        ours, theirs = socket.socketpair()
        ours.settimeout(seconds)
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return ours

    def _serve(self, connection: socket.socket) -> None:
        with connection, io.BytesIO() as head:
            while b"\r\n\r\n" not in head.getvalue() and (part := connection.recv(4096)):
                head.write(part)
            path = head.getvalue().split(b" ")[1].decode()
            self.asked.append(path)
            found = self.answers.get(path, answer(b"", "404 Not Found"))
            for i in range(0, len(found), 400):
                try:
                    connection.sendall(found[i : i + 400])
                except OSError:
                    return
                if path.startswith("/slow"):
                    time.sleep(0.2)


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def to(place: str) -> bytes:
    return answer(b"", "302 Found", Location=place)


def fetcher(world: World, kind: type[Fetcher] = Fetcher, *hosts: str, seconds: float = 30.0) -> Fetcher:
    found = hosts or (GOOD,)
    return kind(found, max_bytes=MAX_BYTES, seconds=seconds, resolve=world.resolve, connect=world.connect)


# Each: a URL, what the world says, and the hosts that are allowed.
PRIVATE = [
    "127.0.0.1",
    "10.0.0.8",
    "172.16.3.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:93.184.216.34",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:8",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "::127.0.0.1",
    "no address",
    "",
]
SCHEMES = [
    f"http://{GOOD}/image",
    f"ftp://{GOOD}/image",
    "file:///etc/passwd",
    "gopher://x/",
    "HTTP://pictures.example/",
]
PLACES = [
    f"https://user@{GOOD}/image",
    f"https://user:pass@{GOOD}/image",
    f"https://{GOOD}@127.0.0.1/image",
    f"https://{GOOD}:8443/image",
    f"https://{GOOD}:22/image",
    f"https://@{GOOD}/image",
]
HOSTS = [
    "https://evil.example/image",
    "https://127.0.0.1/image",
    "https://2130706433/image",
    "https://0x7f000001/image",
    "https://0177.0.0.1/image",
    "https://127.1/image",
    "https://[::ffff:127.0.0.1]/image",
    "https://localhost/image",
    f"https://{GOOD}.evil.example/image",
    f"https://evil.example/{GOOD}/image",
    "https:///image",
    "https://",
    f"https://evil.example#{GOOD}/image",
    f"https://evil.example?{GOOD}/image",
]
SPELT = [
    f"https://evil.example\\@{GOOD}/image",
    f"https://{GOOD}/im age",
    f"https://{GOOD}/\r\nX: y",
    "https://exämple/",
    f"https://{GOOD}/" + "a" * 5000,
    f"https://{GOOD}:99999/",
    f"https://[{GOOD}/image",
]
ELSEWHERE = [
    "http://pictures.example/image",
    "https://evil.example/image",
    "https://127.0.0.1/image",
    "//evil.example/",
    "https://user@pictures.example/image",
    "https://pictures.example:81/image",
    "file:///etc/passwd",
]


def refused(found: Fetcher, url: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        found.fetch(url, "image[3]")
    assert caught.value.message.startswith("image[3]: ") and caught.value.param == "image[3]"
    assert "pass@" not in caught.value.message
    return caught.value


def test_an_allowed_host_is_fetched_by_the_address_that_was_looked_at() -> None:
    world = World({"/on": to("/image?size=2"), "/image?size=2": answer(b"large")}, {GOOD: [[PUBLIC, "1.1.1.1"]]})
    assert fetcher(world).fetch(f"https://{GOOD}/image", "image") == b"pixels"
    assert fetcher(world).fetch(f"https://{GOOD.upper()}:443/on#here", "image") == b"large"
    assert world.connected == [(PUBLIC, GOOD)] * 3 and world.looked_up == [GOOD] * 3
    assert fetcher(world, Fetcher, "*").fetch("https://any.example/image", "image") == b"pixels"


@pytest.mark.parametrize("url", [*SCHEMES, *PLACES, *HOSTS, *SPELT])
def test_other_addresses_are_not_even_looked_up(url: str) -> None:
    world = World()
    assert refused(fetcher(world), url).status == 400
    assert not world.looked_up and not world.connected


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_connected_to(address: str) -> None:
    for addresses in ([address], [PUBLIC, address], [address, PUBLIC], []):
        world = World(addresses={GOOD: [addresses]})
        refused(fetcher(world), f"https://{GOOD}/image")
        assert not world.connected


def test_any_host_is_still_not_any_address() -> None:
    for url in ("https://127.0.0.1/image", "https://2130706433/image", "https://[::1]/image"):
        world = World(addresses={"127.0.0.1": [["127.0.0.1"]], "2130706433": [["127.0.0.1"]], "::1": [["::1"]]})
        refused(fetcher(world, Fetcher, "*"), url)
        assert not world.connected


def test_a_name_that_changes_its_address_is_judged_by_the_one_that_is_used() -> None:
    world = World({"/on": to("/image")}, {GOOD: [[PUBLIC], ["127.0.0.1"]]})
    refused(fetcher(world), f"https://{GOOD}/on")
    assert world.connected == [(PUBLIC, GOOD)] and world.asked == ["/on"]


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_redirect_is_looked_at_as_if_it_were_given(place: str) -> None:
    world = World({"/on": to(place)})
    refused(fetcher(world), f"https://{GOOD}/on")
    assert world.asked == ["/on"]


def test_redirects_bytes_and_time_have_an_end() -> None:
    chain = {f"/{i}": to(f"/{i + 1}") for i in range(20)}
    world = World({**chain, f"/{20 - MAX_REDIRECTS}": to("/image")})
    refused(fetcher(world), f"https://{GOOD}/1")
    assert len(world.asked) == MAX_REDIRECTS + 1
    large = b"x" * (MAX_BYTES + 1)
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + large
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + large + b"\r\n0\r\n\r\n"
    world = World({"/large": answer(large), "/endless": endless, "/chunked": chunked, "/most": answer(large[1:])})
    for path in ("/large", "/endless", "/chunked"):
        assert refused(fetcher(world), f"https://{GOOD}{path}").status == 413
    assert len(fetcher(world).fetch(f"https://{GOOD}/most", "image")) == MAX_BYTES
    head = b"HTTP/1.1 200 OK\r\n"
    world = World({"/slow": head + b"\r\n" + b"x" * 900, "/slow-head": head + b"X: " + b"y" * 4000})
    for path in ("/slow", "/slow-head"):
        assert refused(fetcher(world, seconds=0.3), f"https://{GOOD}{path}").status == 504


def test_what_is_no_whole_image_is_refused() -> None:
    world = World(
        {
            "/short": answer(b"abc", Content_Length="5"),
            "/packed": answer(b"abc", Content_Encoding="gzip"),
            "/noise": b"\0\1\2\r\n\r\n",
            "/nowhere": answer(b"", "302 Found"),
        }
    )
    for path in ("/short", "/packed", "/noise", "/nowhere", "/missing"):
        assert refused(fetcher(world), f"https://{GOOD}{path}").status == 400


def test_public_addresses_are_public() -> None:
    assert all(map(is_public, (PUBLIC, "1.1.1.1", "2606:4700:4700::1111"))) and not any(map(is_public, PRIVATE))


def escapes(kind: type[Fetcher]) -> bool:
    """Whether anything of the corpus is fetched, or more of it than may be."""

    def fetched(world: World, url: str, *hosts: str) -> bool:
        try:
            fetcher(world, kind, *hosts).fetch(url, "image")
        except Refusal:
            return False
        return True

    answers = {"/": answer(b"x"), "/image": answer(b"x")}
    large = {"/large": answer(b"x" * (MAX_BYTES + 1))}
    return (
        any(fetched(World(answers), url) for url in (*SCHEMES, *PLACES, *HOSTS))
        or any(fetched(World(answers, {GOOD: [[address]]}), f"https://{GOOD}/image") for address in PRIVATE)
        or any(fetched(World({**answers, "/on": to(place)}), f"https://{GOOD}/on") for place in ELSEWHERE)
        or fetched(World(large), f"https://{GOOD}/large")
        or fetched(World({**answers, "/on": to("/image")}, {GOOD: [[PUBLIC], ["127.0.0.1"]]}), f"https://{GOOD}/on")
    )


GUARDS: list[str] = ["check_scheme", "check_place", "check_host", "check_addresses", "check_length"]


@pytest.mark.parametrize("guard", GUARDS)
def test_without_any_guard_something_would_be_fetched(guard: str) -> None:
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    assert escapes(type("Mutant", (Fetcher,), {guard: nothing}))


def test_a_redirect_that_is_not_checked_would_be_fetched() -> None:
    class Mutant(Fetcher):
        def fetch(self, url: str, where: str) -> bytes:
            self.check(url, where)
            found = self._get(url, where)
            return found if isinstance(found, bytes) else self.fetch_unchecked(found, where)

        def fetch_unchecked(self, url: str, where: str) -> bytes:
            found = self._get(url, where)
            assert isinstance(found, bytes)
            return found

    assert escapes(Mutant) and not escapes(Fetcher)
