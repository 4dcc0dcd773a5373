"""Before a launch: whether what is to be run can be, as far as its file tells.

Python runs files of source, compiled files, and folders and zip archives with a __main__.py; the
kernel runs programs. What neither would run is refused, with what to write instead.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import shlex
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from kij_train import foreign
from kij_train.errors import RequestError
from kij_train.pod import programs
from kij_train.spec import Common, JobSpec
from kij_train.specfile import Resolved
from kij_train.specfile.explain import brief
from kij_train.specfile.paths import check_path, tilde

SHELL_ENDINGS = (".sh", ".bash", ".zsh", ".ksh", ".csh", ".fish")
SPEC_ENDINGS = (".yaml", ".yml")
MAIN = "__main__.py"
MOST_PARSED = 1 << 20
_POLYGLOT = b"'''exec' "
"""Second line of a script that is both sh and Python, as installers write them."""


def locate(resolved: Resolved[Common], cwd: Path, code_dir: Path, *, is_here: bool) -> str | None:
    """The script as a path relative to the code folder; None where a module or program is run.

    `is_here`: it runs on this machine, with its files and its Python; else in an image. Raises
    RequestError for what is not there or cannot be run.
    """
    spec = resolved.spec
    if spec.code:
        check_path(code_dir, f"{resolved.origin(('code_dir',))} {brief(code_dir)}")
    if spec.module is not None or spec.program is not None:
        _check_without_script(resolved, cwd, code_dir, is_here)
        return None
    if spec.called is not None:
        _check_function(resolved, spec.called, code_dir if spec.code else cwd)
        return None
    if spec.script is None:
        file = f"{resolved.spec_file}: " if resolved.spec_file else ""
        raise RequestError(
            f"{file}nothing to run: name a script, or -m MODULE, or --no-python PROGRAM",
            hints=(shlex.join(["kij-train", *resolved.typed, "train.py"]),),
        )
    from_here = resolved.in_command(("script",))
    named = f"script {brief(spec.script)}"
    if not from_here:
        named = f"{resolved.origin(('script',))}: {named}"
    places = [cwd / spec.script] if from_here or not spec.code else []
    places += [code_dir / spec.script] if spec.code else []
    for place in places:
        check_path(place, named)
    found = [place for place in places if _can_be_script(place)]
    # One that is there, as installed: /usr/bin/python3.
    if not found or PurePosixPath(spec.script).parent.name == "bin":
        _refuse_launcher(resolved, spec.script)
    if not spec.code and not is_here:  # the image has it
        check_script(None, spec.script, named, resolved)
        return spec.script
    if not found and not (spec.code and not code_dir.is_dir()):
        raise _not_there(named, places[0], cwd, spec.script)
    if not spec.code:
        check_script(found[0], spec.script, named, resolved)
        return spec.script
    return _inside(found, named, code_dir, resolved, is_here)


def _check_without_script(
    resolved: Resolved[Common], cwd: Path, code_dir: Path, is_here: bool
) -> None:
    spec = resolved.spec
    if spec.module is not None:
        _refuse_launcher(resolved, "-m", spec.module)
        if spec.code or is_here:
            _check_module(resolved, spec.module, code_dir if spec.code else cwd)
    if spec.program is not None and spec.code:
        _check_shell_script(spec, code_dir)
        if not is_here:
            _check_program_of_code(spec.program, code_dir)


def _check_function(resolved: Resolved[Common], function: str, folder: Path) -> None:
    """The code has the module, or the image does: no more is known of it here."""
    module, _, path = function.partition(":")
    named = f"{resolved.origin(('function',))} {function}"
    first = module.partition(".")[0]
    file = folder / (module.replace(".", "/") + ".py")
    if not file.is_file():
        file = file.with_suffix("") / "__init__.py"
    is_of_code = (folder / first).is_dir() or (folder / f"{first}.py").is_file()
    if is_of_code and not file.is_file():
        raise RequestError(f"{named}: there is no module {module} in {folder}")
    if is_of_code:
        names = _names_in(file)
        wanted = path.partition(".")[0]
        if names is not None and wanted not in names:
            near = difflib.get_close_matches(wanted, names, n=1)
            raise RequestError(
                f"{named}: {file} has no {wanted}",
                hints=(f"did you mean {module}:{near[0]}?",) if near else (),
            )


_MAKES_NAMES = {"globals", "exec", "eval", "setattr", "vars"}
"""With one of these in it, a module may have names that its text does not tell."""


def _names_in(file: Path) -> set[str] | None:
    """The names that a module has once it is imported; None where its text does not tell."""
    with file.open("rb") as opened:
        text = opened.read(MOST_PARSED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # of another Python than this, maybe: that of the image will tell
    if any(isinstance(node, ast.Name) and node.id in _MAKES_NAMES for node in ast.walk(tree)):
        return None
    names = set(_bound(tree))
    return None if names & {"*", "__getattr__"} else names


def _bound(tree: ast.AST) -> Iterator[str]:
    """What the text of a module binds, but for what is within functions and classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
            yield from (
                name for one in ast.walk(node) if isinstance(one, ast.Global) for name in one.names
            )
            continue
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        yield from _bound(node)


