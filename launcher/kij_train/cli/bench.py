"""kij-train bench"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kij_train import extras, runs
from kij_train.bench import files, gates, plots, scaling, sweep
from kij_train.bench.rows import Document, size_text
from kij_train.cli import completers, grouped, output
from kij_train.cli.attach import sigterm_as_interrupt
from kij_train.cli.options import (
    flags_layer,
    spec_options,
    warn_about,
    warn_of_doubts,
)
from kij_train.cli.submitting import signals_to
from kij_train.errors import KijError, RequestError
from kij_train.pod.collectives import table
from kij_train.pod.collectives.arguments import message_sizes, parse_args
from kij_train.spec import JobSpec
from kij_train.spec.settings import Fact
from kij_train.specfile import Layer, Resolved, resolve

if TYPE_CHECKING:
    from kij_train.cluster import LogLine

COMMANDS = {name.replace("_", ""): name for name in table.COLLECTIVES}
PASSED_ON = (
    (("-b", "--minbytes"), "SIZE", "Smallest message; 32M, or -e."),
    (("-e", "--maxbytes"), "SIZE", "Largest message; 32M, or -b."),
    (("-f", "--stepfactor"), "N", "Factor from size to size; 2."),
    (("-i", "--stepbytes"), "SIZE", "Or bytes from size to size."),
    (("-n", "--iters"), "N", "Timed calls a size; 20."),
    (("-w", "--warmup_iters"), "N", "Calls before them; 1."),
    (("-d", "--datatype"), "TYPE", f"{', '.join(table.DTYPES)}; float."),
    (("-o", "--op"), "OP", f"{', '.join(table.REDOPS)}; sum."),
    (("-c", "--check"), "0|1", "Check the results; 1."),
    (("-z", "--blocking"), "0|1", "Wait for every call; 0."),
    (("--min-bw",), "GBPS", "Fail when the mean busbw of a run is under 0.9 of this."),
    (("--backend",), "gloo|nccl", "nccl with --gpus, else gloo."),
)
"""Flags of nccl-tests that go to the payload as they are."""


@click.group("bench")
def command() -> None:
    """Measure collectives wherever training runs, as nccl-tests does.

    \b
      kij-train bench allreduce --local --nodes 2 -b 1K -e 16M -f 4
      kij-train bench allreduce --nodes 1,2,4 --gpus 8 -b 1M -e 8G -f 2 --json new.json
      kij-train bench compare old.json new.json --tolerance 10%
    """


def _run(
    collective: str,
    *,
    nodes: str | None,
    is_local: bool,
    parallel: bool,
    json_file: str | None,
    resume: bool,
    plot: str | None,
    min_busbw: tuple[str, ...],
    **params: Any,
) -> None:
    limits = [gates.parse_gate(text) for text in min_busbw]
    arguments, args = _payload_arguments(collective, params)
    _check_gates(limits, args)
    if parallel and is_local:
        raise RequestError(
            "--parallel does not go with --local: the runs would share this machine",
            hints=("one after the other: leave --parallel out",),
        )
    if resume and json_file is None:
        raise RequestError("--resume needs the file: --json FILE")
    if plot is not None:
        extras.require("matplotlib", "plots")
    where = _on_machine() if is_local else _on_cluster(parallel)
    spec = where.backend.with_ranks(_resolve(params, Layer({})))
    counts = [spec.nodes] if nodes is None else _node_counts(nodes)
    _check_ranks(spec, max(counts), args, limits)
    arguments += ["--device", "cuda" if spec.gpus else "cpu"]
    settings = {
        "arguments": arguments,
        "ranks_per_node": spec.ranks_per_node,
        "gpus": spec.gpus,
        **where.backend.recorded(spec),
        "profile": params["profile"],
    }
    with ExitStack() as stack:
        folder = stack.enter_context(sweep.shipped_payload())

        def plan_for(count: int) -> runs.Plan:
            name = f"{spec.name}-n{count}" if spec.name else None
            fixed = sweep.command_layer(folder, arguments, count, name)
            resolved = _resolve(params, fixed)
            return runs.plan(resolved, cwd=folder, place=where.backend, random_name=True)

        def save(done: Document) -> None:
            if json_file is not None:
                files.write(Path(json_file), done)

        # A wrong request is refused before anything runs, or a file is written.
        largest = plan_for(max(counts))
        document = files.start(json_file, resume, settings, warn=output.warning)
        sinks = sweep.Sinks(output.workload, output.status, where.follow, save)
        warn_of_doubts(where.backend, largest.spec)
        stack.enter_context(where.signals)
        errors = where.sweep(document, counts, plan_for, backend=where.backend, sinks=sinks)
    _report(document, json_file, plot)
    if errors:
        _fail(errors, json_file if document["runs"] else None)
    problems = gates.below(document, limits) + _under_mean(document)
    if problems:
        output.verdict("\n".join(problems))
        raise click.exceptions.Exit(1)


@dataclass(frozen=True)
class _Where:
    """Where a benchmark runs, and how it is shown there."""

    backend: runs.Backend
    follow: sweep.Follow
    signals: AbstractContextManager[None]
    """The benchmark runs inside this context, so that signals end it."""
    sweep: Callable[..., list[KijError]] = sweep.sweep


def _on_machine() -> _Where:
    from kij_train import local

    def follow(run: runs.LocalRun, take: Callable[[str], bool]) -> float:
        def on_line(line: runs.Line) -> None:
            if line.is_error:
                output.status(f"node {line.index} | {line.text}")
            elif not take(line.text):
                output.workload(line.text)

        return run.follow(on_line)

    stop = local.Stop()
    return _Where(runs.OnMachine(stop=stop, merged=False), follow, signals_to(stop, "nodes"))


def _on_cluster(parallel: bool) -> _Where:
    if parallel:
        sweeps = sweep.sweep_at_once
        return _Where(runs.OnCluster(), _follow_beside, sigterm_as_interrupt(), sweeps)
    return _Where(runs.OnCluster(), _follow, sigterm_as_interrupt())


def _follow(run: runs.ClusterRun, take: Callable[[str], bool]) -> float:
    """Show the job as `launch` does, without the lines that belong to the report."""
    from kij_train.cli.view import view

    with view(run.name) as shown:

        def on_line(line: LogLine) -> None:
            if not take(line.text):
                shown.line(line)

        return run.follow(on_line=on_line, on_change=shown.change, on_note=shown.note)


def _follow_beside(run: runs.ClusterRun, take: Callable[[str], bool]) -> float:
    """Show one of several jobs, a line for each change: only one live table fits on a terminal."""
    from kij_train.cli.view import PlainView

    shown = PlainView(run.name)

    def on_line(line: LogLine) -> None:
        take(line.text)

    def on_note(text: str) -> None:
        shown.note(f"{run.name}  {text}")

    return run.follow(on_line=on_line, on_change=shown.change, on_note=on_note)


def _payload_arguments(collective: str, params: dict[str, Any]) -> tuple[list[str], Any]:
    """The arguments of the script that measures, and the same as its own parser reads them."""
    arguments = ["--collective", collective]
    for flags, _, _ in PASSED_ON:
        given = params.pop(_parameter(flags))
        if given is not None:
            arguments += [flags[0], given]
    try:
        return arguments, parse_args(arguments)
    except ValueError as error:
        raise RequestError(str(error)) from None


def _check_gates(limits: list[tuple[int, float]], args: Any) -> None:
    sizes = message_sizes(args.minbytes, args.maxbytes, args.stepbytes, args.stepfactor)
    for asked, _ in limits:
        if asked not in sizes:
            shown = ", ".join(size_text(size) for size in sizes[:12])
            raise RequestError(
                f"--min-busbw: {size_text(asked)} is not among the sizes",
                hints=(f"sizes: {shown}{', …' if len(sizes) > 12 else ''}",),
            )


def _check_ranks(
    spec: JobSpec, most_nodes: int, args: Any, limits: list[tuple[int, float]]
) -> None:
    """Refuse flags that do not fit the number of ranks, or the device that the ranks use."""
    if limits and most_nodes * spec.ranks_per_node == 1:
        raise RequestError(
            "--min-busbw judges nothing here: one rank alone has no busbw",
            hints=("give it a peer: --nodes 2, or --nproc-per-node 2",),
        )
    if args.backend == "nccl" and not spec.gpus:
        raise RequestError(
            "--backend nccl needs GPUs, and none are asked for",
            hints=("ask for them: --gpus N; on CPUs: --backend gloo",),
        )


def _node_counts(text: str) -> list[int]:
    counts = []
    for part in text.split(","):
        # int() takes 4,300 digits at most; the spec says how many nodes there may be.
        if not (part.isascii() and part.isdigit() and len(part) < 10 and int(part)):
            raise RequestError(f"--nodes {text}: must look like 4 or 1,2,4,8")
        counts.append(int(part))
    return sorted(set(counts))


def _resolve(params: dict[str, Any], fixed: Layer) -> Resolved:
    """The spec as the user gave it, with the values on top that the benchmark sets itself."""
    absent: dict[str, Any] = {
        "script": None,
        "args": (),
        "as_module": False,
        "as_program": False,
    }
    layer = flags_layer({**params, **absent})
    layer.values |= fixed.values
    layer.origins |= fixed.origins
    resolved = resolve(
        layer,
        environ=os.environ,
        cwd=Path.cwd(),
        spec_file=params["spec_file"],
        profile=params["profile"],
    )
    if not fixed.values:
        warn_about(resolved)
    return resolved


def _report(document: Document, json_file: str | None, plot: str | None) -> None:
    if not document["runs"]:
        return
    output.data("")
    output.table(*scaling.summary_table(scaling.summarize(document)))
    written = [json_file] if json_file else []
    if plot is None and json_file is not None:
        plot = str(Path(json_file).with_suffix(""))
        if not extras.has("matplotlib"):
            output.status(f"no plot: matplotlib is missing: {extras.pip_line('matplotlib')}")
            plot = None
    if plot is not None:
        base = Path(plot)
        base = base.with_suffix("") if base.suffix in (".png", ".svg") else base
        written += [str(path) for path in plots.plot(document, base)]
    if written:
        output.status(f"wrote {', '.join(written)}")


def _fail(errors: list[KijError], json_file: str | None) -> None:
    """Report errors, and exit. `json_file` has the results that were measured before them."""
    for error in errors:
        output.verdict(error.message, error.hints)
    if json_file is not None:
        output.status(f"  go on with the rest: the same command with --resume ({json_file})")
    raise click.exceptions.Exit(errors[0].exit_code)


def _under_mean(document: Document) -> list[str]:
    """Runs whose mean busbw is under --min-bw."""
    return [
        f"{run['nodes']} nodes: mean busbw "
        f"{run['report']['average_bus_bandwidth']['bandwidth']:.3g} GB/s is under 0.9 of --min-bw"
        for run in document["runs"]
        if run["report"]["average_bus_bandwidth"]["okay"] == "false"
    ]


@command.command("compare")
@click.argument("old")
@click.argument("new")
@click.option("--tolerance", metavar="PERCENT", default="10%", help="How much may be lost; 10%.")
def compare(old: str, new: str, tolerance: str) -> None:
    """Say which bandwidths in NEW are better or worse than in OLD; exit 1 when one is worse.

    Rows that are missing and results that are wrong count as worse.
    """
    allowed = gates.parse_tolerance(tolerance)
    newer = files.read(new)
    rows = gates.compare(files.read(old), newer, allowed)
    output.table(
        ("row", "old", "new", "ratio", ""),
        (
            (
                one.old.what,
                f"{one.old.algbw:.3g} GB/s",
                f"{one.new.algbw:.3g} GB/s" if one.new else "-",
                f"{one.ratio:.2f}" if one.new else "-",
                "" if one.change == "same" else one.change,
            )
            for one in rows
        ),
    )
    wrong = gates.wrong_rows(newer)
    problems = [one.problem for one in rows if one.problem is not None] + wrong
    found = Counter(one.change for one in rows)
    counts = {
        f"worse by more than {tolerance}": found["worse"],
        "missing": found["missing"],
        "with wrong results": len(wrong),
        f"better by more than {tolerance}": found["better"],
        f"within {tolerance}": found["same"],
    }
    summary = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    if problems:
        output.verdict("\n".join([*problems, f"of {len(rows)} rows: {summary}"]))
        raise click.exceptions.Exit(1)
    output.status(f"of {len(rows)} rows: {summary}")


def _parameter(flags: tuple[str, ...]) -> str:
    return flags[-1].lstrip("-").replace("-", "_")


def _spec_options() -> Iterator[click.Option]:
    """Flags of the spec in their long form: short flags mean here what they mean in nccl-tests."""
    for one in spec_options():
        if Fact.NOT_IN_BENCH not in one.setting.facts:
            long = tuple(flag for flag in one.flags if flag.startswith("--"))
            yield replace(one, flags=long).option


def _collective_command(name: str, collective: str) -> click.Command:
    def callback(**params: Any) -> None:
        _run(collective, **params)

    option = click.Option
    return grouped.Command(
        name,
        callback=callback,
        help=f"Measure {collective} over message sizes and numbers of nodes.",
        short_help=f"Measure {collective}.",
        params=[
            option(["--nodes"], metavar="N[,N...]", help="Numbers of nodes, one job each."),
            option(["--local", "is_local"], is_flag=True, help="As processes of this machine."),
            option(
                ["--parallel"],
                is_flag=True,
                help="All jobs at once; they share what network they have in common.",
            ),
            *(
                option([*flags, _parameter(flags)], metavar=metavar, help=text)
                for flags, metavar, text in PASSED_ON
            ),
            option(
                ["--json", "-J", "json_file"], metavar="FILE", help="Report; plots go beside it."
            ),
            option(["--resume"], is_flag=True, help="Keep what the --json file has already."),
            option(["--plot"], metavar="FILE", help="Plots, as FILE.png and FILE.svg."),
            option(
                ["--min-busbw"],
                metavar="SIZE:GBPS",
                multiple=True,
                help="Exit 1 when busbw at this size is less. Repeatable.",
            ),
            option(["--file", "spec_file"], metavar="FILE", help="Spec file (YAML)."),
            option(
                ["--profile"],
                metavar="NAME|FILE",
                help="Named settings of a fabric.",
                shell_complete=completers.profiles,
            ),
            *_spec_options(),
        ],
    )


for _name, _collective in COMMANDS.items():
    command.add_command(_collective_command(_name, _collective))
