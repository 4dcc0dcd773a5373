"""--fetch: how it is written, what is refused, and what it becomes in a Job and on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kij_train import local, render
from kij_train.errors import RequestError
from kij_train.pod import contract
from kij_train.pod.spread.origins import fetch_all
from kij_train.redaction import redacted
from kij_train.render.code import Code
from kij_train.spec import JobSpec
from kij_train.spec.fetches import Fetch, parse_fetch
from pydantic import ValidationError

from tests.origin import running

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "fetch"),
    [
        ("https://h:8/a/m.tar:/data", Fetch(source="https://h:8/a/m.tar", to="/data")),
        (f"http://h/m#sha256={HEX.upper()}:/d", Fetch(source="http://h/m", to="/d", sha256=HEX)),
        ("pvc:w:/llama:/data/llama", Fetch(source="/llama", to="/data/llama", claim="w")),
        ("/mnt/x y:/data/", Fetch(source="/mnt/x y", to="/data")),
        ("s3://bucket/m:/data", Fetch(source="s3://bucket/m", to="/data")),
        ("https://h/m?revision=main:/data", Fetch(source="https://h/m?revision=main", to="/data")),
    ],
)
def test_a_source_and_its_folder_are_told_apart(text: str, fetch: Fetch) -> None:
    assert Fetch.model_validate(parse_fetch(text)) == fetch
    assert parse_fetch(str(fetch)) == fetch.model_dump(exclude_none=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://host/m.tar", "needs a folder"),
        ("m.tar:/data", "must be one of"),
        ("https://h/m:/", "cannot fetch to /"),
        ("https://h/m:/data/../etc", "must be an absolute path"),
        ("https://h/folder/:/data", "names no file"),
        ("https://:/data", "needs a folder|names no host"),
        ("file:///x:/data", "without scheme"),
        ("pvc:w:llama:/data", "pvc:CLAIM:/PATH:/FOLDER"),
        ("/a/../b:/data", "without '..'"),
        ("https://h/m#sha256=12:/data", "64 hexadecimal digits"),
        ("https://h/m#md5=12:/data", "sha256=HEX"),
        ("https://h/m:/kij/work/x", "used by kij-train itself"),
        ("https://h/m:/kij", "used by kij-train itself"),
        ("https://me:hunter22@h/m:/data", "FETCH_AUTHORIZATION_H"),
        ("https://h/m?X-Amz-Signature=hunter22:/data", "X-Amz-Signature=…"),
        ("https://h/m?a=b&sig=hunter22:/data", "--env-from-secret"),
        ("s3://key:hunter22@bucket/m:/data", "--env-from-secret"),
        ("https://me:hun/hunter22@h/m:/data", "FETCH_AUTHORIZATION_"),
        ("s3://key:hun/hunter22@bucket/m:/data", "--env-from-secret"),
        ("https://h:hunter22/m:/data", "the port of the URL is no number"),
    ],
)
def test_what_cannot_be_fetched_is_refused_and_no_credential_is_repeated(
    text: str, said: str
) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        JobSpec(script="a.py", fetch=(text,))
    assert not any("hunter22" in error["msg"] for error in caught.value.errors())
    assert "hunter22" not in redacted(text) or "@" not in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"fetch": ("/x:/data", "/y:/data/y")}, "/data/y lies in /data"),
        ({"fetch": ("/x:/out/x",), "mounts": ("pvc:c:/out",)}, "meets what is mounted at /out"),
        ({"fetch": ("/x:/out",), "mounts": ("pvc:c:/out",)}, "meets what is mounted at /out"),
        ({"fetch": ("/x:/out",), "mounts": ("emptydir:/out/sub",)}, "meets what is mounted"),
        ({"fetch": ("/x:/d",), "env": {"KIJ_FETCHED": "1"}}, "set by kij-train itself"),
    ],
)
def test_folders_that_meet_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        JobSpec(script="a.py", **fields)


def objects(**fields: Any) -> dict[str, dict[str, Any]]:
    spec = JobSpec(script="a.py", name="j", **fields)
    return {each["kind"]: each for each in render.render(spec, name="j", code=Code("x"))}


def environment(job: dict[str, Any]) -> dict[str, str]:
    container = job["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each.get("value", "") for each in container["env"]}


def test_pods_that_fetch_get_folders_claims_and_the_names_of_the_others() -> None:
    fetch = ("https://h/m$1:/data", "pvc:w:/llama:/llama", "pvc:w:/x:/data")
    found = objects(nodes=4, restart="gang", spares=1, fetch=fetch)
    env = environment(found["Job"])
    assert json.loads(env[contract.ENV_FETCH].replace("$$", "$")) == [
        ["https://h/m$1", "/data", ""],
        ["/kij/origins/w/llama", "/llama", ""],
        ["/kij/origins/w/x", "/data", ""],
    ]
    assert env[contract.ENV_FETCHED] == "/data:/llama:/data"
    told = json.loads(env[contract.ENV_SPREAD])
    peers = ["j-{}.j:29504"]
    assert told == {"peers": peers, "pods": 5, "stays": True, "indexes": 8}
    pod = found["Job"]["spec"]["template"]["spec"]
    mounts = {each["mountPath"]: each for each in pod["containers"][0]["volumeMounts"]}
    assert mounts["/data"] == {"name": "fetched-0", "mountPath": "/data"}
    assert mounts["/kij/origins/w"]["readOnly"] is True
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["fetched-1"]["emptyDir"] == {}
    assert volumes["origin-0"]["persistentVolumeClaim"] == {"claimName": "w"}


def test_a_pod_that_is_alone_is_told_of_no_others() -> None:
    env = environment(objects(fetch=("/x:/data",))["Job"])
    assert contract.ENV_SPREAD not in env and contract.ENV_SPREAD_KEY not in env
    assert contract.ENV_FETCH not in environment(objects(nodes=2)["Job"])


def test_a_folder_that_the_user_has_mounted_keeps_its_size() -> None:
    found = objects(fetch=("/x:/data",), mounts=("emptydir:9Gi:/data",))["Job"]
    volumes = found["spec"]["template"]["spec"]["volumes"]
    assert [
        each["emptyDir"] for each in volumes if each["name"].startswith(("mount", "fetch"))
    ] == [{"sizeLimit": "9Gi"}]


def test_on_this_machine_it_is_fetched_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    with running(b"one" * 1000) as origin:
        spec = JobSpec(
            script="a.py",
            args=("--model=/data/m.bin", "/data", "/data2", "x/data"),
            env={"DATA": "/data/sub"},
            fetch=(f"http://localhost:{origin.port}/m.bin:/data",),
        )
        here, variables = local.fetched(spec, environ)
        folder = variables[contract.ENV_FETCHED]
        assert here.args == (f"--model={folder}/m.bin", folder, "/data2", "x/data")
        assert here.env == {"DATA": f"{folder}/sub"}
        said: list[str] = []
        for data in (b"one" * 1000, b"one" * 1000, b"two" * 1000):
            origin.data = data
            fetch_all({**variables, contract.ENV_PARENT_PID: "1"}, said.append)
            assert (Path(folder) / "m.bin").read_bytes() == data
    assert [line.partition(" in ")[0] for line in said] == ["fetched 2.9 KiB"] * 2


def test_this_machine_has_no_claims() -> None:
    spec = JobSpec(script="a.py", fetch=("pvc:w:/llama:/data",))
    with pytest.raises(RequestError, match="no claim w") as caught:
        local.fetched(spec, {})
    assert caught.value.hints == ("name a path of this machine: --fetch /PATH:/data",)
