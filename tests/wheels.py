"""Wheels made by hand, and an index of them that keeps a log: no network, and none of PyPI."""

from __future__ import annotations

import base64
import hashlib
import http.server
import importlib.util
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kube import Namespace, eventually


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    needs: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    python: str = "",
    script: str = "",
) -> Path:
    """A wheel for any platform, whose module of that name has `__version__`.

    `files` are more of it by path, `python` is its Requires-Python; `script` is a program of it,
    which prints the version.
    """
    about = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {python}"] * bool(python)
    lines += [f"Requires-Dist: {need}" for need in needs]
    content = {
        f"{name}.py": f"__version__ = {version!r}\n\ndef main():\n    print(__version__)\n",
        **(files or {}),
        f"{about}/METADATA": "\n".join(lines) + "\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    if script:
        content[f"{about}/entry_points.txt"] = f"[console_scripts]\n{script} = {name}:main\n"
    record = f"{about}/RECORD"
    rows = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in content.items()]
    content[record] = "\n".join([*rows, f"{record},,"]) + "\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), text)
    return wheel


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def sha256_of(wheel: Path) -> str:
    """As locks have it."""
    return f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def pages(wheels: Sequence[Path], *, with_metadata: bool = False) -> dict[str, bytes]:
    """A simple index (PEP 503): path → content; with metadata beside the files (PEP 658)."""
    found: dict[str, bytes] = {}
    by_name: dict[str, list[Path]] = {}
    for wheel in wheels:
        by_name.setdefault(wheel.name.split("-")[0].replace("_", "-").lower(), []).append(wheel)
        found[f"/files/{wheel.name}"] = wheel.read_bytes()
        if with_metadata:
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (each for each in archive.namelist() if each.endswith("/METADATA"))
                found[f"/files/{wheel.name}.metadata"] = archive.read(name)
    for name, those in by_name.items():
        links = "".join(
            f'<a href="/files/{each.name}#sha256={sha256_of(each)[7:]}"'
            f"{' data-core-metadata=true' * with_metadata}>{each.name}</a>\n"
            for each in those
        )
        found[f"/simple/{name}/"] = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
    return found


@dataclass
class Index:
    """An index on this machine."""

    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Who asked for what: the address, and the path."""
    refuses: int = 0
    """The status of all answers, if not 0."""


@contextmanager
def index(
    wheels: Sequence[Path], host: str = "127.0.0.1", *, with_metadata: bool = False
) -> Iterator[Index]:
    """Serve the wheels until the end."""
    content = pages(wheels, with_metadata=with_metadata)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.client_address[0], self.path))
            body = content.get(self.path)
            status = made.refuses or (404 if body is None else 200)
            body = body if status == 200 and body is not None else b"no"
            self.send_response(status)
            kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if self.path.startswith("/files/"):  # as PyPI says it
                self.send_header("Cache-Control", "max-age=365000000, immutable, public")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - its name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with http.server.ThreadingHTTPServer((host, 0), Handler) as server:
        made = Index(f"http://{host}:{server.server_address[1]}/simple/")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


SERVER = """
import base64, http.server, json, pathlib, socket
content = json.loads(pathlib.Path("/index/content.json").read_text())
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = base64.b64decode(content.get(self.path, ""))
        print("asked", self.client_address[0], self.path, flush=True)
        self.send_response(200 if body else 404)
        kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.path.startswith("/files/"):
            self.send_header("Cache-Control", "max-age=365000000, immutable, public")
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
Server(("", 8080), Handler).serve_forever()
"""


class PodIndex:
    """An index in a pod of a namespace, which is deleted with it."""

    def __init__(
        self, ns: Namespace, image: str, wheels: Sequence[Path], name: str = "index"
    ) -> None:
        self._ns, self._name = ns, name
        content = {path: base64.b64encode(body).decode() for path, body in pages(wheels).items()}
        data = {"content.json": json.dumps(content)}
        ns.core.create_namespaced_config_map(ns.name, {"metadata": {"name": name}, "data": data})
        container = {
            "name": "index",
            "image": image,
            "command": ["python3", "-u", "-c", SERVER],
            "volumeMounts": [{"name": "index", "mountPath": "/index"}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        }
        volumes = [{"name": "index", "configMap": {"name": name}}]
        spec = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0}
        ns.core.create_namespaced_pod(ns.name, {"metadata": {"name": name}, "spec": spec})
        assert eventually(self._is_ready, within_s=120), ns.report()
        address = self._pod().status.pod_ip
        self.url = f"http://{f'[{address}]' if ':' in address else address}:8080/simple/"

    def _pod(self) -> Any:
        return self._ns.core.read_namespaced_pod(self._name, self._ns.name)

    def _is_ready(self) -> bool:
        conditions = self._pod().status.conditions or []
        return any(each.type == "Ready" and each.status == "True" for each in conditions)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Who asked for what: the address, and the path."""
        log = str(self._ns.core.read_namespaced_pod_log(self._name, self._ns.name))
        words = (line.split() for line in log.splitlines() if line.startswith("asked "))
        return [(address, path) for _, address, path in words]


def pip_in_a_zip(file: Path) -> Path:
    """The pip of this Python as one file, for images that have none: PYTHONPATH takes it."""
    found = importlib.util.find_spec("pip")
    assert found is not None and found.origin is not None
    root = Path(found.origin).parent
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(root.rglob("*")):
            if each.is_file() and "__pycache__" not in each.parts:
                archive.write(each, each.relative_to(root.parent))
    return file
