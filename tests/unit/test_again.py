"""launch --again: the request that a Job keeps, and what comes of it with flags on top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kij_train import names, render
from kij_train.spec import JobSpec, kept, values_of
from kij_train.specfile import Layer, Origin, resolve

from tests.goldens import GOLDENS, ROOT, render_golden

CODE = render.Code("print(1)")


def job_of(spec: JobSpec, name: str = "a") -> dict[str, Any]:
    return next(o for o in render.render(spec, name=name, code=CODE) if o["kind"] == "Job")


def again(
    job: dict[str, Any], cwd: Path, environ: dict[str, str] | None = None, **flags: Any
) -> Any:
    values = values_of(job)
    assert values is not None
    layer = Layer(values, {(field,): Origin("job a") for field in values})
    return resolve(Layer(flags), environ=environ or {}, cwd=cwd, again=layer).spec


JOBS = [name for name, line in GOLDENS.items() if line.startswith("--") and "--format" not in line]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_launched_again_is_the_same_job(name: str, tmp_path: Path) -> None:
    job = next(body for body in render_golden(name) if body["kind"] == "Job")
    metadata = job["metadata"]
    spec = again(job, tmp_path, namespace=metadata.get("namespace"))
    made = job_of(spec, metadata["name"])
    assert without_code(made) == without_code(job)


def without_code(job: dict[str, Any]) -> dict[str, Any]:
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    of_code = (
        "KIJ_CODE_SHA256",
        "KIJ_PACKAGES_SHA256",
        "KIJ_ENV_NAMES",
    )  # the last names the others
    container["env"] = [one for one in container["env"] if one["name"] not in of_code]
    pod["volumes"] = [one for one in pod["volumes"] if one["name"] != "bundle"]
    return job


def test_what_is_written_with_dollars_comes_back_as_it_was(tmp_path: Path) -> None:
    env = {"A": "$5", "B": "$$(X)", "C": "$(NODE_RANK)", "D": "$$(NODE_RANK) $"}
    assert again(job_of(JobSpec(script="t.py", env=env)), tmp_path).env.items() >= env.items()


def test_the_environment_stands_in_the_pods_alone(tmp_path: Path) -> None:
    job = job_of(JobSpec(script="t.py", env={"HF_TOKEN": "hf_abcdefghijklmnopqrst"}))
    assert "hf_abc" not in json.dumps(job["metadata"])
    assert again(job, tmp_path).env["HF_TOKEN"] == "hf_abcdefghijklmnopqrst"


def test_where_files_and_cluster_are_is_not_kept() -> None:
    spec = JobSpec(
        script="t.py", code_dir="/home/me/x", kubeconfig="/k", context="c", namespace="n", name="b"
    )
    assert json.loads(kept(spec) or "") == {"image": spec.image, "script": "t.py"}
    assert json.loads(kept(JobSpec(script="t.py", code_dir="sub")) or "")["code_dir"] == "sub"


def test_a_request_that_is_too_long_is_not_kept() -> None:
    long = JobSpec(script="t.py", args=("x" * 20_000,))
    assert kept(long) is None
    assert values_of(job_of(long)) is None
    assert kept(JobSpec(script="t.py", env={"A": "x" * 20_000})) is not None


def test_an_elastic_job_takes_another_range(tmp_path: Path) -> None:
    job = job_of(JobSpec(script="t.py", nodes=8, min_nodes=5, restart="elastic"))
    spec = again(job, tmp_path)
    assert (spec.min_nodes, spec.nodes) == (5, 8)
    spec = again(job, tmp_path, nodes="3:4")
    assert (spec.min_nodes, spec.nodes) == (3, 4)


def test_variables_and_files_do_not_count_twice(tmp_path: Path) -> None:
    (tmp_path / "kij-train.toml").write_text(
        'nodes = 7\nmounts = ["pvc:a:/a"]\nprofile = "tcp"\nnamespace = "ml"\n'
    )
    job = job_of(JobSpec(script="t.py", nodes=2, mounts=("pvc:a:/a",)))
    environ = {"KIJ_GPUS": "4", "KIJ_MOUNTS": "pvc:a:/a", "KIJ_CONTEXT": "there"}
    spec = again(job, tmp_path, environ, mounts=["pvc:b:/b"])
    assert (spec.nodes, spec.gpus, spec.namespace, spec.context) == (2, None, "ml", "there")
    assert [mount.path for mount in spec.mounts] == ["/a", "/b"]
    assert "NCCL_IB_DISABLE" not in spec.env


def test_a_script_on_top_takes_the_place_of_the_old_one_and_its_arguments(tmp_path: Path) -> None:
    spec = again(job_of(JobSpec(module="pkg.train", args=("--lr", "1"))), tmp_path, script="t.py")
    assert (spec.script, spec.module, spec.args) == ("t.py", None, ())


def test_the_examples_show_the_annotation() -> None:
    text = (ROOT / "manifests/examples/gpus.yaml").read_text()
    assert names.REQUEST in text
