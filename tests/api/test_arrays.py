"""Arrays against a real API server: what it takes and refuses, and in how many requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kij_train import doctor, runs
from kij_train.arrays import plan as plans
from kij_train.arrays.items import Items
from kij_train.cluster import Cluster
from kij_train.cluster.submit import retries_of_all
from kij_train.errors import RefusedError, RequestError
from kij_train.jobs import change
from kij_train.spec import ArraySpec
from kij_train.specfile import Resolved

from tests.kube import Namespace


@pytest.fixture
def cluster(ns: Namespace) -> Cluster:
    return Cluster.connect(kubeconfig=ns.kubeconfig, context=None, namespace=ns.name)


def planned(folder: Path, indexes: int, **fields: Any) -> runs.ArrayPlan:
    (folder / "a.py").write_text("")
    values = {"script": "a.py", "name": "a", "chunk": 1, "code_dir": str(folder), **fields}
    resolved = Resolved(ArraySpec.model_validate(values), {})
    items = Items("list", (), bounds=(0, indexes))
    return runs.plan_array(resolved, items, cwd=folder, place=runs.OnCluster())


@pytest.mark.parametrize(
    ("indexes", "fields", "is_taken"),
    [
        (10_000, {}, True),
        (100_000, {"parallelism": 100_000}, True),
        (100_001, {}, False),
        (100_001, {"max_failed": 10_000}, True),
        (100_001, {"max_failed": 10_001}, False),
        (100_001, {"max_failed": 10_000, "parallelism": 10_001}, False),
    ],
)
def test_what_is_refused_before_it_is_sent_is_what_the_server_refuses(
    cluster: Cluster, tmp_path: Path, indexes: int, fields: dict[str, Any], is_taken: bool
) -> None:
    plan = planned(tmp_path, indexes, **fields)
    most = plan.spec.failed_indexes(plan.indexes)
    parallelism = plan.spec.parallelism
    if is_taken:
        plans.check_limits(plan.pinned, parallelism=parallelism, max_failed=most)
        runs.dry_run(plan, cluster)
        return
    with pytest.raises(RequestError):
        plans.check_limits(plan.pinned, parallelism=parallelism, max_failed=most)
    with pytest.raises(RefusedError):
        runs.dry_run(plan, cluster)


def test_an_array_is_made_in_as_many_requests_whatever_its_size(
    cluster: Cluster, ns: Namespace, tmp_path: Path
) -> None:
    plan = planned(tmp_path, 10_000, queue="nobody")  # so that it makes no pods
    runs.OnCluster(cluster).start(plan)
    assert cluster.requests == 6  # our own code takes two ConfigMaps
    job = ns.batch.read_namespaced_job("a", ns.name)
    assert (job.spec.completions, job.spec.suspend) == (10_000, True)
    assert job.metadata.labels["kij-train/array"] == "a"
    kept = [one for one in ns.left() if one.startswith("configmaps/")]
    assert len(kept) == 3
    ns.delete_job("a")
    assert ns.empties()


def start_with_a_rerun(cluster: Cluster, folder: Path) -> None:
    first = planned(folder, 8, queue="nobody")
    backend = runs.OnCluster(cluster)
    backend.start(first)
    again = runs.plan_rerun(
        Resolved(first.spec, {}),
        first.pinned,
        array="a",
        number=1,
        selection=[(3, [3]), (5, [5])],
        cwd=folder,
        place=backend,
    )
    backend.start(again)


def test_a_rerun_shares_the_list_of_its_array(
    cluster: Cluster, ns: Namespace, tmp_path: Path
) -> None:
    start_with_a_rerun(cluster, tmp_path)
    assert ns.batch.read_namespaced_job("a-r1", ns.name).spec.completions == 2
    ns.delete_job("a")
    left = ns.left()
    assert "jobs/a-r1" in left
    assert sum(one.startswith("configmaps/kij-items-") for one in left) == 1


@pytest.mark.parametrize(
    ("argv", "jobs"),
    [
        (["map", "--range", "0:8"], ["jobs/a"]),
        (["sweep", "-p", "x=1", "--nodes", "2"], ["jobs/a"]),
        (["sweep", "-p", "x=1,2", "--nodes", "2", "--parallelism", "2"], ["jobs/a", "jobs/a-r1"]),
    ],
)
def test_an_array_that_is_replaced_leaves_none_of_its_reruns(
    cluster: Cluster, ns: Namespace, tmp_path: Path, argv: list[str], jobs: list[str]
) -> None:
    start_with_a_rerun(cluster, tmp_path)
    before = {job.metadata.uid for job in ns.batch.list_namespaced_job(ns.name).items}
    common = ["--name", "a", "--queue", "nobody", "--detach", "--replace", "a.py"]
    done = ns.kij_train(*argv, *common, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [one for one in ns.left() if one.startswith("jobs/")] == jobs
    now = {job.metadata.uid for job in ns.batch.list_namespaced_job(ns.name).items}
    assert not now & before
    report = ns.kij_train("report", "a", cwd=tmp_path)
    assert "is of another array" not in report.stderr
    assert report.returncode == 1, report.stderr  # nothing has run


def test_more_or_fewer_indexes_run_at_once_when_that_is_said(
    cluster: Cluster, ns: Namespace, tmp_path: Path
) -> None:
    runs.OnCluster(cluster).start(planned(tmp_path, 8, parallelism=2, queue="nobody"))
    scaled = change.scale(cluster, "a", 5)
    assert (scaled.was, scaled.unit) == (2, "indexes at once")
    spec = ns.batch.read_namespaced_job("a", ns.name).spec
    assert (spec.completions, spec.parallelism) == (8, 5)
    with pytest.raises(RequestError, match="a takes 1 to 8 indexes at once"):
        change.scale(cluster, "a", 9)


def test_a_server_that_counts_no_retries_by_index_gets_a_limit_for_all(
    cluster: Cluster, ns: Namespace, tmp_path: Path
) -> None:
    plan = planned(tmp_path, 2, retries=3, queue="nobody")
    job = plan.objects()[-1]
    assert retries_of_all(job, job) is None
    dropped = {"spec": {"completions": 2}}
    assert retries_of_all(job, dropped) == 3
    runs.OnCluster(cluster).start(plan)
    # As it is sent then: the limit can be given to a Job that is there.
    cluster.patch("Job", "a", {"spec": {"backoffLimit": 3}})
    assert ns.batch.read_namespaced_job("a", ns.name).spec.backoff_limit == 3


def test_doctor_says_whether_indexes_have_their_own_retries(cluster: Cluster) -> None:
    check = doctor.arrays(cluster)
    assert (check.name, check.result) == ("arrays", doctor.Result.OK)
