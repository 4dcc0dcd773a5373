"""The picture of the live view in the README, taken of a real job on the test cluster.

make cluster
python -m tests.cluster exec -- python -m tests.picture
"""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

from kij_train import runs
from kij_train.cli.app import app
from kij_train.cli.options import flags_layer
from kij_train.cli.view import table
from kij_train.cluster import LogLine, Observation
from kij_train.specfile import resolve
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME, TerminalTheme
from rich.text import Text

from tests.cluster.paths import StatePaths
from tests.cluster.state import State
from tests.kube import ROOT, namespace

FILE = ROOT / "docs/live-view.svg"
STEPS = 6
"""Log lines of training to wait for."""
WIDTH = 80


def main() -> None:
    """Launch, wait for some steps, draw what a terminal shows at that moment."""
    state = State.of_running(StatePaths.of_this_clone())
    assert state is not None, "first: make cluster"
    words = ["--name", "char-gpt", "--nodes", "4", "--image", state.images["torch"]]
    words += ["char_gpt_ddp.py", "--steps", "200", "--width", "32", "--layers", "1"]
    command = app.get_command(None, "launch")  # type: ignore[arg-type] # needs no context
    assert command is not None
    params = command.make_context("launch", list(words)).params
    folder = ROOT / "train_examples"
    resolved = resolve(flags_layer(params), environ={}, cwd=folder)
    plan = runs.plan(resolved, cwd=folder, place=runs.OnCluster())
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    with namespace(state.kubeconfig) as ns:
        from kij_train.cluster import Cluster

        cluster = Cluster.connect(kubeconfig=ns.kubeconfig, context=None, namespace=ns.name)
        run = runs.OnCluster(cluster).start(plan)
        with Observation(cluster, run.name, log_indexes={0}) as observed:
            steps, began = 0, time.monotonic()
            for event in observed.events():
                if isinstance(event, LogLine) and not event.text.startswith("[W"):
                    console.print(Text(event.text), soft_wrap=True)
                    steps += event.text.startswith("step")
                if steps == STEPS:
                    break
            console.print(table(run.name, observed.nodes, time.monotonic() - began, width=WIDTH))
        run.delete()
    FILE.write_text(drawn(console, "kij-train launch --nodes 4 char_gpt_ddp.py"))
    print(Path(FILE).relative_to(ROOT))


def drawn(console: Console, title: str) -> str:
    """What a console has recorded, as SVG: light, or dark where the reader's screen is."""

    def of(theme: TerminalTheme) -> str:
        return console.export_svg(title=title, theme=theme, clear=False, unique_id="kij")

    light, dark = of(DEFAULT_TERMINAL_THEME), of(SVG_EXPORT_THEME)
    rules = re.findall(r"\.kij-r\d+ \{[^}]*\}", dark)
    for what, selector in (("rect", "svg > rect"), ('text class="kij-title"', ".kij-title")):
        fill = re.search(rf'<{what} fill="([^"]+)"', dark)
        assert fill is not None
        rules.append(f"{selector} {{ fill: {fill[1]} }}")
    both = f"@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}\n    </style>"
    # Without rich's web font: a picture must not load anything.
    light = re.sub(r"@font-face \{.*?\}\s*", "", light, flags=re.DOTALL)
    return light.replace("</style>", both, 1)


if __name__ == "__main__":
    main()
