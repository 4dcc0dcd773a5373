"""Which index runs which items, what is too much for a cluster, and what an array is asked for."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train import render, runs
from kij_train.arrays import plan as plans
from kij_train.arrays.items import Items, from_list, from_values
from kij_train.errors import RequestError
from kij_train.pod import contract, itemplan
from kij_train.pod.contract import Failure
from kij_train.spec import ArraySpec, JobSpec, kept, request_of, values_of
from kij_train.specfile import Layer, Origin, Resolved, check, resolve


def numbers(total: int) -> Items:
    return Items("list.txt", [str(number) for number in range(total)])


def spec_of(**fields: Any) -> ArraySpec:
    origins = {(name,): Origin(name, names_value=True) for name in fields}
    values = {"script": "a.py", **fields}
    return check(Layer(values, origins), ArraySpec).spec  # type: ignore[arg-type]


# --- the plan -------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 400), st.booleans())
def test_every_item_is_of_exactly_one_index_in_their_order(
    total: int, size: int, by_chunk: bool
) -> None:
    chunk, indexes = (size, None) if by_chunk else (None, size)
    pinned = plans.pin(numbers(total), chunk=chunk, indexes=indexes, seed=0)
    plan = pinned.items
    found = [position for index in range(plan.indexes) for position in plan.positions(index)]
    assert found == list(range(total))
    rows = list(plans.rows(plan))
    assert sum(row.items for row in rows) == total
    assert (rows[0].first, rows[-1].last) == ("0", str(total - 1))
    assert min(row.items for row in rows) > 0


def test_up_to_a_thousand_items_get_an_index_each_and_more_must_say_how_many() -> None:
    assert plans.pin(numbers(1000), chunk=None, indexes=None, seed=0).items.indexes == 1000
    with pytest.raises(RequestError, match=r"list\.txt has 2,500 items") as caught:
        plans.pin(numbers(2500), chunk=None, indexes=None, seed=0)
    assert "--chunk 3" in caught.value.hints[0]
    assert plans.pin(numbers(2500), chunk=3, indexes=None, seed=0).items.indexes == 834


def test_a_range_is_planned_without_listing_it() -> None:
    pinned = plans.pin(Items("r", (), bounds=(0, 10**9)), chunk=10**6, indexes=None, seed=3)
    assert (pinned.items.indexes, pinned.items.seed, len(pinned.text) < 200) == (1000, 3, True)


def test_the_same_items_are_the_same_plan() -> None:
    one, other = (plans.pin(numbers(9), chunk=2, indexes=None, seed=1) for _ in range(2))
    assert (one.sha256, one.packed) == (other.sha256, other.packed)
    assert one.sha256 != plans.pin(numbers(9), chunk=2, indexes=None, seed=2).sha256


def test_what_an_api_server_would_refuse_is_refused_with_what_to_write() -> None:
    def check_limits(indexes: int, parallelism: int | None = None, most: int | None = None) -> None:
        items = Items("r", (), bounds=(0, indexes))
        pinned = plans.pin(items, chunk=1, indexes=None, seed=0)
        plans.check_limits(pinned, parallelism=parallelism, max_failed=most)

    check_limits(100_000)
    check_limits(100_001, most=10_000)
    with pytest.raises(RequestError, match="100,001 indexes are more than 100,000") as caught:
        check_limits(100_001)
    assert caught.value.hints[0] == "fewer indexes: --chunk 2"
    with pytest.raises(RequestError):
        check_limits(100_001, parallelism=20_000, most=10)
    with pytest.raises(RequestError):
        check_limits(100_001, most=10_001)


def test_a_list_that_is_too_large_to_travel_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plans, "MOST_PACKED_BYTES", 100)
    pinned = plans.pin(numbers(1000), chunk=10, indexes=None, seed=0)
    with pytest.raises(RequestError, match=r"1,000 items is .* compressed, and 100 B") as caught:
        plans.check_limits(pinned, parallelism=None, max_failed=None)
    assert "--mount pvc:NAME:/data --items-on /data/LIST" in caught.value.hints[0]
    listed = Items("list.txt", numbers(1000).keys, sha256="0" * 64)
    pinned = plans.pin(listed, chunk=10, indexes=None, seed=0, path="/data/list.txt")
    monkeypatch.setattr(plans, "MOST_PACKED_BYTES", 300)
    plans.check_limits(pinned, parallelism=None, max_failed=None)


# --- the request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"chunk": 0}, "chunk 0 must be at least 1"),
        ({"indexes": 0}, "indexes 0 must be at least 1"),
        ({"chunk": 2, "indexes": 3}, "indexes 3 conflicts with chunk 2"),
        ({"items": "a", "glob": "b"}, "glob b conflicts with items"),
        ({"range": "5"}, "range 5 is no range"),
        ({"range": "5:5"}, "range 5:5 is empty"),
        ({"range": "9:5"}, "Did you mean 5:9?"),
        ({"max_failed": "x"}, "max_failed x must be a number of indexes"),
        ({"max_failed": "101%"}, "max_failed 101% is more than all"),
        ({"results": "/out"}, "results /out is on no volume"),
        ({"results": "out"}, "'out' must be one of: pvc:NAME:/path"),
        ({"results": "emptydir:/out"}, "is on a volume of type emptydir"),
        ({"aggregate_in_cluster": True}, "aggregate_in_cluster needs results on a volume"),
        ({"results": "pvc:a:/out:ro"}, "is on /out, which is mounted without write"),
        ({"slice": True, "item_timeout": "5m"}, "item_timeout 5m conflicts with --slice"),
        ({"slice": True, "preload": ["torch"]}, "conflicts with slice"),
        ({"gpus": 2, "preload": ["torch"]}, "does not go with 2 ranks an item"),
        ({"preload": ["a-b"]}, "'a-b' is no module name"),
        ({"items_on": "/data/list.txt"}, "is a copy of a list, and no list is given"),
        ({"items": "a", "items_on": "/data/list.txt"}, "Mount one: --mount pvc:NAME:/data"),
        ({"items": "a", "items_on": "list.txt"}, "items_on list.txt must be a path that begins"),
        ({"scheduler": "native"}, "scheduler native places all pods or none"),
        ({"topology": "rack"}, "topology"),
        ({"env": {"KIJ_KEY": "a"}}, "KIJ_KEY is set by kij-train itself"),
        ({"nodes": 2}, 'unknown key "nodes"'),
        ({"script": None, "function": "a.b"}, "function a.b is no function's name"),
        ({"script": None, "function": "a:b", "args": ["c"]}, "does not go with function a:b"),
        ({"function": "a:b"}, "conflicts with"),
        ({"trial_nodes": 2, "chunk": 3}, "conflicts with --nodes 2: a trial is a Job"),
        ({"trial_nodes": 2, "retries": 1}, "run what has failed again: kij-train rerun NAME"),
        ({"trial_nodes": 2, "slice": True}, "conflicts with --nodes 2"),
        ({"trial_nodes": 2, "max_failed": "1%"}, "conflicts with --nodes 2"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        spec_of(**fields)
    assert said in caught.value.message


def test_a_share_of_the_indexes_may_fail() -> None:
    assert spec_of().failed_indexes(50) is None
    assert spec_of(max_failed=3).failed_indexes(50) == 3
    assert spec_of(max_failed="10%").failed_indexes(50) == 5
    assert spec_of(max_failed="1%").failed_indexes(50) == 0
    assert spec_of(max_failed=99).failed_indexes(50) == 50


def test_results_on_a_claim_are_mounted_and_the_request_can_be_made_again() -> None:
    spec = spec_of(results="pvc:out:/out", mounts=["pvc:data:/data:ro"], env={"A": "b"})
    assert [mount.path for mount in spec.mounts] == ["/data", "/out"]
    again = spec_of(**request_of(spec))
    assert again == spec


def test_settings_of_other_kinds_of_job_are_left_to_them(tmp_path: Path) -> None:
    (tmp_path / "kij-train.toml").write_text("nodes = 8\nchunk = 5\nimage = 'a/b:1'\n")
    array = resolve(Layer({"script": "a.py"}), environ={}, cwd=tmp_path, model=ArraySpec).spec
    assert (array.chunk, array.image) == (5, "a/b:1")
    job = resolve(Layer({"script": "a.py"}), environ={}, cwd=tmp_path).spec
    assert (job.nodes, job.image) == (8, "a/b:1")
    (tmp_path / "array.yaml").write_text("script: a.py\nnodes: 8\n")
    with pytest.raises(RequestError, match=r'array.yaml:2: unknown key "nodes"'):
        resolve(Layer({}), environ={}, cwd=tmp_path, spec_file="array.yaml", model=ArraySpec)


def test_lists_of_a_file_begin_at_the_file_and_variables_set_fields(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/array.yaml").write_text("script: a.py\nitems: list.txt\nretries: 2\n")

    def items_of(text: str) -> str | None:
        (tmp_path / "sub/array.yaml").write_text(f"script: a.py\nitems: '{text}'\n")
        file = "sub/array.yaml"
        flags = Layer({})
        return resolve(flags, environ={}, cwd=tmp_path, spec_file=file, model=ArraySpec).spec.items

    assert items_of("list.txt") == str(tmp_path / "sub/list.txt")
    assert items_of("s3://a/b/") == "s3://a/b/"
    assert items_of("-") == "-"
    environ = {"KIJ_CHUNK": "7", "KIJ_SEED": "9", "KIJ_PRELOAD": "torch numpy"}
    found = resolve(Layer({"script": "a.py"}), environ=environ, cwd=tmp_path, model=ArraySpec).spec
    assert (found.chunk, found.seed, found.preload) == (7, 0, ("torch", "numpy"))


# --- placeholders ---------------------------------------------------------------------------------


def refused_args(args: Sequence[str], values: Sequence[Any], **fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        runs.check_placeholders(spec_of(args=list(args), **fields), from_values(values))
    return "\n".join([caught.value.message, *caught.value.hints])


def test_a_name_that_an_item_has_not_is_refused_with_those_it_has() -> None:
    rows = [{"key": "a", "url": "x"}, {"key": "b", "link": "y"}]
    said = refused_args(["--url", "{url}"], rows)
    assert "{url} is unknown: the item at items[1] has no field url" in said
    assert "{key}, {index}, {seed}, {key}, {link}" in said
    assert "{nmae} is unknown: the item at items[0] is no object" in refused_args(["{nmae}"], ["a"])
    runs.check_placeholders(spec_of(args=["{key}", '{"a": 1}', "{{url}}", "{}"]), from_values(rows))


def test_a_style_of_arguments_needs_items_with_fields() -> None:
    said = refused_args([], [{"lr": 1}, "a"], style="hydra")
    assert "--style hydra gives an item's fields, and the item at items[1] is no object" in said
    runs.check_placeholders(spec_of(style="flags"), from_values([{"lr": 1}]))


def test_a_process_of_all_items_has_no_item_to_fill_in() -> None:
    assert "{key} is one item's" in refused_args(["{key}"], ["a"], slice=True)
    assert "{url} would be a field" in refused_args(["{url}"], ["a"], slice=True)
    runs.check_placeholders(spec_of(args=["{index}"], slice=True), from_values(["a"]))


# --- rendering ------------------------------------------------------------------------------------


def planned(tmp_path: Path, items: Items, /, **fields: Any) -> runs.ArrayPlan:
    (tmp_path / "a.py").write_text("")
    resolved = Resolved(spec_of(**fields), {})
    return runs.plan_array(resolved, items, cwd=tmp_path, place=runs.OnCluster())


def test_an_attempt_is_one_job_without_a_service(tmp_path: Path) -> None:
    fields = {"chunk": 4, "retries": 2, "max_failed": "50%", "parallelism": 3, "name": "sq"}
    plan = planned(tmp_path, numbers(20), **fields)
    *others, job = plan.objects()
    assert {body["kind"] for body in others} == {"ConfigMap", "NetworkPolicy"}
    policy = job["spec"]
    assert (policy["completions"], policy["parallelism"]) == (5, 3)
    assert (policy["backoffLimitPerIndex"], policy["maxFailedIndexes"]) == (2, 2)
    rules = policy["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailIndex", "Ignore"]
    assert rules[0]["onExitCodes"]["values"] == [
        contract.EXIT_PREPARE,
        itemplan.EXIT_ITEMS,
        contract.EXIT_CONTRACT,
        contract.EXIT_CODE,
    ]
    labels = job["metadata"]["labels"]
    assert (labels["kij-train/array"], labels["kij-train/attempt"]) == ("sq", "0")
    assert job["spec"]["template"]["metadata"]["labels"]["kij-train/array"] == "sq"
    pod = job["spec"]["template"]["spec"]
    assert "subdomain" not in pod
    assert "ports" not in pod["containers"][0]
    sources = pod["volumes"][0]["projected"]["sources"]
    carried = {body["metadata"]["name"] for body in others if body["kind"] == "ConfigMap"}
    assert {each["configMap"]["name"] for each in sources} == carried


def carried(plan: runs.ArrayPlan, folder: Path) -> itemplan.ItemPlan:
    """The plan as the pods find it."""
    folder.mkdir(exist_ok=True)
    for body in plan.objects():
        for key, chunk in (body.get("binaryData") or {}).items():
            if key.startswith(itemplan.ITEMS_PREFIX):
                (folder / key).write_bytes(base64.b64decode(chunk))
    return itemplan.read(str(folder), plan.pinned.sha256)


def test_the_pods_find_the_plan_that_was_pinned(tmp_path: Path) -> None:
    plan = planned(tmp_path, from_values(["ä", {"key": "b", "x": 1}]))
    found = carried(plan, tmp_path / "pod").items([0, 1])
    assert found == [("ä", "ä"), ("b", {"key": "b", "x": 1})]


def test_pods_read_a_list_on_a_volume_and_refuse_one_that_has_changed(tmp_path: Path) -> None:
    path, content = tmp_path / "data/todo.jsonl", b'{"id": "a", "x": 1}\n\n"b"\n[3]\n'
    path.parent.mkdir()
    path.write_bytes(content)
    fields = {"items": "todo.jsonl", "items_on": str(path), "mounts": [f"pvc:data:{path.parent}"]}
    plan = planned(tmp_path, from_list(content, "todo.jsonl"), **fields)
    there = carried(plan, tmp_path / "pod")
    assert not there.has_items
    assert there.items([0, 2]) == [("a", {"id": "a", "x": 1}), ("[3]", [3])]
    assert there.items([0, 1, 2]) == plan.pinned.items.items(range(3))
    # What a rerun travels with is made from what this machine keeps.
    kept_here = plans.Pinned(plan.pinned.text)
    assert (kept_here.sha256, kept_here.travels) == (plan.pinned.sha256, plan.pinned.travels)
    path.write_bytes(content.replace(b"3", b"4"))
    with pytest.raises(Failure, match=rf"{path} is not what was launched") as caught:
        there.items([0])
    assert caught.value.exit_code == contract.EXIT_CODE
    path.unlink()
    with pytest.raises(Failure, match=rf"cannot read the list of items {path}: No such file"):
        there.items([0])


def test_a_large_list_on_a_volume_is_read_there_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a\nb\n")
    items = from_list(path.read_bytes(), str(path))
    fields = {"items": str(path), "mounts": [f"pvc:data:{tmp_path}"]}
    assert planned(tmp_path, items, **fields).pinned.items.listed is None
    monkeypatch.setattr(plans, "MOST_PACKED_BYTES", 10)
    plan = planned(tmp_path, items, **fields)
    assert plan.spec.items_on == str(path)
    assert carried(plan, tmp_path / "pod").items([1]) == [("b", "b")]


def test_what_is_no_list_has_no_copy_on_a_volume(tmp_path: Path) -> None:
    fields = {"items": "s3://a/b/", "items_on": "/data/l", "mounts": ["pvc:data:/data"]}
    with pytest.raises(RequestError, match="--items-on /data/l: is a copy of a list"):
        planned(tmp_path, from_values(["a"]), **fields)


def test_dollars_and_braces_reach_the_runner_as_they_are(tmp_path: Path) -> None:
    args = ["$(NODE_RANK)", "$HOME {item}", "{{x}}"]
    job = planned(tmp_path, numbers(2), args=args).objects()[-1]
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["a.py", "$$(NODE_RANK)", "$$HOME {item}", "{{x}}"]


def test_a_rerun_is_another_job_of_the_array_with_what_it_is_to_run(tmp_path: Path) -> None:
    first = planned(tmp_path, numbers(20), chunk=4, name="sq")
    resolved = Resolved(first.spec, {})
    again = runs.plan_rerun(
        resolved,
        first.pinned,
        array="sq",
        number=2,
        selection=[(3, [13])],
        cwd=tmp_path,
        place=runs.OnCluster(),
    )
    job = again.objects()[-1]
    assert (job["metadata"]["name"], job["spec"]["completions"]) == ("sq-r2", 1)
    assert job["metadata"]["labels"]["kij-train/array"] == "sq"
    config_maps = [body for body in again.objects() if body["kind"] == "ConfigMap"]
    kinds = {body["metadata"]["name"].rsplit("-", 2)[0] for body in config_maps}
    assert kinds == {"kij-code", "kij-items", "kij-selection"}


def test_the_request_is_kept_with_the_job_and_read_again(tmp_path: Path) -> None:
    plan = planned(tmp_path, numbers(4), env={"A": "$b"}, args=["{item}"], retries=1)
    values = values_of(plan.objects()[-1])
    assert values is not None
    assert (values["retries"], values["args"], values["env"]["A"]) == (1, ["{item}"], "$b")
    assert not {name for name in values["env"] if name.startswith("KIJ_")}
    assert "A" not in (kept(plan.spec) or "")


def test_results_on_a_volume_are_in_a_folder_of_this_job_alone(tmp_path: Path) -> None:
    plan = planned(tmp_path, numbers(4), name="sq", results="pvc:out:/out/$a")
    container = plan.objects()[-1]["spec"]["template"]["spec"]["containers"][0]
    env = {each["name"]: each for each in container["env"]}
    names = [each["name"] for each in container["env"]]
    assert names.index("KIJ_JOB_UID") < names.index("KIJ_ARRAY")
    assert "controller-uid" in env["KIJ_JOB_UID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert '"/out/$$a/sq/attempt-0-$(KIJ_JOB_UID)"' in env["KIJ_ARRAY"]["value"]
    assert '"/out/$$a/sq/run"' in env["KIJ_ARRAY"]["value"]


def test_the_last_pod_is_told_where_earlier_attempts_have_left_their_parts(tmp_path: Path) -> None:
    fields = {"name": "sq", "results": "pvc:out:/out", "aggregate_in_cluster": True}
    first = planned(tmp_path, numbers(4), **fields)
    again = runs.plan_rerun(
        Resolved(first.spec, {}),
        first.pinned,
        array="sq",
        number=1,
        selection=[(3, [3])],
        cwd=tmp_path,
        place=runs.OnCluster(),
        earlier=((0, "abc-1"),),
    )
    container = again.objects()[-1]["spec"]["template"]["spec"]["containers"][0]
    (text,) = [one["value"] for one in container["env"] if one["name"] == "KIJ_ARRAY"]
    found = itemplan.ArraySettings.from_json(text)
    assert (found.aggregate, found.earlier) == (True, ((0, "/out/sq/attempt-0-abc-1"),))


def test_kueue_may_admit_fewer_pods_at_once(tmp_path: Path) -> None:
    job = planned(tmp_path, numbers(4), queue="team-a").objects()[-1]
    assert job["metadata"]["annotations"]["kueue.x-k8s.io/job-min-parallelism"] == "1"
    job = planned(tmp_path, numbers(1), queue="team-a").objects()[-1]
    assert "kueue.x-k8s.io/job-min-parallelism" not in job["metadata"]["annotations"]


def test_a_name_leaves_room_for_the_names_of_reruns(tmp_path: Path) -> None:
    plan = planned(tmp_path, numbers(1000), script="a.py")
    assert plan.name.startswith("a-")
    with pytest.raises(RequestError, match="leaves no room for reruns"):
        planned(tmp_path, numbers(1000), name="n" * 56)


def test_files_that_do_not_ship_are_told_before_they_are_missed(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.bin\n")
    paths = ["kept.csv", "one.bin", "/data/x"]
    for path in paths[:2]:
        (tmp_path / path).write_text("x")
    items = Items("--glob", paths)
    (note,) = planned(tmp_path, items, glob="*").notes
    assert "2 of the 3 files that --glob finds do not ship: pods have no one.bin" in note.text
    (note,) = planned(tmp_path, items, glob="*", mounts=["pvc:d:/data"]).notes
    assert "1 of the 3 files" in note.text


def test_a_job_of_training_has_its_service_and_ranks_as_before() -> None:
    shape = render.shape_of(JobSpec(script="a.py", nodes=2), "job")
    assert (shape.service_port, shape.component, shape.at_once) == (29500, "training", 2)
    assert shape.environment[contract.ENV_MASTER_ADDR] == "job-0.job"


def test_a_function_is_named_in_the_command_and_its_module_is_imported_once() -> None:
    spec = spec_of(script=None, function="pkg.mod:Cls.run", preload=["torch"])
    assert spec.command == ["--function", "pkg.mod:Cls.run"]
    assert spec.runner_settings()["preload"] == ("torch", "pkg.mod")
    assert shlex.join(spec.command)
