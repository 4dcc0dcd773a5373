"""Packages that the image lacks: found once, installed into a folder of their own, put on the path.

The image's own Python decides what is missing, with uv or pip, whichever the image has. What the
image has and the request agrees with stays where it is. torch and what belongs to it is never
replaced, unless the request asks for that.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py, and in the
launcher for nodes of this machine.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import lzma
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, MutableMapping, NamedTuple

from kij_train.pod import contract, installers, unpack
from kij_train.pod.installers import OF_TORCH, canonical, fault
from kij_train.pod.status import Installed, Installing

Say = Callable[[str], None]
LOCK = "kij-packages.txt"
"""In the folder: what was installed, as requirements of pip."""
SITE = "sitecustomize.py"


class Request(NamedTuple):
    """What a job asks for; the launcher has read all files."""

    text: str
    """Requirements as pip reads them, one a line, options among them."""
    source: str
    """Where they are from, for messages."""
    constraints: str = ""
    locked: bool = False
    """All packages are named, at one version each: there is nothing to resolve."""
    python: str = ""
    """The versions of Python that they are for, as `requires-python` says it."""
    replaces_torch: bool = False

    def packed(self) -> bytes:
        """As it travels."""
        text = json.dumps(self._asdict(), sort_keys=True, ensure_ascii=False)
        return lzma.compress(text.encode())

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(lzma.decompress(self.packed())).hexdigest()

    @property
    def options(self) -> List[str]:
        """The lines that are not packages."""
        return [line for line in self.text.splitlines() if line.startswith("-")]

    @staticmethod
    def read(bundle_dir: str, sha256: str) -> "Request":
        """From the ConfigMaps of a pod. Raises Failure.

        The versions that another pod of the job has installed before are constraints of it.
        """
        text = unpack.from_bundle(
            bundle_dir, contract.PACKAGES_PREFIX, sha256, "the requirements' file"
        )
        request = Request(**json.loads(text))
        try:
            lock = Path(bundle_dir, contract.PACKAGES_LOCK).read_text(encoding="utf-8")
        except FileNotFoundError:
            return request
        return request._replace(constraints=request.constraints + lock)


def install(request: Request, folder: str, environ: Dict[str, str], say: Say) -> None:
    """Fill an empty folder with what the image lacks. Raises Failure."""
    started = time.monotonic()
    say(Installing(request.source).text())
    _check_python(request)
    try:
        with tempfile.TemporaryDirectory(prefix="kij-packages-") as scratch:
            installer = installers.find(environ, scratch, say)
            missing = installer.missing(
                _without_kept(request), request.constraints + _kept_torch(request), request.locked
            )
            if missing:
                installer.install([*request.options, *missing], folder)
        finish(folder)
    except OSError as error:
        raise fault("full" if error.errno == 28 else "failed", str(error)) from error
    say(Installed(round(time.monotonic() - started), tuple(lock_of(folder))).text())


def finish(folder: str) -> None:
    """Make a filled folder ready to be copied: bytecode without times, a lock, .pth files."""
    # In a process of its own: it starts workers, and some files are no Python of this version.
    how = ("-q", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
    subprocess.run([sys.executable, "-I", "-m", "compileall", *how, folder], check=False)
    if next(Path(folder).glob("*.pth"), None) and not Path(folder, SITE).exists():
        Path(folder, SITE).write_text(SITE_SOURCE, encoding="utf-8")
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, ".lock"))  # uv's
    lines = "".join(f"{line}\n" for line in _installed(folder))
    Path(folder, LOCK).write_text(lines, encoding="utf-8")


SITE_SOURCE = '''"""By kij-train: reads the .pth files here, which PYTHONPATH does not."""
import importlib.machinery
import importlib.util
import os
import site
import sys

here = os.path.dirname(os.path.abspath(__file__))
before = list(sys.path)
site.addsitedir(here)
added = [entry for entry in sys.path if entry not in before]
at = before.index(here) + 1 if here in before else 0
sys.path[:] = [*before[:at], *added, *before[at:]]
others = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
found = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
if found is not None and found.loader is not None:
    found.loader.exec_module(importlib.util.module_from_spec(found))
'''
"""Python runs the first sitecustomize that it finds, so this one runs the image's own as well."""


