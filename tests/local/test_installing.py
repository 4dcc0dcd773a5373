"""What is installed beside an image's packages: both installers, on an index of this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kij_train.pod import contract, packages
from kij_train.pod.packages import Request

from tests.wheels import Index, index, make_wheel, sha256_of

TORCH = "2.11.0+cu128"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python like that of an image: with a torch, and an old package."""
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    wheels = folder / "wheels"
    had = [
        make_wheel(wheels, "torch", TORCH),
        make_wheel(wheels, "nvidia_cublas", "12.8"),
        make_wheel(wheels, "kijold", "1.0"),
    ]
    python = folder / "venv/bin/python"
    command: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        *had,
    ]
    subprocess.run(command, check=True)
    return python


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("wheels")
    pth = {"kijpth.pth": "import sys; sys.kij_pth = True\n", "sub/kijdeep.py": ""}
    return [
        make_wheel(folder, "kijapp", "1.0", needs=["kijlib>=1", "torch>=2"], script="kij-app"),
        make_wheel(folder, "kijlib", "1.5"),
        make_wheel(folder, "kijlib", "0.5"),
        make_wheel(folder, "kijold", "2.0"),
        make_wheel(folder, "kijpth", "1.0", files=pth),
        make_wheel(folder, "kijnew", "9.0", python=">=3.99"),
        make_wheel(folder, "kijvision", "1.0", needs=["torch==2.5.0"]),
        make_wheel(folder, "torch", "2.5.0"),
    ]


@pytest.fixture
def served(wheels: list[Path]) -> Iterator[Index]:
    with index(wheels) as made:
        yield made


AS_IN_A_POD = """
import json, os, sys, types
for name in ("kij_train", "kij_train.pod"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[1]]
from kij_train.pod import contract, packages
from kij_train.pod.status import say
try:
    packages._install_whole(packages.Request(**json.loads(sys.argv[2])), sys.argv[3], {}, say)
    packages.use(sys.argv[3], os.environ)
except contract.Failure as failure:
    print(failure, file=sys.stderr)
    sys.exit(failure.exit_code)
exec(sys.argv[4])
"""


class Pod:
    """Runs the pod's part under the image's Python."""

    def __init__(self, python: Path, installer: str, folder: Path, index: Index) -> None:
        self.python, self.folder, self.index = python, folder, index
        only = folder / "programs"
        only.mkdir()
        if installer == "uv":
            (only / "uv").symlink_to(Path(sys.executable).with_name("uv"))
        setting = "UV_DEFAULT_INDEX" if installer == "uv" else "PIP_INDEX_URL"
        self.env = {"PATH": f"{only}:/usr/bin:/bin", "HOME": str(folder), setting: index.url}

    def run(self, request: Request, then: str = "pass") -> subprocess.CompletedProcess[str]:
        here, asked = str(Path(packages.__file__).parent), json.dumps(request._asdict())
        target = str(self.folder / "installed")
        return subprocess.run(
            [self.python, "-c", AS_IN_A_POD, here, asked, target, then],
            env=self.env,
            capture_output=True,
            text=True,
        )


@pytest.fixture(params=["pip", "uv"])
def pod(request: pytest.FixtureRequest, image: Path, tmp_path: Path, served: Index) -> Pod:
    return Pod(image, request.param, tmp_path, served)


def asked(*lines: str, **fields: object) -> Request:
    return Request("".join(f"{line}\n" for line in lines), "test", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("installer", "with_metadata"), [("pip", False), ("pip", True), ("uv", True)]
)
def test_every_file_is_read_once_whatever_the_image_says_of_caches(
    image: Path, tmp_path: Path, wheels: list[Path], installer: str, with_metadata: bool
) -> None:
    with index(wheels, with_metadata=with_metadata) as served:
        pod = Pod(image, installer, tmp_path, served)
        pod.env |= {"PIP_TRUSTED_HOST": "127.0.0.1", "PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1"}
        done = pod.run(asked("kijapp"))
    assert done.returncode == 0, done.stderr
    read = [path for _, path in served.asked if path.endswith(".whl")]
    assert sorted(set(read)) == sorted(read) and len(read) == 2, read


def test_versions_that_another_pod_has_installed_are_taken_again(pod: Pod) -> None:
    done = pod.run(asked("kijlib", constraints="kijlib==0.5\n"))
    assert done.returncode == 0, done.stderr
    assert packages.lock_of(str(pod.folder / "installed")) == ["kijlib==0.5"]


SHOW = (
    "import kijapp, kijlib, kijold; print(kijapp.__version__, kijlib.__version__, kijold.__file__)"
)


def test_what_the_image_lacks_is_installed_and_what_it_has_stays(pod: Pod) -> None:
    done = pod.run(asked("kijapp", "kijold"), SHOW)
    assert done.returncode == 0, done.stderr
    app, lib, old = done.stdout.split()
    assert (app, lib) == ("1.0", "1.5")
    assert "installed" not in old, "the image has kijold"
    assert packages.lock_of(str(pod.folder / "installed")) == ["kijapp==1.0", "kijlib==1.5"]
    assert "kij-train: installed packages in" in done.stderr
    assert "kijapp==1.0, kijlib==1.5" in done.stderr


