"""What a repository keeps for Argo CD and Flux: the same bytes from the same request, anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.commandline import run
from tests.kube import ROOT

GITOPS = ROOT / "manifests/gitops"
REQUESTS = {
    "launch": ("render", "--nodes", "4", "--ttl", "1d", "train.py", "--lr", "3e-4"),
    "restart": ("render", "--restart", "gang", "--nodes", "3", "--spares", "1", "train.py"),
    "map": ("map", "--items", "items.txt", "--dry-run", "client", "-o", "yaml", "train.py"),
    "sweep": ("sweep", "-p", "lr=1,2", "--dry-run", "client", "-o", "yaml", "train.py"),
}


def checkout(folder: Path, umask: int, mtime: float) -> Path:
    """A clone of the same repository, by another user at another time."""
    before = os.umask(umask)
    try:
        (folder / "pkg").mkdir(parents=True)
        for name in ("train.py", "pkg/model.py", "items.txt"):
            (folder / name).write_text(f"# {name}\n")
            os.utime(folder / name, (mtime, mtime))
        (folder / "setup.sh").write_text("exit 0\n")
        (folder / "setup.sh").chmod(0o777 & ~umask)
    finally:
        os.umask(before)
    return folder


@pytest.mark.parametrize("request_of", REQUESTS)
def test_two_clones_render_the_same_bytes(tmp_path: Path, request_of: str) -> None:
    first = checkout(tmp_path / "a", 0o022, 1_000_000_000)
    other = checkout(tmp_path / "somewhere/else", 0o077, 2_000_000_000)
    argv = REQUESTS[request_of]
    outputs = [
        run(first, *argv, USER="ann", LC_ALL="C", TZ="UTC", PYTHONHASHSEED="1"),
        run(other, *argv, USER="bob", LC_ALL="C.UTF-8", TZ="Asia/Tokyo", PYTHONHASHSEED="2"),
    ]
    assert [one.returncode for one in outputs] == [0, 0], outputs[0].stderr
    assert outputs[0].stdout == outputs[1].stdout
    assert "\nkind: Job\n" in outputs[0].stdout


@pytest.mark.parametrize(
    ("name", "kinds"),
    [((), {"ConfigMap", "Job", "NetworkPolicy", "Service"}), (("--name", "t"), {"ConfigMap"})],
    ids=["generated", "given"],
)
def test_changed_code_is_another_job_unless_it_has_a_name(
    tmp_path: Path, name: tuple[str, ...], kinds: set[str]
) -> None:
    folder = checkout(tmp_path / "a", 0o022, 1_000_000_000)

    def names() -> set[tuple[str, str]]:
        said = run(folder, "render", *name, "--nodes", "2", "train.py").stdout
        return {(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(said)}

    before = names()
    (folder / "pkg/model.py").write_text("# changed\n")
    assert {kind for kind, _ in before ^ names()} == kinds


def test_what_tells_argo_and_flux_to_make_a_job_anew_is_on_the_job(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "a", 0o022, 1_000_000_000)
    pairs = {
        "argocd.argoproj.io/sync-options": "Force=true,Replace=true",
        "kustomize.toolkit.fluxcd.io/force": "enabled",
    }
    flags = [word for key, value in pairs.items() for word in ("--annotation", f"{key}={value}")]
    said = run(folder, "render", *flags, "--queue", "team-a", "train.py").stdout
    (job,) = (one for one in yaml.safe_load_all(said) if one["kind"] == "Job")
    assert pairs.items() <= job["metadata"]["annotations"].items()


@pytest.mark.slow  # helm is built by Go, or is there
def test_helm_puts_values_into_the_job_and_nothing_else(tmp_path: Path) -> None:
    helm = shutil.which("helm")
    if helm is None:
        env = {**os.environ, "GOBIN": str(tmp_path)}
        line = ["go", "install", "helm.sh/helm/v3/cmd/helm@v3.19.2"]
        subprocess.run(line, env=env, check=True, timeout=1200)
        helm = str(tmp_path / "helm")
    folder = checkout(tmp_path / "repo", 0o022, 1_000_000_000)
    chart = Path(shutil.copytree(GITOPS / "helm", tmp_path / "chart"))

    def template(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [helm, "template", "release", str(chart), *argv], capture_output=True, text=True
        )

    missing = template()
    assert "kij-train render … > rendered.yaml" in missing.stderr
    rendered = run(folder, "render", "--name", "hello", "--timeout", "30d", "train.py").stdout
    (chart / "rendered.yaml").write_text(rendered)
    made = template("--set", "image=registry.example/train:1.2")
    assert made.returncode == 0, made.stderr
    assert made.stdout == template("--set", "image=registry.example/train:1.2").stdout
    expected = {one["kind"]: one for one in yaml.safe_load_all(rendered)}
    job = expected["Job"]
    job["metadata"]["annotations"] |= {
        "helm.sh/hook": "post-install,post-upgrade",
        "helm.sh/hook-delete-policy": "before-hook-creation",
    }
    job["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/train:1.2"
    assert {one["kind"]: one for one in yaml.safe_load_all(made.stdout)} == expected
