"""The NetworkPolicy of a job: whom it lets in, and what --allow-from takes."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kij_train import names
from kij_train.cli import main
from kij_train.spec.network import Peers, parse_peers

LINE = ["render", "--name", "a", "train.py"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rendered(capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    assert main([*LINE[:-1], *flags, LINE[-1]]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


@pytest.mark.usefixtures("project")
def test_a_policy_selects_the_pods_of_its_job_and_lets_them_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    objects = rendered(capsys)
    (policy,) = (each for each in objects if each["kind"] == "NetworkPolicy")
    (job,) = (each for each in objects if each["kind"] == "Job")
    own = {"matchLabels": {names.LABEL_JOB_NAME: job["metadata"]["name"]}}
    assert policy["spec"] == {
        "podSelector": own,
        "policyTypes": ["Ingress"],  # what leaves the pods is no matter of it
        "ingress": [{"from": [{"podSelector": own}]}],
    }


@pytest.mark.usefixtures("project")
def test_whom_the_user_allows_comes_in_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    allowed = ["namespace:monitoring", "pods:app=board,tier=web", "10.0.0.0/8", "fd00::/8"]
    objects = rendered(capsys, *(word for each in allowed for word in ("--allow-from", each)))
    (policy,) = (each for each in objects if each["kind"] == "NetworkPolicy")
    assert policy["spec"]["ingress"][0]["from"][1:] == [
        {"namespaceSelector": {"matchLabels": {names.NAMESPACE_NAME: "monitoring"}}},
        {"podSelector": {"matchLabels": {"app": "board", "tier": "web"}}},
        {"ipBlock": {"cidr": "10.0.0.0/8"}},
        {"ipBlock": {"cidr": "fd00::/8"}},
    ]


@pytest.mark.usefixtures("project")
def test_a_job_can_do_without_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert "NetworkPolicy" not in {each["kind"] for each in rendered(capsys, "--no-network-policy")}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("monitoring", "'monitoring' does not appear to be an IPv4 or IPv6 network"),
        ("10.0.0.1/8", "has host bits set"),
        ("10.0.0.0/33", "does not appear to be"),
        ("", "does not appear to be"),
        ("namespace:", "namespace"),
        ("namespace:Monitoring", "'Monitoring' is no namespace name"),
        ("pods:app", "must look like pods:LABEL=VALUE"),
        ("pods:=a", "'' is no key"),
        ("pods:app=a b", "a b"),
        ("service:board", "namespace:NAME, pods:LABEL=VALUE"),
    ],
)
def test_who_cannot_be_meant_is_one_error(
    capsys: pytest.CaptureFixture[str], value: str, said: str
) -> None:
    assert main([*LINE[:-1], "--allow-from", value, LINE[-1]]) == 2
    err = capsys.readouterr().err
    assert "--allow-from" in err and said in err and "Traceback" not in err


@pytest.mark.usefixtures("project")
def test_to_allow_somebody_without_a_policy_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [*LINE[:-1], "--no-network-policy", "--allow-from", "10.0.0.0/8", LINE[-1]]
    assert main(line) == 2
    assert "means nothing without a network policy" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_a_spec_file_gives_one_of_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    both = {"namespace": "a", "addresses": "10.0.0.0/8"}
    Path("job.yaml").write_text(yaml.safe_dump({"script": "train.py", "allow_from": [both]}))
    assert main(["render", "-f", "job.yaml"]) == 2
    assert "must be one of: namespace:NAME" in capsys.readouterr().err


NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@given(
    st.one_of(
        NAMES.map(lambda name: f"namespace:{name}"),
        st.dictionaries(NAMES, NAMES, min_size=1, max_size=3).map(
            lambda labels: "pods:" + ",".join(f"{k}={v}" for k, v in labels.items())
        ),
        st.ip_addresses().map(lambda address: str(ipaddress.ip_network(address))),
    )
)
def test_what_is_said_of_peers_is_how_they_are_given(text: str) -> None:
    assert str(Peers.model_validate(parse_peers(text))) == text