def test_a_newer_version_than_the_images_comes_first_on_the_path(pod: Pod) -> None:
    done = pod.run(asked("kijold>=2"), "import kijold; print(kijold.__version__)")
    assert (done.returncode, done.stdout) == (0, "2.0\n"), done.stderr


def test_programs_of_packages_are_on_the_path_and_see_them(pod: Pod) -> None:
    done = pod.run(asked("kijapp"), "import subprocess; subprocess.run(['kij-app'], check=True)")
    assert (done.returncode, done.stdout) == (0, "1.0\n"), done.stderr


def test_the_users_own_pythonpath_stays_in_front(pod: Pod) -> None:
    own = pod.folder / "own"
    own.mkdir()
    (own / "kijlib.py").write_text("__version__ = 'mine'")
    pod.env["PYTHONPATH"] = str(own)
    show = "import kijlib, subprocess, sys; print(kijlib.__version__, flush=True); "
    again = "subprocess.run([sys.executable, '-c', 'import kijlib; print(kijlib.__version__)'])"
    done = pod.run(asked("kijlib"), show + again)
    assert (done.returncode, done.stdout) == (0, "mine\nmine\n"), done.stderr


def test_pth_files_of_packages_are_read_and_the_images_sitecustomize_too(pod: Pod) -> None:
    own = pod.folder / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import sys; sys.kij_own = True")
    show = (
        "import os, subprocess, sys; print(sys.kij_pth, flush=True); "
        f"os.environ['PYTHONPATH'] += ':{own}'; "
        "subprocess.run([sys.executable, '-c', 'import sys; print(sys.kij_pth, sys.kij_own)'])"
    )
    done = pod.run(asked("kijpth"), show)
    assert (done.returncode, done.stdout) == (0, "True\nTrue True\n"), done.stderr


def test_a_lock_with_hashes_is_installed_as_it_stands(pod: Pod, wheels: list[Path]) -> None:
    lines = (
        f"kijlib==0.5 --hash={sha256_of(wheels[2])}",
        f"torch==2.11.0 --hash=sha256:{'0' * 64}",
    )
    done = pod.run(asked(*lines, locked=True), "import kijlib; print(kijlib.__version__)")
    assert (done.returncode, done.stdout) == (0, "0.5\n"), done.stderr
    assert packages.lock_of(str(pod.folder / "installed")) == ["kijlib==0.5"]


def test_a_pod_whose_index_serves_another_file_installs_nothing(pod: Pod) -> None:
    done = pod.run(asked(f"kijlib==0.5 --hash=sha256:{'0' * 64}", locked=True))
    assert done.returncode == contract.EXIT_PREPARE
    assert "a file has another hash than the lock says: " in done.stderr
    assert "kijlib" in done.stderr.splitlines()[-1]
    assert not (pod.folder / "installed").exists()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["nosuch-kij==1"], "no such package, or no such version for this Python: "),
        (["kijlib==7"], "no such package, or no such version for this Python: "),
        (["kijnew==9.0"], "not for this Python or machine: "),
        (["kijlib==1.5", "kijlib==0.5"], ""),
        (["kijvision"], "the torch of the image would be replaced: "),
        (["torch==2.5.0"], "the torch of the image would be replaced: "),
    ],
    ids=["no-package", "no-version", "python", "conflict", "needs-torch", "torch"],
)
def test_what_cannot_be_had_is_one_line(pod: Pod, lines: list[str], says: str) -> None:
    done = pod.run(asked(*lines))
    assert done.returncode == contract.EXIT_PREPARE, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("packages cannot be installed, " + says), done.stderr
    named = lines[0].partition("==")[0].replace("kijvision", "torch")
    assert named in last, done.stderr
    assert "Traceback" not in done.stderr


def test_torch_is_replaced_where_it_is_asked_for_by_name(pod: Pod) -> None:
    done = pod.run(
        asked("kijvision", "torch==2.5.0", replaces_torch=True),
        "import torch; print(torch.__version__)",
    )
    assert (done.returncode, done.stdout) == (0, "2.5.0\n"), done.stderr


def test_a_lock_of_another_torch_is_refused_with_both_versions(pod: Pod) -> None:
    done = pod.run(asked(f"torch==2.5.0 --hash=sha256:{'0' * 64}", locked=True))
    assert done.returncode == contract.EXIT_PREPARE
    assert f"test asks for torch 2.5.0, and the image has {TORCH}" in done.stderr
    assert not pod.index.asked


def test_packages_of_cuda_in_a_lock_are_the_images_matter(pod: Pod, wheels: list[Path]) -> None:
    pin = f"--hash=sha256:{'0' * 64}"
    lines = (f"torch==2.11.0 {pin}", f"nvidia-cublas==13 {pin}", f"nvidia-nccl-cu13==2 {pin}")
    done = pod.run(asked(*lines, f"kijlib==1.5 --hash={sha256_of(wheels[1])}", locked=True))
    assert done.returncode == 0, done.stderr
    assert packages.lock_of(str(pod.folder / "installed")) == ["kijlib==1.5"]


