"""What the preflight makes of what the ranks say, and how it gets into the pods."""

from __future__ import annotations

import sys
import threading
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


def no_driver() -> None:
    raise RuntimeError("Found no NVIDIA driver on your system. Please\ncheck")


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
            init=no_driver,
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
    assert found["problems"] == [
        "0 of 8 GPUs are visible to torch: Found no NVIDIA driver on your system"
    ]
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


# --- speed ----------------------------------------------------------------------------------------

TERA = 1e12


def speeds(*products: float, copies: float = 3 * TERA) -> dict[int, dict[str, float]]:
    found = enumerate(products)
    return {rank: {"matrix product": one, "memory copy": copies} for rank, one in found}


def nodes(count: int) -> dict[int, dict[str, Any]]:
    return {rank: info(rank) for rank in range(count)}


def test_a_rank_far_below_the_median_is_named_with_its_machine() -> None:
    found = speeds(650 * TERA, 660 * TERA, 400 * TERA, 670 * TERA)
    assert preflight.slow_ranks(found, nodes(4), 1) == [
        "index 2 (rank 2) on node-2: matrix product 400 TFLOP/s, 61 % of the median, 660 TFLOP/s"
    ]
    found[1]["memory copy"] = 0.5 * TERA
    assert preflight.slow_ranks(found, nodes(4), 1)[1] == (
        "index 1 (rank 1) on node-1: memory copy 500 GB/s, 17 % of the median, 3.00 TB/s"
    )
    assert preflight.measured(found) == (
        "a rank does: matrix product 400 TFLOP/s to 670 TFLOP/s, memory copy 500 GB/s to 3.00 TB/s"
    )


def test_of_two_ranks_the_slower_one_is_named_and_small_differences_are_none() -> None:
    (said,) = preflight.slow_ranks(speeds(700 * TERA, 500 * TERA), nodes(2), 1)
    assert said.startswith("index 1 (rank 1) on node-1: matrix product 500 TFLOP/s, 71 %")
    assert preflight.slow_ranks(speeds(700 * TERA, 570 * TERA), nodes(2), 1) == []
    assert preflight.slow_ranks(speeds(700 * TERA), nodes(1), 1) == []


def test_of_many_slow_ranks_the_slowest_are_named_and_the_rest_counted() -> None:
    found = speeds(*[600 * TERA] * 64, *[(100 + one) * TERA for one in range(20)])
    said = preflight.slow_ranks(found, nodes(84), 1)
    assert len(said) == 9
    assert said[0].startswith("index 64 (rank 64) on node-64: matrix product 100 TFLOP/s")
    assert said[-1] == "matrix product: 12 more ranks below 80% of it"


class Store:
    """What the ranks' store is to the preflight, for threads of one process."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}
        self._changed = threading.Condition()

    def set(self, key: str, value: str) -> None:
        with self._changed:
            self._kept[key] = value
            self._changed.notify_all()

    def get(self, key: str) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._kept, 60)
            return self._kept[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self._kept for key in keys)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[list[str]], list[int]]]:
    """What each rank finds, where ranks do so much, and the ranks that came to the all-reduce."""

    def run(*does: Any, gpus: int = 1, shared: str = "") -> tuple[list[list[str]], list[int]]:
        store, reduced, ranks = Store(), list[int](), list[preflight.Preflight]()

        def speed(_: int) -> Any:
            mine = does[int(threading.current_thread().name)]
            if isinstance(mine, Exception):
                raise mine
            return {"matrix product": mine, "memory copy": mine}

        def reduce(_: Any, rank: int, *__: int) -> float:
            reduced.append(rank)
            return 0.001

        def call(run: Callable[[], Any]) -> dict[str, Any]:
            try:
                return {"result": run(), "error": ""}
            except Exception as error:
                return {"error": preflight.first_line(error)}

        monkeypatch.setattr(preflight, "in_time", call)
        monkeypatch.setattr(preflight, "speeds", speed)
        monkeypatch.setattr(
            preflight,
            "about_this_rank",
            lambda _: {**info(int(threading.current_thread().name)), "versions": {}, "unknown": []},
        )
        monkeypatch.setattr(preflight, "all_reduce", reduce)
        monkeypatch.setenv("WORLD_SIZE", str(len(does)))
        monkeypatch.setenv("KIJ_PREFLIGHT_GPUS", str(gpus))
        monkeypatch.setenv(preflight.ENV_SHARED, shared)
        for rank in range(len(does)):
            monkeypatch.setenv("RANK", str(rank))
            ranks.append(preflight.Preflight(store))
        found: list[list[str]] = [[] for _ in does]

        def one(rank: int) -> None:
            found[rank] = ranks[rank].run()

        threads = [
            threading.Thread(target=one, args=(rank,), name=str(rank)) for rank in range(len(does))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return found, sorted(reduced)

    return run


def test_a_slow_gpu_stops_the_job_with_one_sentence_for_all_ranks(
    together: Callable[..., tuple[list[list[str]], list[int]]],
) -> None:
    found, reduced = together(6 * TERA, 6 * TERA, 3 * TERA)
    said = "index 2 (rank 2) on node-2: {} 3.00 {}, 50 % of the median, 6.00 {}"
    product = said.format("matrix product", "TFLOP/s", "TFLOP/s")
    assert found == [[product, said.format("memory copy", "TB/s", "TB/s")]] * 3
    assert reduced == []


def test_a_gpu_that_falls_off_meanwhile_is_named_with_what_cuda_says(
    together: Callable[..., tuple[list[list[str]], list[int]]],
) -> None:
    lost = RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
    found, reduced = together(6 * TERA, lost)
    said = "index 1 (rank 1) on node-1: speed: CUDA error: unspecified launch failure"
    assert found == [[said]] * 2
    assert reduced == []


@pytest.mark.parametrize(("gpus", "shared", "what"), [(0, "", "cores"), (1, "1", "GPU")])
def test_what_others_use_too_is_named_and_stops_nothing(
    together: Callable[..., tuple[list[list[str]], list[int]]],
    capsys: pytest.CaptureFixture[str],
    gpus: int,
    shared: str,
    what: str,
) -> None:
    assert together(6e9, 3e9, gpus=gpus, shared=shared) == ([[], []], [0, 1])
    said = capsys.readouterr().err
    assert "index 1 (rank 1) on node-1: matrix product 3.00 GFLOP/s, 50 % of the median" in said
    assert f"(goes on: others may use the same {what})" in said


def test_it_travels_beside_the_bootstrap_and_only_when_asked_for() -> None:
    code = render.Code("bootstrap", preflight="source")
    spec = JobSpec(script="a.py", gpus=4, preflight=True)
    config_map, *_, job = render.render(spec, name="job", code=code)
    assert config_map["data"]["preflight.py"] == "source"
    env = {v["name"]: v.get("value") for v in _container(job)["env"]}
    assert env["KIJ_PREFLIGHT_SCRIPT"] == "/kij/bundle/preflight.py"
    assert env["KIJ_PREFLIGHT_GPUS"] == "4"
    assert "KIJ_PREFLIGHT_SHM_BYTES" not in env
    assert preflight.ENV_SHARED not in env
    shared = spec.model_copy(update={"gpus": 1, "gpu_kind": "shared"})
    job = render.render(shared, name="job", code=code)[-1]
    assert {"name": preflight.ENV_SHARED, "value": "1"} in _container(job)["env"]
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
