"""The scripts, and what is done to each: `Case` is a row of the table, or a few."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class Case:
    """A script with arguments, and what happens to it."""

    name: str
    script: str
    argv: tuple[str, ...] = ()
    """`{out}` is a folder that all ranks share."""
    max_restarts: int = 0
    stop: signal.Signals | None = None
    """What the launcher gets once all ranks wait for it."""
    in_pods: bool = True
    exit_codes: Mapping[str, int] = field(default_factory=dict)
    """By way, where ours is meant to differ: torchrun exits with 1 when a signal ends it."""


TRAINER = (
    "--output_dir {out}/hf --use_cpu true --max_steps 4 --logging_steps 2 --save_steps 2 "
    "--report_to none --per_device_train_batch_size 2 --dataloader_num_workers 1"
)
CHDIR = ("hydra.job.chdir=true", "hydra.run.dir={out}/run")
PLAIN = "plain_gpt.py"
OUT = ("--out", "{out}")

ENDS_WELL = Case("plain torch", PLAIN, (*OUT, "--spawn"))
OTHERS = (
    Case("plain torch, a rank raises", PLAIN, (*OUT, "--fail", "raise")),
    Case("plain torch, sys.exit(3)", PLAIN, (*OUT, "--fail", "exit")),
    Case('plain torch, sys.exit("words")', PLAIN, (*OUT, "--fail", "words")),
    Case("plain torch, SIGSEGV", PLAIN, (*OUT, "--fail", "crash")),
    Case("plain torch, fails once, resumes", PLAIN, (*OUT, "--fail-once"), max_restarts=1),
    Case(
        "plain torch, Ctrl-C",
        PLAIN,
        (*OUT, "--wait"),
        stop=signal.SIGINT,
        exit_codes={"local": 130, "local gang": 130},
        in_pods=False,
    ),
    Case(
        "plain torch, SIGTERM",
        PLAIN,
        (*OUT, "--wait"),
        stop=signal.SIGTERM,
        exit_codes={"local": 143, "local gang": 143},
    ),
    Case("Hydra, chdir", "hydra_app.py", CHDIR),
    Case("Hydra, chdir, a rank raises", "hydra_app.py", (*CHDIR, "fail=true")),
    Case("Lightning", "lightning_fit.py", OUT),
    Case("Hugging Face Trainer", "hf_trainer.py", tuple(TRAINER.split())),
    Case("accelerate", "accelerate_loop.py", OUT),
)