def test_nothing_missing_installs_nothing(pod: Pod) -> None:
    done = pod.run(asked("kijold", "torch"))
    assert done.returncode == 0, done.stderr
    assert "all of them are there already" in done.stderr


@pytest.mark.parametrize("status", [401, 403])
def test_an_index_that_refuses_is_told_from_a_missing_package(pod: Pod, status: int) -> None:
    pod.index.refuses = status
    done = pod.run(asked("kijlib"))
    says = "packages cannot be installed, the index refuses access: "
    assert done.stderr.splitlines()[-1].startswith(says), done.stderr
    assert done.returncode == contract.EXIT_PREPARE


def test_an_index_that_asks_for_fewer_requests_leaves_it_to_another_pod(pod: Pod) -> None:
    pod.index.refuses = 429
    pod.env |= {"PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}
    done = pod.run(asked("kijlib"))
    says = "packages cannot be installed, the index asks for fewer requests: "
    assert done.stderr.splitlines()[-1].startswith(says), done.stderr
    assert done.returncode == contract.EXIT_ORIGIN


def test_an_index_that_cannot_be_reached_leaves_it_to_another_pod(pod: Pod) -> None:
    pod.env |= {
        name: "http://u:secret@127.0.0.1:9/simple/" for name in list(pod.env) if "INDEX" in name
    }
    pod.env |= {"PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}
    done = pod.run(asked("kijlib"))
    assert done.returncode == contract.EXIT_ORIGIN, done.stderr
    assert "the index cannot be reached: " in done.stderr.splitlines()[-1]
    assert "secret" not in done.stderr


def test_settings_of_pip_serve_uv_and_the_other_way_round(pod: Pod) -> None:
    was = next(name for name in pod.env if "INDEX" in name)
    other = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "UV_DEFAULT_INDEX": "PIP_INDEX_URL"}[was]
    if other == "PIP_INDEX_URL":
        pytest.skip("pip is taken for its own settings where the image has both")
    pod.env[other] = pod.env.pop(was)
    done = pod.run(asked("kijlib"))
    assert done.returncode == 0, done.stderr


def test_an_images_settings_of_pip_do_not_lead_it_elsewhere(pod: Pod) -> None:
    pod.env |= {
        "PIP_USER": "1",
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_TARGET": str(pod.folder / "no"),
    }
    done = pod.run(asked("kijlib"), "import kijlib; print(kijlib.__file__)")
    assert done.returncode == 0, done.stderr
    assert str(pod.folder / "installed") in done.stdout


def test_a_folder_of_wheels_does_without_an_index(pod: Pod, wheels: list[Path]) -> None:
    done = pod.run(asked("--no-index", f"--find-links {wheels[0].parent}", "kijlib"))
    assert done.returncode == 0, done.stderr
    assert not pod.index.asked


def test_the_index_gives_no_wheel_of_what_the_image_has(pod: Pod) -> None:
    assert pod.run(asked("kijapp")).returncode == 0
    files = {path for _, path in pod.index.asked if path.startswith("/files/")}
    wanted = ("/files/kijapp-1.0-py3-none-any.whl", "/files/kijlib-1.5-py3-none-any.whl")
    assert {path for path in files if not path.endswith(".metadata")} == set(wanted)


def test_an_image_without_an_installer_says_so(tmp_path: Path) -> None:
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    with index([]) as served:
        done = Pod(python, "none", tmp_path, served).run(asked("kijlib"))
    assert done.returncode == contract.EXIT_PREPARE
    assert "the image has neither uv nor pip" in done.stderr


def test_two_nodes_of_this_machine_install_once(tmp_path: Path, wheels: list[Path]) -> None:
    request = asked("--no-index", f"--find-links {wheels[0].parent}", "kijlib")
    (tmp_path / f"{contract.PACKAGES_PREFIX}000").write_bytes(request.packed())
    said: list[str] = []
    first = packages._shared_with_others(request, str(tmp_path), {}, said.append)
    again = packages._shared_with_others(request, str(tmp_path), {}, said.append)
    assert first == again and Path(first, "kijlib.py").exists()
    assert len([line for line in said if line.startswith("installing")]) == 1


def test_what_one_machine_has_installed_another_one_finds_in_the_cache(
    tmp_path: Path, wheels: list[Path]
) -> None:
    there = tmp_path / "wheels"
    shutil.copytree(wheels[0].parent, there)
    request = asked("--no-index", f"--find-links {there}", "kijlib")
    environment = {contract.ENV_CACHE: str(tmp_path / "cache")}
    said: list[str] = []
    for machine in ("a", "b"):
        (tmp_path / machine).mkdir()
        packed = tmp_path / machine / f"{contract.PACKAGES_PREFIX}000"
        packed.write_bytes(request.packed())
        folder = packages._shared_with_others(
            request, str(tmp_path / machine), environment, said.append
        )
        assert Path(folder, "kijlib.py").exists()
        shutil.rmtree(there, ignore_errors=True)
    assert said[-2] == "packages: they are in the cache (test)"
    assert said[-1].endswith("s: kijlib==1.5")
