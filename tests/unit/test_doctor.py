"""doctor: the way to a cluster, step by step, and what it says of one, against a small server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kij_train.cli import main

from tests.unit.test_client import Answer, ApiServer, Handler

NATIVE = "scheduling.k8s.io"
KUEUE = "kueue.x-k8s.io"
SHARING = "nvidia.com/gpu.sharing-strategy"


class Lists(ApiServer):
    """A cluster that allows everything, with the quotas and API versions that a test wants."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.quotas: list[dict[str, Any]] = []
        self.queues: list[dict[str, Any]] | None = None
        """Kueue's LocalQueues; None without Kueue."""
        self.nodes: list[dict[str, Any]] = []
        self.versions: list[str] = []
        """Of Kubernetes' own gangs."""
        self.drops: tuple[str, ...] = ()
        """Fields of a pod that are not kept."""
        self.minor = "37"
        """Kubernetes 1.x that it says it is."""
        self.groups: list[str] = []
        """API groups beside Kubernetes' own."""
        self.refused = ""
        """A resource that nobody may create."""
        self.takes_templates = ""
        """Of Argo: all, those without mistakes, or none."""
        self.served = {f"/apis/{KUEUE}": "v1beta2", "/apis/karpenter.sh": "v1"}
        self.served["/apis/resource.k8s.io"] = "v1"
        """Version of API groups."""
        self.objects: dict[str, list[dict[str, Any]]] = {}
        """Of more kinds, by their name in paths."""
        self.answer = self._answer

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        path = path.partition("?")[0]
        if path == f"/apis/{KUEUE}" and self.queues is None:
            return 404, b'{"reason": "NotFound", "message": "no"}'
        if method == "POST" and path.endswith("/workflowtemplates"):
            if self.takes_templates == "none":
                return 404, b'{"reason": "NotFound", "message": "no such resource"}'
            if self.takes_templates == "right ones" and "noSuchField" in body["spec"]:
                return 400, b'{"reason": "BadRequest", "message": "unknown field"}'
        return 200, json.dumps(self._said(method, path, body)).encode()

    def _said(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if method == "POST":
            asked = body.get("spec", {}).get("resourceAttributes", {})
            allowed = not self.refused or asked.get("resource") != self.refused
            body = {**body, "status": {"allowed": allowed}}
            body.setdefault("metadata", {})["uid"] = "1"
            if body["kind"] == "Job":
                pod = body["spec"]["template"]["spec"]
                for field in self.drops:
                    pod.pop(field, None)
            return body
        if path == "/version":
            version = f"v1.{self.minor.rstrip('+')}.0"
            return {"gitVersion": version, "major": "1", "minor": self.minor}
        if path == "/apis":
            return {"groups": [{"name": name} for name in (NATIVE, *self.groups)]}
        if path in self.served:
            return {"versions": [{"version": self.served[path]}]}
        if path.endswith("/localqueues"):
            return {"metadata": {}, "items": self.queues}
        if path == f"/apis/{NATIVE}":
            return {"versions": [{"version": version} for version in ["v1", *self.versions]]}
        if path == "/api/v1/nodes":
            return {"metadata": {}, "items": self.nodes}
        if path.endswith("/resourcequotas"):
            return {"metadata": {}, "items": self.quotas}
        return {"metadata": {}, "items": self.objects.get(path.rpartition("/")[2], [])}


@pytest.fixture
def server() -> Iterator[Lists]:
    with Lists() as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def checks(
    server: Lists,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Runs doctor as a user with these credentials; gives the exit code and checks by name."""
    monkeypatch.chdir(tmp_path)

    def doctor(user: dict[str, Any], **changes: Any) -> tuple[int, dict[str, dict[str, str]]]:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "lab", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
            ],
            "users": [{"name": "ada", "user": user}],
            "contexts": [{"name": "here", "context": {"cluster": "lab", "user": "ada"}}],
            "current-context": "here",
            **changes,
        }
        Path("config").write_text(yaml.safe_dump(config))
        code = main(["doctor", "--kubeconfig", "config", "-o", "json"])
        return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)}

    return doctor


def plugin(command: str, **fields: Any) -> dict[str, Any]:
    version = "client.authentication.k8s.io/v1"
    return {
        "exec": {"apiVersion": version, "command": command, "provideClusterInfo": False, **fields}
    }


# --- the way there --------------------------------------------------------------------------------


def test_kubeconfig_and_credentials_have_a_line_each(checks: Any) -> None:
    code, found = checks({"token": "secret-of-ada"})
    assert code == 0
    assert found["kubeconfig"]["detail"] == "config: context here, cluster lab, user ada"
    assert found["credentials"]["detail"] == "the token of user ada"
    assert "secret-of-ada" not in str(found)
    assert "v1.37.0" in found["server"]["detail"]


@pytest.mark.parametrize(
    ("minor", "result", "waits"),
    [
        ("30", "warning", False),
        ("31", "ok", True),
        ("32+", "ok", True),
        ("33", "ok", False),
        ("38", "ok", False),
    ],
)
def test_a_server_without_reserve_indexes_is_said_to_make_pods_later(
    checks: Any, server: Lists, minor: str, result: str, *, waits: bool
) -> None:
    server.minor = minor
    found = checks({"token": "t"})[1]["server"]
    assert found["result"] == result
    assert ("before 1.33, a Job makes another pod" in found["detail"]) is waits
    assert ("is old" in found["detail"]) is (minor == "30")


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], "cannot be seen from here"),
        (["cilium.io"], "has Cilium, which enforces it"),
        (["crd.projectcalico.org", "ocilium.io"], "has Calico, which enforces it"),
    ],
)
def test_what_enforces_network_policies_is_said_where_it_is_known(
    checks: Any, server: Lists, groups: list[str], said: str
) -> None:
    server.groups = groups
    found = checks({"token": "t"})[1]["network policy"]
    assert (found["result"], said in found["detail"]) == ("ok", True)


def test_without_the_right_to_network_policies_doctor_warns(checks: Any, server: Lists) -> None:
    server.refused = "networkpolicies"
    code, found = checks({"token": "t"})
    assert (code, found["network policy"]["result"]) == (0, "warning")
    assert "manifests/role.yaml" in found["network policy"]["hint"]


def test_a_plugin_that_gives_credentials_is_named(checks: Any, tmp_path: Path) -> None:
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    said["status"] = {"token": "secret"}  # type: ignore[assignment]
    (tmp_path / "login").write_text(f"#!/bin/sh\necho x >> runs\necho '{json.dumps(said)}'\n")
    (tmp_path / "login").chmod(0o755)
    code, found = checks(plugin("./login"))
    assert (code, found["credentials"]["result"]) == (0, "ok")
    said_of = "the credential plugin ./login of user ada, which works"
    assert found["credentials"]["detail"] == said_of
    assert "secret" not in str(found)
    assert (tmp_path / "runs").read_text() == "x\n"  # once: it may ask its user something


@pytest.mark.parametrize(
    ("user", "detail", "hint"),
    [
        (plugin("no-such-login"), "plugin no-such-login of user ada was not found", "install it"),
        (
            plugin("no-such-login", installHint="brew install\n  no-such-login"),
            "was not found",
            "brew install no-such-login",
        ),
        (
            plugin("./config"),
            "the credential plugin ./config of user ada may not be run",
            "chmod +x",
        ),
        (
            plugin("sh", args=["-c", "echo log in first >&2; exit 3"]),
            "plugin sh of user ada failed with exit code 3: log in first",
            "kubectl auth whoami --context here --kubeconfig config",
        ),
    ],
)
def test_a_plugin_without_credentials_ends_the_checks(
    checks: Any, user: dict[str, Any], detail: str, hint: str
) -> None:
    code, found = checks(user)
    assert code == 4
    assert found["kubeconfig"]["result"] == "ok"
    assert found["credentials"]["result"] == "failed"
    assert detail in found["credentials"]["detail"]
    assert hint in found["credentials"]["hint"]
    assert "server" not in found


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"current-context": "there"}, "there"),
        ({"users": []}, "context here names user ada, which it has not"),
        ({"clusters": []}, "lab"),
        ({"clusters": [{"name": "lab", "cluster": {}}]}, "server '' of cluster lab has no scheme"),
        ({"contexts": None}, ""),
        (
            {"clusters": [{"name": "lab", "cluster": {"server": "lab:6443"}}]},
            "server 'lab:6443' of cluster lab has no scheme",
        ),
    ],
)
def test_a_kubeconfig_that_leads_nowhere_ends_the_checks(
    checks: Any, changes: dict[str, Any], detail: str
) -> None:
    code, found = checks({"token": "t"}, **changes)
    assert code == 4
    assert found["kubeconfig"]["result"] == "failed"
    assert detail in found["kubeconfig"]["detail"]
    assert "credentials" not in found


def test_the_table_says_what_is_wrong_and_the_last_line_that_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--kubeconfig", "none"]) == 4
    out, err = capsys.readouterr()
    assert "no kubeconfig: none does not exist" in out
    assert "try: name one: --kubeconfig FILE" in out
    assert err == "error: a launch would not get that far, see above\n"


# --- the cluster ----------------------------------------------------------------------------------


def test_a_quota_says_what_is_left(checks: Any, server: Lists) -> None:
    hard = {"requests.cpu": "10", "requests.memory": "100Gi", "pods": "4"}
    server.quotas = [{"status": {"hard": hard, "used": {"requests.cpu": "2500m", "pods": "4"}}}]
    assert checks({"token": "t"})[1]["quota"]["detail"] == (
        "requests.cpu 7500m left (2500m of 10 used), requests.memory 100Gi left (0 of 100Gi used), "
        "pods 0 left (4 of 4 used)"
    )


def local_queue(name: str, waiting: int, stopped: str = "") -> dict[str, Any]:
    active = {"type": "Active", "status": "False" if stopped else "True", "message": stopped}
    status = {"pendingWorkloads": waiting, "conditions": [active]}
    return {"metadata": {"name": name}, "spec": {"clusterQueue": "lab"}, "status": status}


@pytest.mark.parametrize(
    ("queues", "result", "detail"),
    [
        (None, "ok", "none: the cluster has no Kueue"),
        ([], "warning", "none in namespace default"),
        (
            [local_queue("b", 0, "LocalQueue is stopped"), local_queue("a", 3)],
            "ok",
            "--queue a (ClusterQueue lab, 3 waiting), b (ClusterQueue lab, 0 waiting, admits "
            "nothing: LocalQueue is stopped)",
        ),
    ],
)
def test_queues_of_kueue_are_listed_with_how_many_wait(
    checks: Any, server: Lists, queues: list[dict[str, Any]] | None, result: str, detail: str
) -> None:
    server.queues = queues
    found = checks({"token": "t"})[1]["queues"]
    assert (found["result"], found["detail"]) == (result, detail)


def machine(labels: dict[str, str], **has: str) -> dict[str, Any]:
    there = {f"nvidia.com/{name.replace('_', '-')}": count for name, count in has.items()}
    return {"metadata": {"name": "m", "labels": labels}, "status": {"allocatable": there}}


@pytest.mark.parametrize(
    ("machines", "result", "words"),
    [
        ([machine({})], "warning", ["none with GPUs; where machines are bought on demand"]),
        ([machine({}, gpu="8"), machine({}, gpu="8")], "ok", ["2 machines: 2 × 8 nvidia.com/gpu"]),
        (
            [
                machine({SHARING: "time-slicing", "nvidia.com/gpu.replicas": "4"}, gpu="32"),
                machine({SHARING: "none"}, gpu="8"),
            ],
            "warning",
            [
                "1 × 32 nvidia.com/gpu, 1 × 8 nvidia.com/gpu; on 1 machine, 4 pods share one GPU",
                "--node-selector nvidia.com/gpu.sharing-strategy=none",
            ],
        ),
        (
            [machine({SHARING: "mps"}, **{"gpu.shared": "8"})],
            "ok",
            ["1 × 8 nvidia.com/gpu.shared; on 1 machine, several pods share one GPU (mps)"],
        ),
        (
            [machine({"cloud.google.com/gke-gpu-sharing-strategy": "time-sharing"}, gpu="2")],
            "ok",
            ["several pods share one GPU (time-sharing)"],
        ),
        (
            [
                machine(
                    {
                        "nvidia.com/gpu.slices.gi": "1",
                        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb",
                    },
                    gpu="7",
                )
            ],
            "ok",
            ["on 1 machine, nvidia.com/gpu is a MIG slice (NVIDIA-A100-SXM4-80GB-MIG-1g.10gb)"],
        ),
        (
            [
                machine({"nvidia.com/gpu.product": "A100-MIG-INVALID"}, gpu="0"),
                machine({}, gpu="8"),
            ],
            "ok",
            ["MIG is not set up as its strategy wants it, and no GPU is there"],
        ),
    ],
)
def test_gpus_are_counted_and_it_is_said_who_shares_them(
    checks: Any, server: Lists, machines: list[dict[str, Any]], result: str, words: list[str]
) -> None:
    server.nodes = machines
    found = checks({"token": "t"})[1]["gpus"]
    assert found["result"] == result
    for each in words:
        assert each in found["detail"] + str(found["hint"])


def test_device_classes_are_named_as_they_are_asked_for(checks: Any, server: Lists) -> None:
    server.groups.append("resource.k8s.io")
    names = ["mig.nvidia.com", "gpu.nvidia.com", *(f"z{number}" for number in range(8))]
    server.objects["deviceclasses"] = [{"metadata": {"name": name}} for name in names]
    found = checks({"token": "t"})[1]["gpus"]
    assert found["result"] == "ok"
    assert "0 machines: claims: --gpu-kind dra, dra:mig.nvidia.com, dra:z0" in found["detail"]
    assert found["detail"].endswith("dra:z5 and 2 more")


def test_who_buys_machines_is_told_with_what_is_left(checks: Any, server: Lists) -> None:
    assert checks({"token": "t"})[1]["bought on demand"]["detail"] == "nobody who says so"
    server.groups += ["karpenter.sh", "autoscaling.x-k8s.io"]
    ready = {"type": "Ready", "status": "False", "message": "NodeClass is missing"}
    server.objects["nodepools"] = [
        {
            "metadata": {"name": "training"},
            "spec": {"limits": {"nvidia.com/gpu": 64}},
            "status": {"resources": {"nvidia.com/gpu": "8"}},
        },
        {"metadata": {"name": "open"}, "spec": {}, "status": {"conditions": [ready]}},
    ]
    assert checks({"token": "t"})[1]["bought on demand"]["detail"] == (
        "Karpenter: training (8 of 64 nvidia.com/gpu), open (no limits), buys nothing: NodeClass "
        "is missing; all machines of a job together, in queues that ask for them"
    )
    server.objects["nodepools"] = []
    assert "no NodePools" in checks({"token": "t"})[1]["bought on demand"]["detail"]


def test_operators_are_named_with_the_format_that_they_take(checks: Any, server: Lists) -> None:
    assert checks({"token": "t"})[1]["other operators"]["detail"] == "none"
    server.groups += ["trainer.kubeflow.org", "jobset.x-k8s.io"]
    assert checks({"token": "t"})[1]["other operators"]["detail"] == (
        "JobSet (kij-train render --format jobset), "
        "Kubeflow Trainer (kij-train render --format trainjob)"
    )


def test_a_project_is_told_whether_its_job_fits_the_place_that_it_asks_for(
    checks: Any, server: Lists
) -> None:
    assert "no label of a rack" in checks({"token": "t"})[1]["topology"]["detail"]
    server.nodes = [
        {
            "metadata": {"name": "a", "labels": {"nvidia.com/gpu.clique": f"uuid.{number // 2}"}},
            "status": {
                "allocatable": {"nvidia.com/gpu": "4"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        for number in range(4)
    ]
    Path("kij-train.toml").write_text('nodes = 3\ngpus = 4\ntopology = "nvlink:required"\n')
    found = checks({"token": "t"})[1]["topology"]
    assert found["result"] == "warning"
    assert found["detail"] == (
        "nvlink: 2 of 2 machines. 3 nodes have room in no single place; "
        "the largest nvlink has room for 2: the job can never start"
    )
    assert found["hint"] == "--topology nvlink, which only prefers it, or --nodes 2"


@pytest.mark.parametrize(
    ("versions", "named"),
    [(["v1alpha2"], "v1alpha2"), (["v1alpha3", "v1beta1"], "v1beta1")],
)
def test_kubernetes_own_gangs_are_known_in_the_servers_version(
    checks: Any, server: Lists, versions: list[str], named: str
) -> None:
    server.versions = versions
    found = checks({"token": "t"})[1]["gang scheduler"]
    assert (found["result"], found["detail"]) == ("ok", f"native ({NATIVE}/{named})")


def test_a_server_without_gangs_or_with_their_feature_off_has_none(
    checks: Any, server: Lists
) -> None:
    found = checks({"token": "t"})[1]["gang scheduler"]
    assert (found["result"], NATIVE in found["detail"]) == ("warning", False)
    server.versions, server.drops = ["v1beta1"], ("schedulingGroup",)
    found = checks({"token": "t"})[1]["gang scheduler"]
    assert found["result"] == "warning"
    assert (
        f"native ({NATIVE}/v1beta1) is refused: the cluster drops schedulingGroup"
        in (found["detail"])
    )


@pytest.mark.parametrize(
    ("takes", "result", "said"),
    [
        ("right ones", "ok", "whose CRDs check every field"),
        ("all", "warning", "as those of 3.x"),
        ("none", "skipped", "no Argo Workflows"),
    ],
)
def test_argo_is_asked_whether_it_would_see_a_mistake(
    checks: Any, server: Lists, takes: str, result: str, said: str
) -> None:
    assert checks({"token": "t"})[1]["argo"]["result"] == "skipped"
    server.groups, server.takes_templates = ["argoproj.io"], takes
    found = checks({"token": "t"})[1]["argo"]
    assert found["result"] == result and said in found["detail"]


def test_who_may_make_no_roles_is_told_that_an_admin_applies_a_workflow(
    checks: Any, server: Lists
) -> None:
    server.groups, server.refused = ["argoproj.io"], "roles"
    found = checks({"token": "t"})[1]["argo"]
    assert found["result"] == "warning" and "create roles" in found["detail"]
