"""The user's code: from chunks in ConfigMaps to a folder.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import io
import os
from typing import Any, Dict, List

from kij_train.pod import contract
from kij_train.pod.contract import Failure

MOST_LINKS = 40
"""How many the kernel follows before it gives up (ELOOP)."""


def unpack_code(bundle_dir: str, target: str, sha256: str) -> None:
    """Join the chunks, check their SHA-256 (of the tar, uncompressed) and unpack it into `target`.

    Raises Failure when a chunk is missing, the hash differs, or a member would leave `target`.
    """
    import tarfile

    archive = from_bundle(bundle_dir, contract.CODE_PREFIX, sha256, "the code")
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            members = tar.getmembers()
            check_members(members)
            os.makedirs(target, exist_ok=True)
            if hasattr(tarfile, "data_filter"):
                tar.extractall(target, members, filter="data")
            else:  # Python before 3.8.17, 3.9.17, 3.10.12, 3.11.4
                tar.extractall(target, members)  # noqa: S202 - check_members did
    except (OSError, tarfile.TarError, RecursionError) as error:  # tarfile: of links in a circle
        raise Failure(
            contract.EXIT_CODE, f"cannot unpack the code into {target}: {error}"
        ) from error


def from_bundle(bundle_dir: str, prefix: str, sha256: str, what: str) -> bytes:
    """What travels in files of ConfigMaps that begin with `prefix`: joined, decompressed, checked.

    `what` it is, for messages. Raises Failure where it is not all there, or not what was launched.
    """
    import hashlib
    import lzma

    names = sorted(n for n in os.listdir(bundle_dir) if n.startswith(prefix))
    try:
        packed = b"".join(_content(os.path.join(bundle_dir, name)) for name in names)
        content = lzma.decompress(packed)
    except (OSError, lzma.LZMAError) as error:
        raise Failure(
            contract.EXIT_CODE, f"cannot read {what} in {bundle_dir} ({names}): {error}"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Failure(
            contract.EXIT_CODE,
            f"{what} in {bundle_dir} is not what was launched: its SHA-256 is not {sha256}",
        )
    return content


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _parts(path: str) -> List[str]:
    """Of a path of an archive; a "." and a "/" that do nothing are left out."""
    return [part for part in path.split("/") if part not in ("", ".")]


def check_members(members: List[Any]) -> None:
    """Raise Failure unless all are files, folders and links that stay inside the archive."""
    links = {"/".join(_parts(m.name)): m.linkname for m in members if m.issym()}
    names = {"/".join(_parts(m.name)) for m in members}
    if len(names) < len(members):
        raise Failure(contract.EXIT_CODE, "the code holds a name twice")
    for member in members:
        parts = _parts(member.name)
        inside = not member.name.startswith("/") and ".." not in parts and bool(parts)
        # A member below a link would be written wherever the link points.
        through_link = any("/".join(parts[:end]) in links for end in range(1, len(parts)))
        if member.issym():
            inside = inside and stays_inside(member.name, links)
        if not inside or through_link or not (member.isfile() or member.isdir() or member.issym()):
            raise Failure(
                contract.EXIT_CODE, f"the code holds {member.name!r}, which would leave its folder"
            )


def stays_inside(link: str, links: Dict[str, str]) -> bool:
    """Whether a link of the archive, followed through its other links, leads into its folder.

    `links` are the targets of all links. Python's own data filter does the same where there is one.
    """
    *at, name = _parts(link)
    ahead = [name]
    followed = 0
    while ahead:
        part = ahead.pop(0)
        if part == "..":
            if not at:
                return False
            at.pop()
            continue
        at.append(part)
        target = links.get("/".join(at))
        if target is None:
            continue
        if not target or target.startswith("/"):
            return False
        followed += 1
        if followed > MOST_LINKS:
            return True  # nowhere at all: so does the kernel
        at.pop()
        ahead[:0] = _parts(target)
    return True
