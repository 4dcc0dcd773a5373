"""What the preflight makes of what the ranks say, and how it gets into the pods."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from kij_train import render
from kij_train.pod import preflight
from kij_train.spec import JobSpec


def info(index: int, *problems: str, model: str = "H100") -> dict[str, Any]:
    return {"index": index, "where": f"node-{index}", "model": model, "problems": list(problems)}


def test_good_nodes_have_no_problem() -> None:
    assert preflight.problems_of({0: info(0), 1: info(0), 2: info(1)}, 3, 2) == []


def test_a_bad_node_is_named_once_however_many_ranks_it_has() -> None:
    bad = info(1, "7 of 8 GPUs are visible")
    assert preflight.problems_of({0: info(0), 1: bad, 2: bad}, 3, 2) == [
        "index 1 on node-1: 7 of 8 GPUs are visible"
    ]


def test_another_model_and_a_rank_that_never_came_are_named() -> None:
    infos = {0: info(0), 1: info(1), 2: info(2, model="A100")}
    assert preflight.problems_of(infos, 4, 1) == [
        "index 3 (rank 3) never came, within 60 s",
        "index 2 on node-2: GPU model A100, others have H100",
    ]


# --- GPUs, as NVML tells of them ------------------------------------------------------------------


class NVMLError(Exception):
    """What a GPU raises that does not answer."""


def refuses(*_: object) -> Any:
    raise NVMLError("Not Supported")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What is found on a machine with these answers of torch and NVML."""

    def look(
        gpus: int = 2,
        *,
        visible: int = 2,
        count: Any = lambda: 2,
        ecc: Any = lambda *_: 0,
        throttled: Any = lambda _: 0,
        driver: Any = lambda: b"570.1",
        nvml: bool = True,
    ) -> dict[str, Any]:
        torch = ModuleType("torch")
        cuda = SimpleNamespace(
            device_count=lambda: visible,
            get_device_name=lambda _: "H100",
            nccl=SimpleNamespace(version=lambda: (2, 27, 5)),
        )
        torch.__dict__.update(cuda=cuda, version=SimpleNamespace(cuda="12.8"), __version__="2.11")
        pynvml = ModuleType("pynvml")
        pynvml.__dict__.update(
            NVML_MEMORY_ERROR_TYPE_UNCORRECTED=1,
            NVML_VOLATILE_ECC=0,
            nvmlInit=lambda: None,
            nvmlDeviceGetCount=count,
            nvmlDeviceGetHandleByIndex=lambda number: number,
            nvmlDeviceGetTotalEccErrors=ecc,
            nvmlDeviceGetCurrentClocksThrottleReasons=throttled,
            nvmlSystemGetDriverVersion=driver,
        )
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setitem(sys.modules, "pynvml", pynvml if nvml else None)
        found: dict[str, Any] = {"problems": [], "unknown": [], "versions": {}}
        preflight.look_at_gpus(found, gpus)
        return found

    return look


def test_good_gpus_tell_their_model_and_versions(machine: Callable[..., dict[str, Any]]) -> None:
    found = machine()
    assert found["model"] == "H100"
    assert found["problems"] == found["unknown"] == []
    assert found["versions"] == {"cuda": "12.8", "nccl": "2.27.5", "driver": "570.1"}


def test_missing_gpus_are_counted_by_torch_and_by_nvml(
    machine: Callable[..., dict[str, Any]],
) -> None:
    assert machine(gpus=8, visible=7, count=lambda: 8)["problems"] == [
        "7 of 8 GPUs are visible to torch, 8 to NVML"
    ]
    found = machine(gpus=8, visible=0, nvml=False)
    assert found["problems"] == ["0 of 8 GPUs are visible to torch"]
    assert found["unknown"][0].startswith("ECC errors and throttling: ")
    # Two slices of one GPU: NVML counts the GPU.
    assert machine(visible=2, count=lambda: 1)["problems"] == []


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        (0x1, []),
        (0x4, []),
        (0x8, ["GPU 0: slowed down by its hardware"]),
        (0x48, ["GPU 0: too hot, slowed down by its hardware"]),
        (0x20, ["GPU 0: too hot, slowed down by its driver"]),
        (0x88, ["GPU 0: slowed down by the power brake of its machine"]),
    ],
)
def test_a_throttled_gpu_is_named_with_the_reason(
    machine: Callable[..., dict[str, Any]], reasons: int, said: list[str]
) -> None:
    assert machine(throttled=lambda gpu: 0 if gpu else reasons)["problems"] == said


def test_a_question_without_an_answer_leaves_the_others_alone(
    machine: Callable[..., dict[str, Any]],
) -> None:
    found = machine(ecc=refuses, throttled=lambda _: 0x40, driver=refuses)
    assert len(found["problems"]) == 2
    assert found["unknown"] == [
        "the driver's version: Not Supported",
        "GPU 0: ECC errors: Not Supported",
        "GPU 1: ECC errors: Not Supported",
    ]
    assert machine(ecc=lambda gpu, *_: 3 * gpu)["problems"] == ["GPU 1: 3 uncorrected ECC errors"]


def test_what_is_known_everywhere_is_said_once_and_what_differs_by_node() -> None:
    infos = {
        0: info(0) | {"versions": {"torch": "2.11"}, "unknown": []},
        1: info(0) | {"versions": {"torch": "2.11"}, "unknown": []},
        2: info(1) | {"versions": {"torch": "2.11"}, "unknown": ["GPU 0: throttling: no"]},
    }
    assert preflight.notes_of(infos) == [
        "torch 2.11",
        "not known: GPU 0: throttling: no (index 1 on node-1)",
    ]


@pytest.mark.parametrize(
    ("size", "asked", "said"),
    [
        (2**30, 0, []),
        (2**26, 0, ["/dev/shm has 64 MiB only"]),
        (2**26, 2**26, []),
        (2**30, 2**33, ["/dev/shm has 1024 MiB, 8192 MiB were asked for"]),
    ],
)
def test_shared_memory_is_compared_with_what_was_asked_for(
    size: int, asked: int, said: list[str]
) -> None:
    assert preflight.shm_problems(size, asked) == said


def test_it_travels_beside_the_bootstrap_and_only_when_asked_for() -> None:
    code = render.Code("bootstrap", preflight="source")
    spec = JobSpec(script="a.py", gpus=4, preflight=True)
    config_map, *_, job = render.render(spec, name="job", code=code)
    assert config_map["data"]["preflight.py"] == "source"
    env = {v["name"]: v.get("value") for v in _container(job)["env"]}
    assert env["KIJ_PREFLIGHT_SCRIPT"] == "/kij/bundle/preflight.py"
    assert env["KIJ_PREFLIGHT_GPUS"] == "4"
    assert "KIJ_PREFLIGHT_SHM_BYTES" not in env
    sized = spec.model_copy(update={"shm": "64Gi"})
    job = render.render(sized, name="job", code=code)[-1]
    assert {"name": "KIJ_PREFLIGHT_SHM_BYTES", "value": str(2**36)} in _container(job)["env"]
    plain = render.render(JobSpec(script="a.py"), name="job", code=render.Code("bootstrap"))
    assert list(plain[0]["data"]) == ["bootstrap.py"]
    assert "KIJ_PREFLIGHT_SCRIPT" not in [v["name"] for v in _container(plain[-1])["env"]]
    assert plain[0]["metadata"]["name"] != config_map["metadata"]["name"]


def _container(job: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return first


def test_a_program_cannot_be_preceded_by_it() -> None:
    with pytest.raises(ValueError, match="needs a script or module"):
        JobSpec(program="sh", preflight=True)