def _inside(
    found: Sequence[Path], named: str, code_dir: Path, resolved: Resolved[Common], is_here: bool
) -> str:
    if not code_dir.is_dir():
        raise RequestError(
            f"{resolved.origin(('code_dir',))}: {brief(resolved.spec.code_dir)}: no such folder",
            hints=tilde(resolved.spec.code_dir),
        )
    inside = code_dir.resolve()
    for place in found:
        # Not through links: what they point to may lie elsewhere, and bundle speaks of that.
        absolute = place.resolve() if place.is_dir() else place.parent.resolve() / place.name
        if absolute.is_relative_to(inside):
            relative = absolute.relative_to(inside).as_posix()
            check_script(place, relative, named, resolved)
            if is_compiled(place) and is_here:
                _check_compiled(place, named)
            return relative
    raise RequestError(
        f"{named} is outside of the code folder {inside}, which is what the pods get",
        hints=(f"ship its folder instead: --code-dir {found[0].parent}",),
    )


def _check_module(resolved: Resolved[Common], module: str, folder: Path) -> None:
    """`-m train.py`, where Python says "Try using 'train'"."""
    name = module.removesuffix(".py")
    path = name.replace(".", "/") + ".py"
    if name == module or not (folder / path).is_file() or (folder / path[:-3] / "py.py").exists():
        return

    def command(*words: str) -> str:
        return shlex.join(["kij-train", *resolved.typed, *words, *resolved.spec.args])

    raise RequestError(
        f"-m {module} is a file, and a module is named without .py",
        hints=(command("-m", name), f"or as a script: {command(path)}"),
    )


def _not_there(named: str, place: Path, cwd: Path, script: str) -> RequestError:
    where = "" if place.parent == cwd else f" in {brief(place.parent)}"
    what = f"no such file{where}"
    if place.is_dir():
        what = f"is a folder without {MAIN}"
    elif place.exists():
        what = "is no regular file, which a script must be"
    hints = tilde(script) or ("run a module with -m, a program with --no-python",)
    return RequestError(f"{named}: {what}", hints=hints)


def _refuse_launcher(resolved: Resolved[Common], *words: str) -> None:
    command = launcher_of(resolved.spec)
    if command is not None:
        raise refusal_of_launcher(command, [*words, *resolved.spec.args], resolved.typed)


def _check_program_of_code(program: str, code_dir: Path) -> None:
    """Those of an image are not here, and of this machine `local` asks."""
    if "/" not in program or program.startswith("/"):
        return
    named = f"program {program}"
    if not (code_dir / program).is_file():
        raise RequestError(
            f"{named}: no such file in {code_dir}, which is what the pods get",
            hints=tilde(program) or ("one of the image: its absolute path, or its name alone",),
        )
    check_program(code_dir / program, named, is_here=False)


