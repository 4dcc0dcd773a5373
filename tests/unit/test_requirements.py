"""What becomes of the files that say which packages a job needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train import requirements, runs
from kij_train.errors import RequestError
from kij_train.pod import contract
from kij_train.pod.packages import Request
from kij_train.requirements.locks import ALWAYS, NEVER, _without_groups
from kij_train.spec import ArraySpec, JobSpec
from kij_train.specfile import Resolved
from packaging.markers import Marker
from pydantic import ValidationError

HASH = f"sha256:{'a' * 64}"


def read(folder: Path, content: str = "", name: str = "requirements.txt", **fields: Any) -> Request:
    if content:
        (folder / name).write_text(content)
        fields["requirements"] = name
    spec = JobSpec(script="a.py", **fields)
    found = requirements.read(spec, folder, folder, ships=True)
    assert found is not None
    return found


def refused(folder: Path, content: str, name: str = "requirements.txt", **fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        read(folder, content, name, **fields)
    return "\n".join([caught.value.message, *caught.value.hints])


def test_a_job_without_packages_has_no_request(tmp_path: Path) -> None:
    assert requirements.read(JobSpec(script="a.py"), tmp_path, tmp_path, ships=True) is None


def test_a_file_goes_to_the_pods_with_markers_and_options_and_without_comments(
    tmp_path: Path,
) -> None:
    (tmp_path / "more.txt").write_text("einops\n")
    (tmp_path / "limits.txt").write_text("numpy<3\n")
    found = read(
        tmp_path,
        "# first\n--index-url https://mirror/simple\n-r more.txt\n-c limits.txt\n"
        "transformers[torch]==5.17 ; python_version < '4'  # why\n"
        "datasets @ https://host/datasets-1-py3-none-any.whl\n\n",
    )
    assert found.text.splitlines() == [
        "--index-url https://mirror/simple",
        "einops",
        "transformers[torch]==5.17 ; python_version < '4'",
        "datasets @ https://host/datasets-1-py3-none-any.whl",
    ]
    assert (found.constraints, found.locked) == ("numpy<3\n", False)


def test_a_file_with_hashes_for_all_is_a_lock(tmp_path: Path) -> None:
    content = f"a==1 \\\n    --hash={HASH} \\\n    --hash=sha256:{'b' * 64}\nb==2 --hash={HASH}\n"
    found = read(tmp_path, content)
    assert found.locked
    assert found.text == f"a==1 --hash={HASH} --hash=sha256:{'b' * 64}\nb==2 --hash={HASH}\n"
    assert not read(tmp_path, content + "c>=1\n").locked
    assert not read(tmp_path, "a==1\n").locked, "what it needs may be missing"


def test_with_a_package_on_top_a_locks_versions_count_and_its_hashes_do_not(tmp_path: Path) -> None:
    found = read(tmp_path, f"--require-hashes\na==1 --hash={HASH}\n", packages=("einops",))
    assert (found.text, found.locked) == ("a==1\neinops\n", False)
    assert found.source == "requirements.txt, --with einops"


@pytest.mark.parametrize(
    ("packages", "replaced"),
    [(("torch==2.5",), True), (("Torch",), True), (("torchvision",), False), (("a",), False)],
)
def test_torch_is_replaced_only_where_it_is_named(
    tmp_path: Path, packages: tuple[str, ...], replaced: bool
) -> None:
    assert read(tmp_path, packages=packages).replaces_torch is replaced
    assert not read(tmp_path, "torch==2.5\n").replaces_torch


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-e .", "--env PYTHONPATH="),
        ("--editable ./sub", "--env PYTHONPATH="),
        ("./a.whl", "--find-links FOLDER"),
        ("/data/a.tar.gz", "--find-links FOLDER"),
        ("https://host/a.whl", "NAME @ URL"),
        ("a==", "is no requirement: "),
        ("a ; python == 3", "is no requirement: "),
        ("--frobnicate", "is no option of a file"),
        ("--index-url", "lacks its value"),
        ("-r https://host/r.txt", "names a URL"),
        ("-r missing.txt", "cannot be read: No such file"),
        ("-r requirements.txt", "leads back"),
        ("--find-links ../wheels", "outside of the code"),
        ("-r 'open", "not as a shell reads words"),
    ],
)
def test_a_line_that_no_pod_could_use_is_refused_with_its_place(
    tmp_path: Path, line: str, says: str
) -> None:
    said = refused(tmp_path, f"einops\n{line}\n")
    assert says in said
    assert "requirements.txt:2" in said or "missing.txt" in said


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://user:s3cret@host/simple",
        "--extra-index-url https://s3cret@host/simple",
        "a @ https://user:s3cret@host/a.whl",
        "a @ git+https://s3cret@host/a.git",
        "https://user:s3cret@host/a.whl",
        "-f https://user:s3cret@host/",
        "--index-url https://user:not/quoted/s3cret@host/simple",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    said = refused(tmp_path, line + "\n")
    assert "s3cret" not in said and "--env-from-secret" in said
    if not line.startswith("-"):
        with pytest.raises(ValidationError, match="--env-from-secret"):
            JobSpec(script="a.py", packages=(line,))


def test_variables_in_a_url_are_for_the_pods_to_fill_in(tmp_path: Path) -> None:
    line = "--index-url https://${INDEX_USER}:${INDEX_TOKEN}@host/simple"
    assert read(tmp_path, f"{line}\na\n").options == [line]
    read(tmp_path, "a @ git+ssh://git@github.com/o/a.git\n")


def test_a_folder_of_wheels_in_the_code_is_named_as_pods_have_it(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    found = read(tmp_path, "--no-index\n--find-links ./wheels\n-f /mnt/wheels\na\n")
    assert found.options == [
        "--no-index",
        f"--find-links {contract.WORK_DIR}/code/wheels",
        "-f /mnt/wheels",
    ]
    here = JobSpec(script="a.py", requirements="requirements.txt")
    local = requirements.read(here, tmp_path, tmp_path, ships=False)
    assert local is not None and f"--find-links {tmp_path}/wheels" in local.options


def test_a_project_gives_its_dependencies_and_its_python(tmp_path: Path) -> None:
    content = '[project]\nname = "x"\nrequires-python = ">=3.9"\ndependencies = ["a>=1", "b"]\n'
    found = read(tmp_path, content, "pyproject.toml")
    assert (found.text, found.python, found.locked) == ("a>=1\nb\n", ">=3.9", False)
    dynamic = content.replace("dependencies = ", 'dynamic = ["dependencies"]\nx = ')
    assert "uv pip compile" in refused(tmp_path, dynamic, "pyproject.toml")
    assert "poetry export" in refused(tmp_path, "[tool.poetry]\n", "pyproject.toml")
    assert "no valid TOML" in refused(tmp_path, "[project\n", "pyproject.toml")
    wrong = content.replace(">=3.9", "new")
    assert "requires-python" in refused(tmp_path, wrong, "pyproject.toml")


PYLOCK = f"""
lock-version = "1.0"
requires-python = ">=3.11"
default-groups = ["train"]

