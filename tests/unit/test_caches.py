"""--cache: how it is written, what is refused, and what it becomes in a Job and on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kij_train import local, render, runs
from kij_train.diagnosis.progress import _gets_ready
from kij_train.pod import contract
from kij_train.pod.status import PREFIX, AwaitingCache
from kij_train.render.code import Code
from kij_train.spec import ArraySpec, JobSpec
from pydantic import ValidationError

from tests.unit.test_fetches import environment


@pytest.mark.parametrize(
    ("text", "claim", "folder"),
    [
        ("pvc:cache", "cache", "/kij/cache"),
        ("pvc:cache:/team/a/", "cache", "/kij/cache/team/a"),
        ("pvc:cache:/", "cache", "/kij/cache/"),
        ("/cache/", None, "/cache"),
    ],
)
def test_a_claim_or_a_path_is_a_folder_of_the_pods(
    text: str, claim: str | None, folder: str
) -> None:
    spec = JobSpec(script="a.py", cache=text)
    assert (spec.cache_claim, spec.cache_dir) == (claim, folder)
    assert JobSpec(script="a.py", cache=spec.cache).cache == spec.cache


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cache": "cache"}, "must be pvc:NAME"),
        ({"cache": "./cache"}, "must be pvc:NAME"),
        ({"cache": ""}, "must be pvc:NAME"),
        ({"cache": "hostpath:/nvme:/cache"}, "must be pvc:NAME"),
        ({"cache": "pvc:"}, "name"),
        ({"cache": "pvc:Cache"}, "lower"),
        ({"cache": "pvc:cache:ro"}, "must be pvc:NAME"),
        ({"cache": "pvc:cache:/a/../b"}, "must be pvc:NAME"),
        ({"cache": "/../etc"}, "must be pvc:NAME"),
        ({"cache": "/"}, "cannot be /"),
        ({"cache": "/kij/work/x"}, "used by kij-train itself"),
        ({"cache": "/data/cache", "fetch": ("/x:/data",)}, "meets /data"),
        ({"cache": "/data", "fetch": ("/x:/data/x",)}, "meets /data/x"),
        ({"cache": "/c/x", "mounts": ("emptydir:/c",)}, "which no other job shares"),
        ({"cache": "/c", "mounts": ("secret:s:/c",)}, "which no other job shares"),
        ({"mounts": ("pvc:c:/kij/cache",)}, "used by kij-train itself"),
        ({"fetch": ("/x:/kij/cache",)}, "used by kij-train itself"),
        ({"env": {"KIJ_CACHE_DIR": "/x"}}, "set by kij-train itself"),
    ],
)
def test_what_can_be_no_cache_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        JobSpec(script="a.py", **fields)


def job(**fields: Any) -> dict[str, Any]:
    spec = JobSpec(script="a.py", name="j", **fields)
    objects = render.render(spec, name="j", code=Code("x"))
    (found,) = (each for each in objects if each["kind"] == "Job")
    return found


def test_pods_get_the_claim_its_folder_and_the_uid_of_their_job() -> None:
    for nodes in (1, 3):
        found = job(nodes=nodes, fetch=("https://h/m:/data",), cache="pvc:c:/$team")
        env = environment(found)
        assert env[contract.ENV_CACHE] == "/kij/cache/$$team" and contract.ENV_SPREAD_KEY in env
        pod = found["spec"]["template"]["spec"]
        assert {"name": "cache", "persistentVolumeClaim": {"claimName": "c"}} in pod["volumes"]
        mounts = pod["containers"][0]["volumeMounts"]
        assert {"name": "cache", "mountPath": "/kij/cache"} in mounts


def test_a_cache_of_a_mount_gets_no_volume_of_its_own() -> None:
    found = job(packages=("einops",), cache="/c/kept", mounts=("hostpath:/nvme:/c",))
    assert environment(found)[contract.ENV_CACHE] == "/c/kept"
    assert "cache" not in {each["name"] for each in found["spec"]["template"]["spec"]["volumes"]}


def test_where_nothing_is_fetched_or_installed_no_claim_is_waited_for() -> None:
    assert job(cache="pvc:c")["spec"] == job()["spec"]


def test_a_path_on_no_volume_is_a_doubt() -> None:
    place = runs.OnCluster()
    for mounts, doubts in (((), 1), (("pvc:c:/cache",), 0), (("pvc:c:/other",), 1)):
        spec = JobSpec(script="a.py", cache="/cache/x", mounts=mounts)
        notes = [note for note in place.doubts(spec) if "is on no volume" in note.text]
        assert len(notes) == doubts
    assert notes[0].hints == ("mount one that jobs share: --mount pvc:NAME:/cache/x",)


def test_on_this_machine_a_folder_is_one_and_a_claim_is_not_used(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    for fetch in ((), ("https://h/m:/data",)):
        spec = JobSpec(script="a.py", cache="/shared/cache", fetch=fetch)
        assert local.fetched(spec, environ)[1][contract.ENV_CACHE] == "/shared/cache"
        assert "cache" not in local.ignores(spec)
        claim = JobSpec(script="a.py", cache="pvc:c", fetch=fetch)
        assert contract.ENV_CACHE not in local.fetched(claim, environ)[1]
        assert "cache" in local.ignores(claim)


def test_arrays_have_it_too() -> None:
    assert ArraySpec(script="a.py", range="0:3", cache="pvc:c").cache_claim == "c"


def test_a_pod_that_waits_for_another_job_says_so() -> None:
    line = PREFIX + AwaitingCache("other-job", "https://h/a b.bin", 3 << 30).text()
    (finding,) = _gets_ready({2: (0.0, line)})
    assert finding.kind == "waiting-for-the-cache"
    assert finding.summary == "waiting for the cache: index 2"
    assert "job other-job, which puts https://h/a b.bin into the cache: 3.0 GiB" in line
