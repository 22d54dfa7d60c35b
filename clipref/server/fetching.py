"""Images by URL, from hosts that the operator named, without becoming anybody's way into a private network.

A URL is fetched only if it is https, of an allowed host, without user and with the usual port; the host is resolved
once, all of its addresses have to be public, and the connection goes to the first of those; each redirect is looked at
as if it had been given. Bytes and time are bounded. No proxy is asked, no cookie kept, nothing unpacked.

Resolving and connecting are given from outside, so that tests can tell what would have been fetched.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import NoReturn, TypeAlias
from urllib.parse import urljoin, urlsplit

from .refusals import Refusal, wrong

Resolve: TypeAlias = Callable[[str], Sequence[str]]
Connect: TypeAlias = Callable[[str, str, float], socket.socket]

HTTPS = 443
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 3
MAX_URL = 4096


def system_addresses(host: str) -> list[str]:
    """What the system's resolver says. Raises OSError."""
    found = socket.getaddrinfo(host, HTTPS, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def tls_connection(address: str, host: str, seconds: float) -> socket.socket:
    """A connection to an address, by whoever proves to be the host. Raises OSError."""
    plain = socket.create_connection((address, HTTPS), timeout=seconds)
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


class Fetcher:
    """Fetches images from allowed hosts; "*" allows every public one."""

    def __init__(
        self,
        hosts: Collection[str],
        *,
        max_bytes: int,
        seconds: float = 10.0,
        resolve: Resolve = system_addresses,
        connect: Connect = tls_connection,
    ) -> None:
        self.hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self.max_bytes = max_bytes
        self.seconds = seconds
        self._resolve = resolve
        self._connect = connect

    def fetch(self, url: str, where: str) -> bytes:
        """The bytes at a URL, which the request calls `where`. Raises Refusal."""
        for _ in range(MAX_REDIRECTS + 1):
            self.check(url, where)
            answer = self._get(url, where)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        _refuse(where, f"its URL leads on more than {MAX_REDIRECTS} times")

    def check(self, url: str, where: str) -> None:
        """Raise Refusal unless the URL may be looked up."""
        if len(url) > MAX_URL or not re.fullmatch(r"[!-\[\]-~]*", url):  # no blanks, no backslashes, ASCII
            _refuse(where, "its URL is too long, or has characters that a URL doesn't have")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            _refuse(where, "its URL can't be read")
        self.check_scheme(parts.scheme, where)
        self.check_place("@" in parts.netloc, port, where)
        self.check_host(host, where)

    def check_scheme(self, scheme: str, where: str) -> None:
        """Only https."""
        if scheme != "https":
            _refuse(where, "only https URLs are fetched")

    def check_place(self, has_user: bool, port: int | None, where: str) -> None:
        """No user, no password, the usual port."""
        if has_user or port not in (None, HTTPS):
            _refuse(where, "URLs with a user or a port are not fetched")

    def check_host(self, host: str, where: str) -> None:
        """A host that is allowed."""
        if not host or ("*" not in self.hosts and host.lower().rstrip(".") not in self.hosts):
            _refuse(where, "its host is not one that this server fetches images from")

    def check_addresses(self, addresses: Sequence[str], where: str) -> None:
        """Public addresses only, all of them."""
        if not addresses or not all(map(is_public, addresses)):
            _refuse(where, "its host has no address, or one that is not public")

    def check_length(self, length: int, where: str) -> None:
        """No more bytes than allowed."""
        if length > self.max_bytes:
            raise Refusal(413, f"{where}: the image at its URL has over {self.max_bytes} bytes.", param=where)

    def _get(self, url: str, where: str) -> bytes | str:
        """What is at a URL that was checked; or where it leads on to."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            addresses = self._resolve(host)
        except (OSError, UnicodeError):
            _refuse(where, "its host can't be found")
        self.check_addresses(addresses, where)
        try:
            connection = self._connect(addresses[0], host, self.seconds)
        except OSError:
            _refuse(where, "its host can't be reached")
        late = threading.Event()
        timer = threading.Timer(self.seconds, self._end, (connection, late))
        timer.daemon = True
        timer.start()
        try:
            target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
            return self._answer(connection, host, target, where)
        except (OSError, ValueError, http.client.HTTPException):
            _refuse(where, "its host broke off, or spoke no HTTP")
        finally:
            timer.cancel()
            connection.close()
            if late.is_set():  # what was cut short may look whole, or like anything
                raise Refusal(504, f"{where}: its URL took longer than {self.seconds:g} s.", param=where)

    def _end(self, connection: socket.socket, late: threading.Event) -> None:
        late.set()
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _answer(self, connection: socket.socket, host: str, target: str, where: str) -> bytes | str:
        client = http.client.HTTPConnection(host, timeout=self.seconds)
        client.auto_open = 0  # it has its connection, and may not make another
        client.sock = connection
        client.request("GET", target, headers={"Accept": "image/*", "User-Agent": "clipref"})
        with client.getresponse() as response:
            if response.status in REDIRECTS and (place := response.headers["Location"]):
                return str(place)
            if response.status != 200 or response.headers.get("Content-Encoding", "identity") != "identity":
                _refuse(where, "its host didn't send an image")
            self.check_length(response.length or 0, where)
            data = response.read(self.max_bytes + 1)
        self.check_length(len(data), where)
        if response.length:  # http.client ends silently where a body with a cap is cut short
            _refuse(where, "its host broke off")
        return data


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, and isn't another one in disguise."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and (
        found.ipv4_mapped or found.sixtofour or found.teredo or found in _NAT64 or found in _COMPATIBLE
    ):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


# RFC 6052, RFC 8215; RFC 4291, 2.5.5.1.
_NAT64 = ipaddress.ip_network("64:ff9b::/95")
_COMPATIBLE = ipaddress.ip_network("::/96")


def _refuse(where: str, reason: str) -> NoReturn:
    """Raise Refusal; nothing of the URL is repeated, which may be a secret."""
    raise wrong(f"{where}: {reason}; send the image itself, in base64.", where)