[[packages]]
name = "a"
version = "1.0"
marker = "sys_platform == 'linux'"
index = "https://mirror/simple"
wheels = [{{ url = "https://host/a.whl", hashes = {{ sha256 = "{"a" * 64}", blake2b = "0" }} }}]

[[packages]]
name = "b"
version = "2.0"
marker = "'train' in dependency_groups or 'x' in extras"
sdist = {{ url = "https://host/b.tar.gz", hashes = {{ sha256 = "{"b" * 64}" }} }}
"""


def test_a_pylock_is_a_lock_with_its_markers_and_its_index(tmp_path: Path) -> None:
    found = read(tmp_path, PYLOCK, "pylock.toml")
    assert found.text.splitlines() == [
        "--index-url https://mirror/simple",
        f"a==1.0 ; sys_platform == 'linux' --hash=sha256:{'a' * 64}",
        f"b==2.0 ; {ALWAYS} or {NEVER} --hash=sha256:{'b' * 64}",
    ]
    assert (found.locked, found.python) == (True, ">=3.11")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('lock-version = "2.0"\npackages = []', "lock-version 2.0"),
        ("[[package]]\nname = 'a'", "is no lock"),
        ('lock-version = "1.0"\n[[packages]]\nversion = "1"', "is not as PEP 751 has it"),
        ('lock-version = "1.0"\n[[packages]]\nname = "a"\ndirectory = {path = "."}', "is a folder"),
        (
            'lock-version = "1.0"\n[[packages]]\nname = "a"\narchive = {url = "https://u:p@h/a"}',
            "holds credentials",
        ),
    ],
)
def test_a_pylock_that_pods_cannot_use_is_refused(tmp_path: Path, content: str, says: str) -> None:
    said = refused(tmp_path, content, "pylock.toml")
    assert says in said and "u:p" not in said


@given(st.lists(st.sampled_from(["train", "dev"]), unique=True), st.booleans())
def test_groups_are_decided_before_a_marker_travels(groups: list[str], negated: bool) -> None:
    marker = f"'train' {'not ' * negated}in dependency_groups and python_version > '3'"
    assert Marker(_without_groups(marker, set(groups))).evaluate() is (
        ("train" in groups) != negated
    )


UV_LOCK = """
version = 1
revision = 3
requires-python = ">=3.9"

