"""Arrays on real pods: every item once, whatever becomes of the pods in between."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import kij_train
import pytest
from kij_train.errors import JobFailedError

from tests.kube import ROOT, Namespace, eventually

SCRIPT = """
import json, os, sys, time
number = int(sys.argv[1])
if number == 7:
    raise ValueError("seven is out")
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"square": number**2}), file=file)
time.sleep(float(os.environ["EACH_S"]))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "some.py").write_text(SCRIPT)
    return folder


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    parts = sorted((folder / f".kij-train/arrays/{name}/attempt-0").glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def pods(ns: Namespace, index: int) -> list[Any]:
    selector = f"batch.kubernetes.io/job-completion-index={index}"
    return list(ns.core.list_namespaced_pod(ns.name, label_selector=selector).items)


def test_every_item_is_there_once_though_a_pod_was_lost_in_the_middle(
    ns: Namespace, project: Path, small_image: str
) -> None:
    line = [sys.executable, "-m", "kij_train", "map", "-n", ns.name, "--kubeconfig", ns.kubeconfig]
    line += ["--image", small_image, "--name", "sq", "--range", "0:24", "--chunk", "4"]
    line += ["--env", "EACH_S=1.5", "--retries", "1", "some.py", "{item}"]
    with subprocess.Popen(
        line, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            # Its second item has begun: what the first one left is in the log of a pod that goes.
            text = ""
            while "index 4, item 2 of 4" not in text:
                text = process.stdout.readline()
                assert text, process.communicate()[1]
            (lost,) = (pod.metadata.name for pod in pods(ns, 4))
            ns.core.delete_namespaced_pod(lost, ns.name, grace_period_seconds=0)
            _, err = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 1, err
    found = records(project, "sq")
    assert Counter(record["key"] for record in found) == {str(number): 1 for number in range(24)}
    assert {record["key"]: record.get("square") for record in found} == {
        str(number): None if number == 7 else number**2 for number in range(24)
    }
    assert "ValueError: seven is out" in err
    assert "done 23, failed 1" in err
    job = ns.batch.read_namespaced_job("sq", ns.name)
    # The verdict of the items is not tried again; the pod that was lost is.
    assert job.status.failed_indexes == "1"
    assert (len(pods(ns, 1)), job.status.succeeded) == (1, 5)
    assert lost not in {pod.metadata.name for pod in pods(ns, 4)}


def test_a_function_is_mapped_over_items_in_pods_and_results_come_as_they_end(
    ns: Namespace, project: Path, small_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "functions_in_pods.py").write_text(
        "from kij_train import map\n"
        "def half(item):\n"
        "    return {'half': 6 // item, 'name': 'é\\n'}\n"
    )
    monkeypatch.syspath_prepend(str(project))
    import functions_in_pods  # type: ignore[import-not-found]

    run = kij_train.map(
        functions_in_pods.half,
        range(4),
        indexes=2,
        cwd=project,
        namespace=ns.name,
        kubeconfig=ns.kubeconfig,
        image=small_image,
    )
    found = {record["key"]: record.get("half") for record in run.results()}
    assert found == {"0": None, "1": 6, "2": 3, "3": 2}
    with pytest.raises(JobFailedError, match=r"item '0' \(index 0\): ZeroDivisionError"):
        run.wait()
    run.delete()
    assert ns.empties(60)
    sys.modules.pop("functions_in_pods")


def test_an_array_that_was_left_is_found_again_with_its_results(
    ns: Namespace, project: Path, small_image: str
) -> None:
    (project / "square.py").write_text((ROOT / "train_examples/square.py").read_text())
    argv = [
        "--image",
        small_image,
        "--name",
        "sq",
        "--range",
        "0:4",
        "--indexes",
        "2",
        "-o",
        "json",
    ]
    left = ns.kij_train("map", *argv, "--detach", "square.py", "{item}", cwd=project)
    assert left.returncode == 0, left.stderr
    assert json.loads(left.stdout)["name"] == "sq"

    def has_ended() -> bool:
        return bool(ns.batch.read_namespaced_job("sq", ns.name).status.completion_time)

    assert eventually(has_ended, 100)
    shown = ns.kij_train("results", "sq", cwd=project)
    assert shown.returncode == 0, shown.stderr
    found = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {one["key"]: one["square"] for one in found} == {"0": 0, "1": 1, "2": 4, "3": 9}


def test_results_on_a_volume_are_not_mixed_with_those_of_an_older_array(
    ns: Namespace, project: Path, small_image: str, shared_folder: str
) -> None:
    out = f"{shared_folder}/{ns.name}"
    argv = ["--image", small_image, "--name", "sq", "--range", "0:4", "--indexes", "2", "--replace"]
    argv += ["--mount", f"hostpath:{out}:/out", "--results", "/out", "--env", "EACH_S=0"]
    for factor in (1, 10):
        (project / "some.py").write_text(SCRIPT.replace("number**2", f"number**2 * {factor}"))
        result = ns.kij_train("map", *argv, "some.py", "{item}", cwd=project)
        assert result.returncode == 0, result.stderr
        uid = ns.batch.read_namespaced_job("sq", ns.name).metadata.uid
        lines = on_a_machine(ns, small_image, out, f"cat /out/sq/attempt-0-{uid}/part-*.jsonl")
        found = {one["key"]: one["square"] for one in map(json.loads, lines)}
        assert found == {str(number): number**2 * factor for number in range(4)}


def test_pods_read_a_list_on_a_volume_and_refuse_one_that_has_changed(
    ns: Namespace, project: Path, small_image: str, shared_folder: str
) -> None:
    (project / "list.txt").write_text("1\n2\n3\n")
    out = f"{shared_folder}/{ns.name}"
    argv = ["--image", small_image, "--mount", f"hostpath:{out}:/out", "--env", "EACH_S=0"]
    argv += ["--items", "list.txt", "--items-on", "/out/list.txt", "--indexes", "2"]
    for lines, code in (("1\\n2\\n3\\n", 0), ("1\\n2\\n4\\n", 1)):
        on_a_machine(ns, small_image, out, f"printf '{lines}' > /out/list.txt")
        name = f"sq-{code}"
        result = ns.kij_train("map", *argv, "--name", name, "some.py", "{item}", cwd=project)
        assert result.returncode == code, result.stderr
    assert {record["key"] for record in records(project, "sq-0")} == {"1", "2", "3"}
    assert records(project, "sq-1") == []
    assert "the list of items /out/list.txt is not what was launched" in result.stderr


def on_a_machine(ns: Namespace, image: str, folder: str, command: str) -> list[str]:
    """What a pod prints of a shell's command, with a folder of the machines at /out."""
    container = {
        "name": "shell",
        "image": image,
        "command": ["sh", "-c", command],
        "volumeMounts": [{"name": "out", "mountPath": "/out"}],
    }
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "out", "hostPath": {"path": folder}}],
    }
    made = ns.core.create_namespaced_pod(
        ns.name, {"metadata": {"generateName": "r-"}, "spec": spec}
    )
    name = made.metadata.name

    def has_ended() -> bool:
        return ns.core.read_namespaced_pod(name, ns.name).status.phase in ("Succeeded", "Failed")

    assert eventually(has_ended, 60)
    return str(ns.core.read_namespaced_pod_log(name, ns.name)).splitlines()
