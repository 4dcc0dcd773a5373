"""`explain`: what has a name is found by it, and says what stands where it is defined."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import kij_train.pod
import pytest
from kij_train import diagnosis, errors
from kij_train.arrays.gates import EXIT_UNDECIDED
from kij_train.cli.app import run
from kij_train.cli.explain import topics
from kij_train.diagnosis.kinds import KINDS
from kij_train.errors import EXIT_CODES, KijError, RequestError
from kij_train.reference import About, Topic, find
from kij_train.spec import kinds
from kij_train.spec.settings import settings_of

DIAGNOSIS = Path(diagnosis.__file__).parent
POD = Path(kij_train.pod.__file__).parent


@pytest.fixture(scope="module")
def known() -> list[Topic]:
    return topics()


def _explain(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(["explain", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("model", kinds(), ids=lambda model: model.__name__)
def test_every_field_is_found_by_its_name_and_by_each_of_its_flags(
    model: type, known: list[Topic]
) -> None:
    for name, setting in settings_of(model).items():
        text = " ".join(model.model_fields[name].description.split())  # type: ignore[attr-defined]
        flags = [*setting.flags, *(setting.switches or {})]
        long = [flag for flag in flags if flag.startswith("--")]
        for word in (name, f"spec.{name}", *long):
            assert text in [topic.text for topic in find(word, known)], word


def _constants(prefix: str) -> Iterator[tuple[str, str]]:
    """Names and values of the constants of all modules that run in pods."""
    for path in sorted(POD.rglob("*.py")):
        for name, value in re.findall(rf"^({prefix}\w+) = (\S+)$", path.read_text(), re.MULTILINE):
            yield name, value.strip('"')


@pytest.mark.parametrize("prefix", ["ENV_", "EXIT_"])
def test_every_variable_and_exit_code_of_a_pod_has_a_docstring_and_is_found(
    prefix: str, known: list[Topic]
) -> None:
    found = list(_constants(prefix))
    assert len(found) > 6
    for name, value in found:
        assert any(topic.text for topic in find(value, known)), f"{name} = {value}"


def test_every_exit_code_of_an_error_is_in_the_table() -> None:
    def tree(error: type[KijError]) -> Iterator[type[KijError]]:
        yield error
        for each in error.__subclasses__():
            yield from tree(each)

    for error in tree(KijError):
        assert error.exit_code in EXIT_CODES, error
    assert EXIT_UNDECIDED in EXIT_CODES
    for code in map(int, re.findall(r" (\d+)\s+\S", str(errors.__doc__))):
        assert code in EXIT_CODES


FINDINGS = ("Finding", "Cause", "Refusal")


def _kinds_in(tree: ast.AST) -> Iterator[str]:
    """Kinds that are written down where a finding is made."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if name in FINDINGS:
            first = call.args[0]
            both = (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,)
            for part in both:
                if isinstance(part, ast.Constant):
                    yield str(part.value)


def test_the_table_has_the_kinds_of_all_findings_and_no_others() -> None:
    files = [path for path in sorted(DIAGNOSIS.glob("*.py")) if path.name != "kinds.py"]
    sources = {path.name: path.read_text() for path in files}
    made = {kind for text in sources.values() for kind in _kinds_in(ast.parse(text))}
    assert len(made) > 60
    assert made - KINDS.keys() == set()
    everything = "\n".join([*sources.values(), (POD / "status.py").read_text()])
    for kind in KINDS:
        assert re.search(rf'f?"({kind}|{kind.replace("-", " ")})\b', everything), kind


def test_the_words_of_kubernetes_in_the_table_are_read_or_were_seen() -> None:
    sources = [path for path in DIAGNOSIS.glob("*.py") if path.name != "kinds.py"]
    sources += (Path(__file__).parent / "situations").glob("*.json")
    everything = "\n".join(path.read_text() for path in sources)
    for kind in KINDS.values():
        for word in kind.words:
            is_signal = word.startswith("SIG") or word.isdigit()
            assert is_signal or word in everything, word


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("OOMKilled", ["oom-killed: cause that why names", "more memory: --memory"]),
        ("6", ["6: exit code", "a gate could not decide"]),
        ("121", ["121: exit code of a pod"]),
        ("126", ["exec, shell", "not-executable"]),
        ("$KIJ_RUN_DIR", ["KIJ_RUN_DIR: variable in the pods", "scripts"]),
        ("--restart", ["restart: field", "never, gang, elastic", "KIJ_RESTART"]),
        ("KIJ_NODES", ["--nodes N|MIN:MAX", "whole number from 1"]),
        ("--param", ["--param: option", "of    sweep"]),
        ("env", ["every rank", "every item"]),
        ("image-pull-policy", ["means nothing", "Always, IfNotPresent, Never"]),
    ],
)
def test_a_word_is_explained(
    capsys: pytest.CaptureFixture[str], word: str, said: list[str]
) -> None:
    code, out, err = _explain(capsys, word)
    assert (code, err) == (0, "")
    for text in said:
        assert text in out


@pytest.mark.parametrize(
    ("typo", "meant"), [("nods", "nodes"), ("OOMkiled", "oom-killed"), ("memry", "memory")]
)
def test_a_typo_is_answered_with_the_nearest_names(
    capsys: pytest.CaptureFixture[str], typo: str, meant: str
) -> None:
    code, out, err = _explain(capsys, typo)
    assert (code, out) == (2, "")
    assert f"  kij-train explain {meant}\n" in err
    assert "all that is: kij-train explain\n" in err


@pytest.mark.parametrize("word", ["", "   ", "--", "\x1b[31m", "no such thing at all"])
def test_what_is_not_known_has_an_error_that_says_where_to_look(
    word: str, known: list[Topic]
) -> None:
    with pytest.raises(RequestError) as raised:
        find(word, known)
    assert raised.value.hints[-1] == "all that is: kij-train explain"


def test_without_a_word_everything_is_listed(
    capsys: pytest.CaptureFixture[str], known: list[Topic]
) -> None:
    code, out, _ = _explain(capsys)
    assert code == 0
    lines = {line.split()[0] for line in out.splitlines() if line}
    assert {topic.name for topic in known} <= lines
    for about in About:
        assert about.value.upper() in out


def test_json_has_the_same(capsys: pytest.CaptureFixture[str], known: list[Topic]) -> None:
    code, out, _ = _explain(capsys, "nodes", "-o", "json")
    assert code == 0
    first = json.loads(out)[0]
    assert first["name"] == "nodes"
    assert first["flag"] == "--nodes N|MIN:MAX"
    code, out, _ = _explain(capsys, "-o", "json")
    assert len(json.loads(out)) == len(known)


def test_hints_in_an_explanation_hold_no_marks(known: list[Topic]) -> None:
    assert not [topic for topic in known if "\x02" in str(topic)]
    tries = [value for topic in known for label, value in topic.facts if label == "try"]
    assert "find the rank that did not come: kij-train logs NAME --all --tail 20" in tries


def test_every_module_of_the_reference_can_be_imported_alone() -> None:
    package = importlib.import_module("kij_train.reference")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"kij_train.reference.{module.name}")