def lock_of(folder: str) -> List[str]:
    """What a folder holds, as requirements of pip."""
    return Path(folder, LOCK).read_text(encoding="utf-8").split("\n")[:-1]


def _installed(folder: str) -> List[str]:
    lines = []
    for one in importlib.metadata.distributions(path=[folder]):
        url = json.loads(one.read_text("direct_url.json") or "{}").get("url")
        name = canonical(one.metadata["Name"])
        lines.append(f"{name} @ {url}" if url else f"{name}=={one.version}")
    return sorted(lines)


def use(folder: str, environ: MutableMapping[str, str]) -> None:
    """Put a folder on the paths of this process and of its children.

    In front of the image's packages, and behind the folders of the user's own PYTHONPATH.
    """
    programs = os.path.join(folder, "bin")
    if os.path.isdir(programs):
        for entry in os.scandir(programs):
            if entry.is_file():
                os.chmod(entry.path, entry.stat().st_mode | 0o100)
    before = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    environ["PYTHONPATH"] = os.pathsep.join([*before, folder])
    environ["PATH"] = os.pathsep.join([programs, environ.get("PATH") or os.defpath])
    at = 1 + max((sys.path.index(entry) for entry in before if entry in sys.path), default=-1)
    known = list(sys.path)
    site.addsitedir(folder)
    added = [entry for entry in sys.path if entry not in known and entry != folder]
    sys.path[:] = [*known[:at], folder, *added, *known[at:]]
    sys.path_importer_cache.clear()


def _check_python(request: Request) -> None:
    version = sys.version_info[:3]
    if not fits(version, request.python):
        raise fault(
            "python",
            f"{request.source} is for Python {request.python}, and the image has "
            f"{'.'.join(map(str, version))}",
        )


def fits(version: "tuple[int, ...]", wanted: str) -> bool:
    """Whether a version of Python is one that `requires-python` names (PEP 440); unknown: yes."""
    for clause in filter(None, (part.strip() for part in wanted.split(","))):
        match = re.fullmatch(r"(~=|[<>]=?|[=!]=)\s*(\d+(?:\.\d+)*)(\.\*)?", clause)
        if match is None:
            continue
        sign, number = match[1], tuple(map(int, match[2].split(".")))
        cut = version[: len(number)] if match[3] or sign == "~=" else version
        padded = number + (0,) * (len(cut) - len(number))
        if sign == "~=":
            if cut < number or version[: len(number) - 1] != number[:-1]:
                return False
        elif not {
            "<": cut < padded,
            "<=": cut <= padded,
            ">": cut > padded,
            ">=": cut >= padded,
            "==": cut == padded,
            "!=": cut != padded,
        }[sign]:
            return False
    return True


def _image_torch() -> Dict[str, str]:
    """Name → version of torch, and of what goes with it; empty without torch."""
    found: Dict[str, str] = {}
    for one in _distributions():
        name = canonical(one.metadata["Name"])
        if OF_TORCH.fullmatch(name):
            found.setdefault(name, one.version)
    return found if "torch" in found else {}


def _kept_torch(request: Request) -> str:
    """Constraints that keep the image's torch; none for a lock, of which lines are left out."""
    if request.replaces_torch or request.locked:
        return ""
    return "".join(f"{name}=={version}\n" for name, version in sorted(_image_torch().items()))


def _without_kept(request: Request) -> str:
    """The requirements; of a lock without what the image has of torch. Raises Failure.

    A lock of torch names the packages of CUDA that its wheel needs: an image's torch has its own.
    """
    has = _image_torch() if request.locked and not request.replaces_torch else {}
    if not has:
        return request.text
    kept, pins = [], []
    for line in request.text.splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)\s*==\s*([^\s;]+)", line)
        name = canonical(match[1]) if match else ""
        if match is None or not OF_TORCH.fullmatch(name):
            kept.append(line)
        elif name == "torch":
            pins.append(match[2])
    if pins and not any(same_version(pin, has["torch"]) for pin in pins):
        raise fault(
            "torch",
            f"{request.source} asks for torch {' or '.join(pins)}, and the image has "
            f"{has['torch']}",
        )
    return "\n".join(kept) + "\n"