def _check_shell_script(spec: Common, code_dir: Path) -> None:
    """`bash run.sh`: bash takes the ends of Windows' lines for a part of its commands."""
    if PurePosixPath(spec.program or "").name not in foreign.SHELLS or not spec.args:
        return
    path = code_dir / spec.args[0]
    check_path(path, f"the argument {brief(spec.args[0])}")
    if not spec.args[0].startswith("-") and path.is_file():
        with path.open("rb") as file:
            if file.readline(MOST_PARSED).endswith(b"\r\n"):
                raise RequestError(
                    f"{spec.args[0]}: its lines end as on Windows, which {spec.program} takes for "
                    "a part of its commands",
                    hints=(_unix_lines(path),),
                )


def _unix_lines(path: Path) -> str:
    return f"end its lines as on Unix: perl -pi -e 's/\\r$//' {shlex.quote(str(path))}"


def _can_be_script(path: Path) -> bool:
    """Whether a path is there that Python takes: a file, or a folder with a __main__.py."""
    return path.is_file() or (path / MAIN).is_file()


def check_script(path: Path | None, script: str, named: str, resolved: Resolved[Common]) -> None:
    """Raise RequestError where Python does not run what a script's name, or its file, tells.

    `path` is None where the file is not here; `script` is what a command would call it.
    """
    written = PurePosixPath(script)

    def command(*words: str) -> str:
        return shlex.join(["kij-train", *resolved.typed, *words, *resolved.spec.args])

    if written.suffix == ".ipynb":
        raise RequestError(
            f"{named} is a notebook, which Python does not run",
            hints=(
                f"make a script of it: jupyter nbconvert --to script {shlex.quote(script)}",
                command(str(written.with_suffix(".py"))),
            ),
        )
    if written.suffix in SPEC_ENDINGS:
        raise RequestError(
            f"{named} is no Python. A spec file is given with -f", hints=(command("-f", script),)
        )
    reason, program = "", ["--no-python", script if "/" in script else f"./{script}"]
    if path is not None and path.is_file():
        reason = _why_no_python(path)
        if reason and not _may_run(path):
            program = ["--no-python", "bash", script]
    elif path is None and written.suffix in SHELL_ENDINGS:
        reason = "it is a script of a shell"
    if reason:
        raise RequestError(
            f"{named} is no Python: {reason}",
            hints=_that_fit(
                resolved.typed,
                f"a program, once a rank: {command(*program)}",
                f"once a node, where it starts the ranks: {command('--no-torchrun', *program)}",
            ),
        )


def _may_run(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o111)


def _why_no_python(path: Path) -> str:
    """What tells that a file is not Python; "" where nothing does."""
    with path.open("rb") as file:
        head = file.read(MOST_PARSED)
    if is_compiled(path):
        return ""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            is_app = MAIN in archive.namelist()
        return "" if is_app else f"it is an archive without {MAIN}"
    if b"\0" in head[:1024]:
        return "it holds no text"
    if path.suffix in (".py", ".pyw"):
        return ""  # by another Python than this, maybe: that of the image will tell
    first, _, rest = head.partition(b"\n")
    if first.startswith(b"#!") and b"py" not in first and not rest.startswith(_POLYGLOT):
        return f"its first line is {first.decode('utf-8', 'replace').strip()}"
    if path.suffix in SHELL_ENDINGS:
        return "it is a script of a shell"
    if len(head) < MOST_PARSED:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(head)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            return f"line {line}: {getattr(error, 'msg', error)}" if line else str(error)
    return ""


def is_compiled(path: Path) -> bool:
    """Whether a file is what Python makes of a module: `train.pyc`."""
    return path.suffix == ".pyc" and path.is_file()


