"""The example for Kustomize, applied to a real cluster as controllers apply it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.kube import ROOT, Namespace

EXAMPLE = ROOT / "manifests/gitops/kustomize"


def kubectl(ns: Namespace, *argv: str, given: str = "") -> subprocess.CompletedProcess[str]:
    line = ["kubectl", "--kubeconfig", ns.kubeconfig, *argv]
    return subprocess.run(line, input=given, capture_output=True, text=True, timeout=240)


def test_a_job_of_an_overlay_runs_and_a_changed_one_runs_when_it_replaces_the_first(
    ns: Namespace, small_image: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "deploy"))
    (tmp_path / "say.py").write_text("import sys\nprint('said', *sys.argv[1:])\n")
    overlay = folder / "prod/kustomization.yaml"
    image, _, tag = small_image.rpartition(":")
    text = overlay.read_text().replace("namespace: ml", f"namespace: {ns.name}")
    text = text.replace("registry.example/train", image).replace('"1.2"', f'"{tag}"')
    overlay.write_text(text)

    def built(word: str) -> str:
        # The namespace is the overlay's: the first flags say another one.
        argv = ("--image", "pytorch/pytorch:1", "--name", "hello", "--no-torchrun", "say.py", word)
        (folder / "base/job.yaml").write_text(ns.kij_train("render", *argv, cwd=tmp_path).stdout)
        made = [kubectl(ns, "kustomize", str(folder / "prod")).stdout for _ in range(2)]
        assert made[0] == made[1]
        assert "team: vision" in made[0]
        return made[0]

    first = built("one")
    applied = kubectl(ns, "apply", "--server-side", "-f", "-", given=first)
    assert applied.returncode == 0, applied.stderr
    assert ns.kij_train("wait", "hello", "--timeout", "4m", cwd=tmp_path).returncode == 0
    assert "said one" in ns.kij_train("logs", "hello", cwd=tmp_path).stdout

    changed = built("two")
    refused = kubectl(ns, "apply", "--server-side", "-f", "-", given=changed)
    assert "field is immutable" in refused.stderr
    # What Argo CD does with Force=true,Replace=true, and Flux with its annotation.
    replaced = kubectl(ns, "replace", "--force", "-f", "-", given=changed)
    assert replaced.returncode == 0, replaced.stderr
    assert ns.kij_train("wait", "hello", "--timeout", "4m", cwd=tmp_path).returncode == 0
    assert "said two" in ns.kij_train("logs", "hello", cwd=tmp_path).stdout