def same_version(pin: str, version: str) -> bool:
    """Whether a version is the pinned one; a pin without a local part is met by any (PEP 440)."""
    if "+" not in pin:
        version = version.partition("+")[0]

    def normal(text: str) -> str:
        public, plus, local = text.lower().partition("+")
        return re.sub(r"(\.0)+$", "", public) + plus + re.sub(r"[-_]", ".", local)

    return normal(pin) == normal(version)


def make_ready(env: Dict[str, str], say: Say) -> None:
    """Install what this pod, or this node of a machine, was asked for. Raises Failure."""
    cache = env.get(contract.ENV_PACKAGES_DIR)
    request = Request.read(cache or contract.BUNDLE_DIR, env[contract.ENV_PACKAGES_SHA256])
    if cache:
        folder = _shared_with_others(request, cache, env, say)
    else:
        folder = _shared_with_pods(request, env, say)
    use(folder, os.environ)


def _shared_with_pods(request: Request, env: Dict[str, str], say: Say) -> str:
    """The folder with what one pod of the job installs for all."""
    from kij_train.pod.spread.sharing import share  # not in pods that install nothing

    # Not a variable: what installs is another process.
    folder, marker = contract.PACKAGES_DIR, contract.PACKAGES_DIR + ".here"
    started = time.monotonic()

    def produce(target: str) -> None:
        Path(marker).touch()
        _produce(request, target, env, say)

    share("packages", produce, folder, env, say)
    if not os.path.exists(marker):
        took = round(time.monotonic() - started)
        say(Installed(took, tuple(lock_of(folder)), received=True).text())
    return folder


def _produce(request: Request, folder: str, env: Dict[str, str], say: Say) -> None:
    """Fill an empty folder, from the cache of the job if it has one. Raises Failure."""

    def make(target: str) -> None:
        install(request, target, dict(os.environ), say)

    if not env.get(contract.ENV_CACHE):
        make(folder)
        return
    from kij_train.pod.spread.cache import filled, key_of

    started = time.monotonic()
    key = key_of("packages", request.sha256, *_installs_like())
    if filled(key, "packages", folder, make, env, say):
        seconds = round(time.monotonic() - started)
        say(f"packages: they are in the cache ({request.source})")
        say(Installed(seconds, tuple(lock_of(folder))).text())


def _installs_like() -> List[str]:
    """What else decides what is installed: Python, machine, the image's packages, the indexes."""
    has = sorted(f"{one.metadata['Name']}=={one.version}" for one in _distributions())
    indexes = [name for pair in installers.SAME_SETTINGS.items() for name in pair]
    settings = [
        f"{name}={installers.CREDENTIALS.sub('', os.environ.get(name, ''))}" for name in indexes
    ]
    libc = "-".join(platform.libc_ver())
    return [sys.executable, sys.version, platform.machine(), libc, *has, *settings]


def _install_whole(request: Request, folder: str, env: Dict[str, str], say: Say) -> None:
    """Install into a folder that is not there; it comes to be when it is whole."""
    new = folder + ".new"
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new)
    try:
        _produce(request, new, env, say)
        os.rename(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _shared_with_others(request: Request, cache: str, env: Dict[str, str], say: Say) -> str:
    """The folder of this request and this Python on this machine; one process installs into it."""
    import fcntl

    has = sorted(f"{one.metadata['Name']}=={one.version}" for one in _distributions())
    what = "\n".join([sys.executable, sys.version, *has])
    folder = os.path.join(cache, hashlib.sha256(what.encode()).hexdigest()[:16])
    try:
        with open(folder + ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another process installs packages: {request.source}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.isdir(folder):
                _install_whole(request, folder, env, say)
    except OSError as error:
        raise fault("failed", f"{error.filename or cache}: {error.strerror}") from error
    return folder


def _distributions() -> Iterator[importlib.metadata.Distribution]:
    """Those of this Python; damaged ones have no name, and are none."""
    return (one for one in importlib.metadata.distributions() if one.metadata["Name"])
