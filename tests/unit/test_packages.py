"""Packages in pods, as far as it needs no installer: versions, hashes, faults, paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.pod import contract, installers, packages
from kij_train.pod.contract import Failure
from kij_train.pod.packages import Request, fits, same_version
from packaging.specifiers import SpecifierSet
from packaging.version import Version


def asked(*lines: str, **fields: object) -> Request:
    return Request("".join(f"{line}\n" for line in lines), "test", **fields)  # type: ignore[arg-type]


VERSIONS = st.tuples(st.integers(3, 4), st.integers(0, 20), st.integers(0, 9))


@given(
    VERSIONS, st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "~="]), VERSIONS, st.integers(2, 3)
)
def test_a_version_of_python_fits_as_packaging_says(
    version: tuple[int, int, int], sign: str, other: tuple[int, int, int], parts: int
) -> None:
    clause = sign + ".".join(map(str, other[:parts]))
    wanted = SpecifierSet(clause).contains(".".join(map(str, version)))
    assert fits(version, clause) == wanted


@given(VERSIONS, st.sampled_from(["==", "!="]), VERSIONS)
def test_a_version_of_python_fits_a_wildcard(
    version: tuple[int, int, int], sign: str, other: tuple[int, int, int]
) -> None:
    clause = f">=3,{sign}{other[0]}.{other[1]}.*"
    assert fits(version, clause) == SpecifierSet(clause).contains(".".join(map(str, version)))


@given(
    st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,3}(\+cu[0-9]{2})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,3}(\+cu[0-9]{2})?", fullmatch=True),
)
def test_a_pin_is_met_as_packaging_says(pin: str, version: str) -> None:
    if all(str(Version(each)) == each for each in (pin, version)):  # 01 is 1
        assert same_version(pin, version) == SpecifierSet(f"=={pin}").contains(version)


def test_a_lock_for_another_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        packages.install(asked("a==1", python=">=3.99"), str(tmp_path), {}, lambda _: None)
    assert caught.value.exit_code == contract.EXIT_PREPARE
    assert "test is for Python >=3.99, and the image has 3." in str(caught.value)


def test_requests_travel_and_are_checked(tmp_path: Path) -> None:
    request = asked("kijlib==1 --hash=sha256:00", python=">=3.8", locked=True)
    (tmp_path / f"{contract.PACKAGES_PREFIX}000").write_bytes(request.packed())
    assert Request.read(str(tmp_path), request.sha256) == request
    (tmp_path / contract.PACKAGES_LOCK).write_text("kijlib==1\n")
    again = Request.read(str(tmp_path), request.sha256)
    assert again == request._replace(constraints="kijlib==1\n")
    with pytest.raises(Failure, match="not what was launched"):
        Request.read(str(tmp_path), "0" * 64)
    (tmp_path / f"{contract.PACKAGES_PREFIX}000").write_bytes(b"no")
    with pytest.raises(Failure, match="cannot read the requirements"):
        Request.read(str(tmp_path), request.sha256)


def test_a_full_disk_leaves_it_to_another_pod() -> None:
    failure = installers.fault_of("Collecting a\nERROR: [Errno 28] No space left on device: '/x'\n")
    assert failure.exit_code == contract.EXIT_ORIGIN
    assert "no room is left: " in str(failure)


def test_an_index_that_throttles_leaves_it_to_another_pod() -> None:
    said = "ERROR: HTTP error 429 while getting https://u:p@i/simple/a\n"
    said += "ERROR: 429 Client Error: Too Many Requests for url: https://u:p@i/simple/a\n"
    failure = installers.fault_of(said)
    assert failure.exit_code == contract.EXIT_ORIGIN
    assert "u:p" not in str(failure) and "429" in str(failure)


def test_what_nobody_knows_is_told_by_the_installers_last_line() -> None:
    assert str(installers.fault_of("a\nerror: odd thing\n")).endswith("failed: odd thing")
    assert str(installers.fault_of("")).endswith("failed: it said nothing")
