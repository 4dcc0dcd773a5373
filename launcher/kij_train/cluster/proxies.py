"""Which proxy leads to a server, as Go decides it, and a connection pool that takes that way.

A kubeconfig's `proxy-url` stands above the environment. Without one, HTTPS_PROXY (HTTP_PROXY for
plain HTTP) and NO_PROXY count by the rules of golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from kij_train.errors import UnreachableError
from kij_train.redaction import keep_secret, redacted

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


class ProxyError(UnreachableError):
    """What names a proxy cannot be understood."""


@dataclass(frozen=True)
class Proxy:
    """A proxy, and who names it."""

    url: str
    """Without user and password."""
    origin: str
    """Such as "HTTPS_PROXY"."""
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def is_socks(self) -> bool:
        return self.url.startswith("socks")

    def __str__(self) -> str:
        return f"the proxy {self.url} ({self.origin})"


def proxy_of(url: str, origin: str) -> Proxy:
    """Raises ProxyError for a URL that is none."""
    scheme, is_url, _ = url.partition("://")
    if is_url and scheme not in PORTS:
        raise ProxyError(
            f"{origin}: {redacted(scheme)}:// is no proxy that can be used",
            hints=("one of http://HOST:PORT, https://HOST:PORT, socks5://HOST:PORT",),
        )
    # As in Go, a host alone is one of plain HTTP.
    parts = split_url(url if is_url else f"http://{url}")
    if parts is None:
        raise ProxyError(f"{origin} is no URL", hints=("such as http://HOST:PORT",))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    keep_secret(password, parts.password or "")
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    place = f"{parts.scheme}://{host}:{parts.port or PORTS[parts.scheme]}"
    return Proxy(place, origin, user, password)


def proxy_from_environment(url: str, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy that the environment names for a server; None: straight on."""
    parts = urlsplit(url)
    for name in (f"{parts.scheme.upper()}_PROXY", f"{parts.scheme}_proxy"):
        if environ.get(name):
            break
    else:
        return None
    without = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    if _goes_straight(parts, without):
        return None
    return proxy_of(environ[name], name)


def _goes_straight(server: SplitResult, without: str) -> bool:
    """Whether NO_PROXY, or that it is this machine, exempts a server."""
    host = (server.hostname or "").lower()
    port = str(server.port or PORTS[server.scheme])
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    entries = (entry.strip().lower() for entry in without.split(","))
    return any(_matches(entry, host, port, address) for entry in entries if entry)


def _matches(entry: str, host: str, port: str, address: _Address | None) -> bool:
    """Whether an entry of NO_PROXY means a host: *, a network, an address or a domain."""
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    named = re.fullmatch(r"\[?([^\[\]]*?)\]?(?::(\d+))?", entry)
    if _address(entry) is not None or named is None:
        name, at = entry, None
    else:
        name, at = named[1], named[2]
    if not name or at not in (None, port):
        return False
    if _address(name) is not None:
        return address == _address(name)
    domain = name.removeprefix("*")
    return host.endswith(domain if domain.startswith(".") else f".{domain}") or host == domain


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def split_url(url: str) -> SplitResult | None:
    """The parts of a URL with a host; None for what is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which raises where it is none
    except ValueError:
        return None
    written = url.isascii() and url.isprintable() and " " not in url
    return parts if parts.hostname and written else None


def pool_manager(
    proxy: Proxy | None, context: ssl.SSLContext | None, server_name: str | None = None
) -> Any:
    """urllib3's pool of connections that go by a proxy, if there is one.

    `server_name` stands for the server's host in TLS.
    """
    import urllib3

    how: dict[str, Any] = {"ssl_context": context}
    if server_name:
        how["server_hostname"] = server_name
    if proxy is None:
        return urllib3.PoolManager(**how)
    if proxy.is_socks:
        from urllib3.contrib.socks import SOCKSProxyManager

        # Names are looked up behind the proxy, which Go does for socks5 too.
        address = re.sub(r"^socks5h?:", "socks5h:", proxy.url)
        return SOCKSProxyManager(address, proxy.user or None, proxy.password or None, **how)
    headers = None
    if proxy.user:
        headers = urllib3.make_headers(proxy_basic_auth=f"{proxy.user}:{proxy.password}")
    own = _context_to_proxy(context) if proxy.url.startswith("https:") else None
    return urllib3.ProxyManager(proxy.url, proxy_headers=headers, proxy_ssl_context=own, **how)


def _context_to_proxy(server: ssl.SSLContext | None) -> ssl.SSLContext:
    """TLS to the proxy itself: who may sign for the server may sign for its proxy, as in Go."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    if server is not None:
        for certificate in server.get_ca_certs(binary_form=True):
            context.load_verify_locations(cadata=certificate)
    return context
