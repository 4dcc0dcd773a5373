"""The images, ready to run: one prepared containerd root in the cache, and copies of it for nodes.

A copy is made in no time: it has its own databases and its own writable layers, and links to the
prepared layers, which no container can write to (they are an overlay's lower folders). So every
node starts with the same images and nothing else, and what it did is thrown away with it.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import cache, oci, rootfs
from .containerd import Containerd
from .processes import run

SNAPSHOTS = Path("io.containerd.snapshotter.v1.overlayfs/snapshots")
PATH_VARIABLE = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ACTIVE = "being-filled"


@dataclass(frozen=True)
class Image:
    """One image; `layers` from the bottom up."""

    name: str
    layers: tuple[str, ...]
    command: tuple[str, ...]


PAUSE = Image("kij-train.test/pause:1", ("pause",), ("/pause",))
IMAGES = {
    "python": Image(f"kij-train.test/python:{rootfs.PYTHON}", ("base",), ("python3",)),
    "torch": Image(f"kij-train.test/torch:{rootfs.TORCH}", ("base", "torch"), ("python3",)),
}
"""What a test may ask for -> the image."""


def image_store(programs: Path) -> Path:
    """The prepared store in the cache; `programs` has the pause program."""
    pause = programs / "pause"
    image_parts = [repr(image) for image in (PAUSE, *IMAGES.values())]
    key = cache.digest(*rootfs.recipe(), pause.read_bytes(), *image_parts, platform.machine())
    return cache.obtain("store", key, lambda target: _make(target, pause), what="image store")


def copy_for_node(prepared: Path, target: Path) -> None:
    """Make a containerd root that has the prepared store's images."""
    layers = prepared / "root" / SNAPSHOTS
    shutil.copytree(
        prepared / "root",
        target,
        symlinks=True,
        ignore=lambda folder, names: names if Path(folder) == layers else [],
    )
    for layer in layers.iterdir():
        (target / SNAPSHOTS / layer.name).symlink_to(layer)


def _make(target: Path, pause: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="kij-train-store-") as scratch,
        _containerd(target / "root", Path(scratch)) as containerd,
    ):
        _add_layer(containerd, ("pause",), lambda layer: _fill_pause(layer, pause))
        _add_layer(containerd, ("base",), rootfs.fill_base)
        _add_layer(containerd, ("base", "torch"), rootfs.fill_torch, rootfs.fit_torch)
        for image in (PAUSE, *IMAGES.values()):
            _add_image(containerd, image, Path(scratch) / "image.tar")


@contextmanager
def _containerd(root: Path, scratch: Path) -> Iterator[Containerd]:
    """A containerd that only keeps images, for a while; it ends with this process."""
    containerd = Containerd(
        "containerd-store",
        root=root,
        state=scratch / "state",
        logs=scratch,
        prefix=["setpriv", "--pdeathsig", "KILL", "--"],
    )
    containerd.start()
    try:
        yield containerd
    finally:
        containerd.daemon.stop()


def _add_layer(
    containerd: Containerd,
    names: Sequence[str],
    fill: Callable[[Path], None],
    fit: Callable[[Path, Path], None] | None = None,
) -> None:
    """Make the topmost of the named layers: `fill` its folder, then `fit` it in the image."""
    layers = [oci.Layer(name) for name in names]
    parent = [oci.chain_id(layers[:-1])] if layers[:-1] else []
    containerd.ctr("snapshots", "prepare", ACTIVE, *parent)
    fill(_writable_folder(containerd))
    if fit is not None:
        with _mounted(containerd) as image:
            fit(_writable_folder(containerd), image)
    containerd.ctr("snapshots", "commit", oci.chain_id(layers), ACTIVE)


def _writable_folder(containerd: Containerd) -> Path:
    """Where the files of the active snapshot lie."""
    command = containerd.ctr("snapshots", "mounts", "/mnt", ACTIVE).split()
    for option in command[command.index("-o") + 1].split(","):
        if option.startswith("upperdir="):
            return Path(option.partition("=")[2])
    return Path(command[command.index("bind") + 1])  # the lowest layer is not an overlay


@contextmanager
def _mounted(containerd: Containerd) -> Iterator[Path]:
    """The active snapshot, on top of its parents, as its containers will see it."""
    with tempfile.TemporaryDirectory(prefix="kij-train-image-") as folder:
        run(["sh", "-ec", containerd.ctr("snapshots", "mounts", folder, ACTIVE)])
        try:
            yield Path(folder)
        finally:
            run(["umount", folder])


def _add_image(containerd: Containerd, image: Image, archive: Path) -> None:
    layers = [oci.Layer(name) for name in image.layers]
    oci.write_archive(archive, image.name, layers, image.command, [PATH_VARIABLE])
    containerd.ctr("images", "import", archive)


def _fill_pause(layer: Path, pause: Path) -> None:
    shutil.copy(pause, layer / "pause")