[[package]]
name = "app"
version = "0.1.0"
source = { virtual = "." }
dependencies = [{ name = "six" }]

[package.dev-dependencies]
dev = [{ name = "iniconfig" }]

[package.metadata]
requires-dist = [{ name = "six" }]

[package.metadata.requires-dev]
dev = [{ name = "iniconfig" }]

[[package]]
name = "iniconfig"
version = "2.0.0"
source = { registry = "https://pypi.org/simple" }
wheels = [{ url = "https://host/iniconfig-2.0.0-py3-none-any.whl", hash = "HASH" }]

[[package]]
name = "six"
version = "1.16.0"
source = { registry = "https://pypi.org/simple" }
wheels = [{ url = "https://host/six-1.16.0-py3-none-any.whl", hash = "HASH" }]
""".replace("HASH", HASH)
PROJECT = """
[project]
name = "app"
version = "0.1.0"
requires-python = ">=3.9"
dependencies = ["six"]
[dependency-groups]
dev = ["iniconfig"]
"""


def test_a_lock_of_uv_is_taken_without_the_project_and_its_development(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    found = read(tmp_path, UV_LOCK, "uv.lock")
    assert (found.text, found.locked) == (f"six==1.16.0 --hash={HASH}\n", True)
    assert found.python == ">=3.9"
    assert not (tmp_path / ".venv").exists()


def test_a_lock_of_uv_without_its_project_is_refused_in_uvs_words(tmp_path: Path) -> None:
    assert "uv cannot export it: " in refused(tmp_path, UV_LOCK, "uv.lock")


def test_a_lock_of_uv_needs_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    bare = shutil.which("python3", path="/usr/bin:/bin")
    if bare is None:
        pytest.skip("no python3 beside this one")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.executable", bare)
    assert "pip install uv" in refused(tmp_path, UV_LOCK, "uv.lock")


@pytest.mark.parametrize("name", ["poetry.lock", "Pipfile", "environment.yml", "setup.py"])
def test_files_of_other_tools_are_answered_with_the_way_to_make_one(
    tmp_path: Path, name: str
) -> None:
    assert "> requirements.txt" in (said := refused(tmp_path, "x", name)) or "-o req" in said


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_bytes(b"\xff\xfe")
    for name, says in (("r.txt", "no text in UTF-8"), (".", "Is a directory")):
        spec = JobSpec(script="a.py", requirements=name)
        with pytest.raises(RequestError, match=says):
            requirements.read(spec, tmp_path, tmp_path, ships=True)


@pytest.mark.parametrize("model", [JobSpec, ArraySpec])
def test_the_request_travels_in_a_config_map_and_its_hash_in_a_variable(
    tmp_path: Path, model: type[JobSpec] | type[ArraySpec]
) -> None:
    (tmp_path / "a.py").write_text("")
    fields: dict[str, Any] = {"script": "a.py", "packages": ("einops",), "setup": "echo $HOME"}
    if model is ArraySpec:
        resolved = Resolved(ArraySpec(range="0:2", **fields), {})
        from kij_train.arrays.items import from_values

        objects = runs.plan_array(
            resolved, from_values(["a", "b"]), cwd=tmp_path, place=runs.OnCluster()
        ).objects()
    else:
        plan = runs.plan(Resolved(JobSpec(**fields), {}), cwd=tmp_path, place=runs.OnCluster())
        objects = plan.objects()
    container = objects[-1]["spec"]["template"]["spec"]["containers"][0]
    env = {each["name"]: each.get("value") for each in container["env"]}
    (carried,) = (each for each in objects if "kij-packages-" in each["metadata"]["name"])
    assert list(carried["binaryData"]) == [f"{contract.PACKAGES_PREFIX}000"]
    assert env[contract.ENV_PACKAGES_SHA256] == Request("einops\n", "--with einops").sha256
    assert env[contract.ENV_SETUP] == "echo $$HOME"
    mounted = objects[-1]["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"]
    assert {"configMap": {"name": carried["metadata"]["name"]}} in mounted
