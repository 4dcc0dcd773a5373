"""What real clusters refuse: permissions, quota, Pod Security, credentials; each with a way out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube import ROOT, Namespace, eventually

RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
BASELINE = {"pod-security.kubernetes.io/enforce": "baseline"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/train.py").write_text("print(1)\n")
    return tmp_path / "project"


def without(verb: str, resource: str) -> list[dict[str, Any]]:
    rules = copy.deepcopy(RULES)
    for rule in rules:
        if resource in rule["resources"]:
            rule["verbs"] = [one for one in rule["verbs"] if one != verb]
    return [rule for rule in rules if rule["verbs"]]


def test_the_role_suffices_to_submit_share_replace_and_ask(ns: Namespace, project: Path) -> None:
    alice = ns.user("alice", RULES, project.parent)
    for line in (
        ["launch", "-d", "--name", "a"],
        ["launch", "-d", "--name", "b"],
        ["launch", "-d", "--name", "a", "--replace"],
        ["launch", "--dry-run=server", "--name", "c"],
    ):
        result = ns.kij_train(*line, "train.py", cwd=project, kubeconfig=alice)
        assert result.returncode == 0, (line, result.stderr)


FULL_NAMES = {
    "jobs": "jobs.batch",
    "podgroups": "podgroups.scheduling.x-k8s.io",
    "resourceclaimtemplates": "resourceclaimtemplates.resource.k8s.io",
}
SUBMITTING = {
    ("create", "jobs"): [],
    ("patch", "jobs"): [],
    ("create", "services"): [],
    ("create", "configmaps"): [],
    ("create", "resourceclaimtemplates"): ["--gpus", "1", "--gpu-kind", "dra"],
    ("create", "podgroups"): ["--scheduler", "coscheduling"],
}
"""Verb and resource → the flags of a launch that needs it."""
ASKING = {
    ("get", "jobs"): "status a",
    ("list", "jobs"): "list",
    ("watch", "jobs"): "wait a",
    ("delete", "jobs"): "delete a",
    ("list", "pods"): "status a",
    ("watch", "pods"): "logs -f a",
    ("get", "pods/log"): "logs a",
    ("list", "events"): "events a",
}
"""The same for commands about a job that is there."""
ELSEWHERE = {
    ("patch", "configmaps"),  # the next test but one
    ("get", "configmaps"),  # an array from elsewhere: unit/test_array_collect.py, node/test_map.py
    ("list", "resourcequotas"),  # doctor's alone
    ("create", "pods/exec"),  # takes a pod that runs: the node tier, and doctor
    ("get", "pods/exec"),
    ("create", "pods/portforward"),  # the same
    ("get", "pods/portforward"),
    ("delete", "pods"),  # of a pod that runs, as well
    ("create", "networkpolicies"),  # without it, the launch goes on
    # Of a cluster with Kueue: node/test_kueue.py.
    ("list", "workloads"),
    ("list", "localqueues"),
    ("patch", "workloads"),
    ("list", "provisioningrequests"),  # unit/test_buying.py
    # Of a job that was applied: test_submission.py.
    *(
        (v, r)
        for v in ("get", "patch")
        for r in ("services", "resourceclaimtemplates", "podgroups", "networkpolicies")
    ),
}


def test_every_right_of_the_role_has_its_test() -> None:
    rights = {
        (verb, resource)
        for rule in RULES
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rights == SUBMITTING.keys() | ASKING.keys() | ELSEWHERE


def check_named(ns: Namespace, err: str, verb: str, resource: str) -> None:
    full = FULL_NAMES.get(resource, resource)
    assert f"system:serviceaccount:{ns.name}:bob may not {verb} {full}" in err
    assert f"check: kubectl auth can-i {verb} {full} -n {ns.name}" in err
    assert f"--verb={verb} --resource={full}" in err
    assert f"--serviceaccount={ns.name}:bob" in err


@pytest.mark.parametrize(("verb", "resource"), SUBMITTING)
def test_each_verb_that_a_launch_misses_is_named_and_nothing_is_left(
    ns: Namespace, project: Path, verb: str, resource: str
) -> None:
    bob = ns.user("bob", without(verb, resource), project.parent)
    line = ["launch", "-d", "--name", "a", *SUBMITTING[verb, resource], "train.py"]
    result = ns.kij_train(*line, cwd=project, kubeconfig=bob)
    assert result.returncode == 3
    check_named(ns, result.stderr, verb, resource)
    assert ns.empties()


def test_who_may_create_no_network_policy_is_told_so_and_trains(
    ns: Namespace, project: Path
) -> None:
    bob = ns.user("bob", without("create", "networkpolicies"), project.parent)
    line = ["launch", "-d", "--name", "a", "train.py"]
    result = ns.kij_train(*line, cwd=project, kubeconfig=bob)
    assert result.returncode == 0
    assert "bob may not create networkpolicies.networking.k8s.io" in result.stderr
    assert "{apiGroups: [networking.k8s.io], resources: [networkpolicies]" in result.stderr
    assert "--no-network-policy" in result.stderr
    line = ["launch", "-d", "--name", "b", "--no-network-policy", "train.py"]
    result = ns.kij_train(*line, cwd=project, kubeconfig=bob)
    assert (result.returncode, "networkpolicies" in result.stderr) == (0, False)


@pytest.mark.parametrize(("verb", "resource"), ASKING)
def test_each_verb_that_another_command_misses_is_named(
    ns: Namespace, project: Path, verb: str, resource: str
) -> None:
    # A selector that no node has: the pod stays pending.
    line = ["launch", "-d", "--name", "a", "--node-selector", "no=where", "train.py"]
    assert ns.kij_train(*line, cwd=project).returncode == 0
    assert eventually(lambda: any(name.startswith("pods/a-0") for name in ns.left()), 30)
    bob = ns.user("bob", without(verb, resource), project.parent)
    result = ns.kij_train(*ASKING[verb, resource].split(), cwd=project, kubeconfig=bob)
    assert result.returncode == 3
    check_named(ns, result.stderr, verb, resource)


def test_without_the_right_to_watch_a_launch_detaches_nevertheless(
    ns: Namespace, project: Path
) -> None:
    bob = ns.user("bob", without("watch", "jobs"), project.parent)
    result = ns.kij_train("launch", "-d", "--name", "a", "train.py", cwd=project, kubeconfig=bob)
    assert result.returncode == 0, result.stderr


def test_without_the_right_to_share_code_that_is_there_the_verb_is_named(
    ns: Namespace, project: Path
) -> None:
    assert ns.kij_train("launch", "-d", "--name", "a", "train.py", cwd=project).returncode == 0
    bob = ns.user("bob", without("patch", "configmaps"), project.parent)
    result = ns.kij_train("launch", "-d", "--name", "b", "train.py", cwd=project, kubeconfig=bob)
    assert result.returncode == 3
    assert "may not patch configmaps" in result.stderr
    assert eventually(lambda: "jobs/b" not in ns.left(), 30)
    assert "jobs/a" in ns.left()


def test_wrong_and_expired_credentials_are_said_to_be_that(ns: Namespace, project: Path) -> None:
    expired = "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.c2ln"
    for token in ("nonsense", expired):
        path = ns.with_user({"token": token}, project.parent / "k")
        result = ns.kij_train("launch", "-d", "train.py", cwd=project, kubeconfig=path)
        assert result.returncode == 3
        assert "does not accept these credentials" in result.stderr
        assert "kubectl auth whoami" in result.stderr
        assert token not in result.stderr


def test_a_missing_namespace_is_named(ns: Namespace, project: Path) -> None:
    result = ns.kij_train("launch", "-d", "-n", "no-such", "train.py", cwd=project)
    assert result.returncode == 4
    assert "namespace no-such does not exist" in result.stderr


def quota(ns: Namespace, **hard: str) -> None:
    hard = {name.replace("_", "."): amount for name, amount in hard.items()}
    ns.core.create_namespaced_resource_quota(
        ns.name, {"metadata": {"name": "team"}, "spec": {"hard": hard}}
    )
    assert eventually(
        lambda: bool(ns.core.read_namespaced_resource_quota("team", ns.name).status.hard), 30
    )


@pytest.mark.parametrize("extra", [[], ["--detach"]])
def test_a_quota_refusal_names_the_quota_and_leaves_nothing(
    ns: Namespace, project: Path, extra: list[str]
) -> None:
    quota(ns, requests_cpu="4")
    line = ["launch", *extra, "--name", "a", "--nodes", "2", "--cpu", "8", "train.py"]
    result = ns.kij_train(*line, cwd=project)
    assert result.returncode == 3
    assert "no quota left: exceeded quota: team, requested: requests.cpu=8" in result.stderr
    assert f"kij-train doctor -n {ns.name}" in result.stderr
    assert ns.empties()


def test_a_quota_that_wants_numbers_says_which_flags(ns: Namespace, project: Path) -> None:
    quota(ns, requests_cpu="4", requests_memory="8Gi")
    result = ns.kij_train("launch", "--name", "a", "train.py", cwd=project)
    assert result.returncode == 3
    assert "has a quota that asks for numbers" in result.stderr
    assert "--cpu 4 --memory 16Gi" in result.stderr
    assert ns.empties()


def test_the_server_dry_run_asks_quota_and_pod_security_too(ns: Namespace, project: Path) -> None:
    quota(ns, pods="0")
    result = ns.kij_train("launch", "--dry-run=server", "train.py", cwd=project)
    assert result.returncode == 3
    assert "exceeded quota: team" in result.stderr
    assert ns.left() == []


def test_a_limit_range_is_quoted(ns: Namespace, project: Path) -> None:
    limit = {"type": "Container", "max": {"memory": "1Gi"}}
    ns.core.create_namespaced_limit_range(
        ns.name, {"metadata": {"name": "small"}, "spec": {"limits": [limit]}}
    )
    line = ["launch", "--name", "a", "--memory", "2Gi", "train.py"]
    result = ns.kij_train(*line, cwd=project)
    assert result.returncode == 3
    assert "maximum memory usage per Container is 1Gi" in result.stderr
    assert ns.empties()


@pytest.mark.labels(BASELINE)
def test_a_baseline_namespace_takes_the_default(ns: Namespace, project: Path) -> None:
    line = ["launch", "--dry-run=server", "--gpus", "8", "train.py"]
    result = ns.kij_train(*line, cwd=project)
    assert result.returncode == 0, result.stderr


@pytest.mark.labels(RESTRICTED)
def test_a_restricted_namespace_takes_it_with_run_as_user(ns: Namespace, project: Path) -> None:
    line = ["launch", "--dry-run=server", "--run-as-user", "1000", "train.py"]
    result = ns.kij_train(*line, cwd=project)
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr


@pytest.mark.labels(RESTRICTED)
@pytest.mark.parametrize("extra", [["--dry-run=server"], [], ["--detach"]])
def test_its_refusal_without_names_the_flag_and_nothing_is_left(
    ns: Namespace, project: Path, extra: list[str]
) -> None:
    result = ns.kij_train("launch", "--name", "a", *extra, "train.py", cwd=project)
    assert result.returncode == 3
    assert "violates PodSecurity" in result.stderr
    assert "--run-as-user 1000" in result.stderr
    assert ns.empties()


def test_an_admission_policys_refusal_is_quoted(ns: Namespace, project: Path) -> None:
    from kubernetes import client

    admission = client.AdmissionregistrationV1Api(ns.api)
    match = {"matchLabels": {"kubernetes.io/metadata.name": ns.name}}
    rule = {
        "apiGroups": ["batch"],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["jobs"],
    }
    policy = {
        "metadata": {"name": ns.name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [
                {"expression": "'team' in object.metadata.labels", "message": "jobs need a team"}
            ],
        },
    }
    binding = {
        "metadata": {"name": ns.name},
        "spec": {
            "policyName": ns.name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": match},
        },
    }
    admission.create_validating_admission_policy(policy)
    admission.create_validating_admission_policy_binding(binding)
    try:

        def refused() -> bool:
            line = ["launch", "--dry-run=server", "train.py"]
            result = ns.kij_train(*line, cwd=project)
            return result.returncode == 3 and "jobs need a team" in result.stderr

        assert eventually(refused, 60)
        line = ["launch", "--dry-run=server", "--label", "team=ml", "train.py"]
        assert ns.kij_train(*line, cwd=project).returncode == 0
    finally:
        admission.delete_validating_admission_policy_binding(ns.name)
        admission.delete_validating_admission_policy(ns.name)