def _check_compiled(path: Path, named: str) -> None:
    """Raise RequestError where another version of Python has compiled a file than runs here."""
    with path.open("rb") as file:
        if file.read(4) != importlib.util.MAGIC_NUMBER:
            raise RequestError(
                f"{named} was compiled by another version of Python than this one",
                hints=("give the source, or compile it again: python -m compileall -b FOLDER",),
            )


def check_program(path: Path, named: str, *, is_here: bool) -> None:
    """Raise RequestError where a program that is there cannot be run.

    `is_here`: on this machine, so that its interpreter is looked for too.
    """
    quoted = shlex.quote(str(path))
    if not _may_run(path):
        raise RequestError(f"{named}: may not be run", hints=(f"chmod +x {quoted}",))
    fault = programs.fault_of_program(str(path), is_here)
    if not fault:
        return
    hints = ("name its interpreter: --no-python bash " + quoted,)
    if "Windows" in fault:
        hints = (_unix_lines(path),)
    elif "first line asks" in fault:
        hints = ("install that, or name another one there",)
    elif "byte order mark" in fault:
        hints = (f"remove it: perl -pi -e 's/^\\xEF\\xBB\\xBF//' {quoted}",)
    raise RequestError(f"{named} cannot be run: {fault}", hints=hints)


def launcher_of(spec: Common) -> foreign.Command | None:
    """What to write instead, where the command of a spec is another launcher's."""
    if spec.module is not None:
        starts_ranks = isinstance(spec, JobSpec) and not spec.torchrun
        return None if starts_ranks else foreign.of_module(spec.module, spec.args)
    return foreign.translated([spec.script, *spec.args]) if spec.script is not None else None


def refusal_of_launcher(
    command: foreign.Command, words: Sequence[str], typed: Sequence[str]
) -> RequestError:
    """kij-train is asked to run another launcher, or python itself: what to write instead."""
    name = " ".join(words[: 2 if words[0] == "-m" else 1])
    if not command.words:
        hint = shlex.join(["kij-train", *typed, "train.py"])
        return RequestError(f"{name} is no script, and none is named behind it", hints=(hint,))
    flags: list[str] = []
    for flag, value in zip(command.flags[::2], command.flags[1::2], strict=True):
        if flag == "--env" or not any(word.partition("=")[0] == flag for word in typed):
            flags += [flag, value]
    hints = [shlex.join(["kij-train", *typed, *flags, *command.words])]
    if "--nproc-per-node" in flags and "--local" not in typed:
        count = flags[flags.index("--nproc-per-node") + 1]
        hints.append(f"on GPUs: --gpus {count if count.isdigit() else 'N'} in its place")
    if command.refused:
        hints.append(f"no number: {' '.join(command.refused)}")
    if command.left_out:
        hints.append(f"without a counterpart: {' '.join(command.left_out)}")
    if command.starts_ranks:
        kept = [*words] if words[0] == "-m" else ["--no-python", *words]
        as_it_is = shlex.join(["kij-train", *typed, "--no-torchrun", *kept])
        hints.append(f"or as it is, once a node: {as_it_is}")
        instead = "Leave it out: kij-train starts the ranks itself"
    elif command.words[0] == "--no-python":
        once = shlex.join(["kij-train", *typed, "--no-torchrun", *command.words])
        hints.append(f"once a node, where it starts the ranks: {once}")
        instead = "A program is run, once a rank, with --no-python"
    else:
        instead = "Leave it out: kij-train runs scripts with python"
    return RequestError(f"{name} is no script of Python. {instead}", hints=_that_fit(typed, *hints))


def _that_fit(typed: Sequence[str], *hints: str) -> tuple[str, ...]:
    """Hints for the command that was typed: items of an array have no ranks to start."""
    if typed[:1] != ("map",):
        return hints
    without_ranks = (hint.replace("once a rank", "once an item") for hint in hints)
    return tuple(hint for hint in without_ranks if "--no-torchrun" not in hint)
