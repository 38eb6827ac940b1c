"""The command line: parse, one library call, print.

Heavy libraries are imported inside commands, so that help and usage errors come at once.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import stability_probe
from stability_probe.errors import DivergedError, MissingError, UsageError, near
from stability_probe.exits import EXIT_CODES, Group, complain
from stability_probe.exits import explain as explain_error
from stability_probe.options import (
    CHARACTERIZATION,
    COMMON,
    CORPUS_IN,
    CORPUS_OUT,
    DATA_DIR,
    DRY_RUN,
    EVALUATION_PLOTS,
    EXECUTOR,
    EXPORT,
    FITTED_OUT,
    HORIZON,
    JOBS,
    KNOWN_ROWS,
    LIMITS,
    LOG,
    MODEL,
    PATTERN,
    PLOT,
    POLICY,
    RATE,
    REPORT_OUT,
    REPORTED,
    ROOT,
    RUN,
    RUN_IDS,
    RUNS,
    SCHEDULE,
    SCHEDULER_ARG,
    SCHEDULERS,
    SHELL,
    STORED,
    SWEEP,
    TRAINING,
    seeds_option,
)
from stability_probe.settings import make_config, make_limits

if TYPE_CHECKING:
    from stability_probe.records import Study
    from stability_probe.sweep import SweepRun


def print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"probe {stability_probe.__version__}")
        ctx.exit()


@click.group(cls=Group, epilog=EXIT_CODES)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version,
    help="Show the version and exit.",
)  # fmt: skip
def probe() -> None:
    """Will adaptive batch scheduling pay off for this architecture?

    Start with: probe characterize resnet50
    """


@probe.command(params=[MODEL, *TRAINING, seeds_option("0"), *LIMITS, ROOT, LOG, *COMMON])
def characterize(**options: Any) -> None:
    """Probe MODEL: will an adaptive batch pay off?

    Trains a short window of the full run and measures the device's throughput. MODEL is a
    timm name, torchvision:NAME or package.module:callable.
    """
    config, limits = make_config(options, predicts=True), make_limits(options)
    from predictor import predict, summary
    from stability_probe.probe import characterize
    from stability_probe.store import Store
    from stability_probe.terminal import print_result, watching

    store = Store(Path(options["output"]))
    with watching(options) as progress:
        c = characterize(config, seeds=options["seeds"], store=store, progress=progress)
        p = predict(c, limits=limits)
    path, failed = None, None
    try:
        path = store.save_characterization(c, p)
    except OSError as error:  # a disk that is full by now does not take the answer with it
        failed = error
    print_result(
        options["json"],
        lambda: summary.characterization_json(c, p, path),
        lambda: summary.characterization_table(c, p, store.root),
    )
    if failed is not None:
        raise failed
    if not options["quiet"] and not options["json"]:
        kept = shlex.quote(str(path))
        click.echo(f"kept; draw it with: probe plot {kept}", err=True)
        click.echo(f"other limits: probe predict {kept} --max-accuracy-loss 2", err=True)


@probe.command(params=[CHARACTERIZATION, *LIMITS, *COMMON])
def predict(**options: Any) -> None:
    """Predict again from what characterize stored.

    Nothing is measured. FILE.json may also be what characterize --json printed.
    """
    limits = make_limits(options)
    from predictor import predict, summary
    from stability_probe.store import (
        characterization_file,
        read_characterization,
        runs_beside,
    )
    from stability_probe.terminal import print_result

    path = characterization_file(Path(options["characterization"]))
    c, _ = read_characterization(path)
    p = predict(c, limits=limits)
    print_result(
        options["json"],
        lambda: summary.characterization_json(c, p, path),
        lambda: summary.characterization_table(c, p, runs_beside(path)),
    )


@probe.command(params=[MODEL, *TRAINING, *SCHEDULE, ROOT, LOG, *COMMON])
def run(**options: Any) -> None:
    """Train MODEL once, in full.

    A run that was interrupted goes on where it stopped.
    """
    config = make_config(options)
    from stability_probe import run_summary
    from stability_probe.run import run
    from stability_probe.store import Store
    from stability_probe.terminal import print_result, watching

    with watching(options) as progress:
        result = run(config, Store(Path(options["output"])), progress)
    print_result(
        options["json"], lambda: run_summary.run_json(result), lambda: run_summary.run_table(result)
    )
    if result.status == "diverged":
        raise DivergedError(len(result.epochs) + 1)


@probe.command(params=[MODEL, *TRAINING, seeds_option("0,1,2"), *LIMITS, ROOT, LOG, *COMMON])
def validate(**options: Any) -> None:
    """Check the prediction by full runs of MODEL.

    Trains fixed and adaptive runs, paired by seed. Exits 1 when the prediction failed.
    """
    config, limits = make_config(options, predicts=True), make_limits(options)
    from predictor import summary
    from predictor.validate import validate
    from stability_probe.store import Store
    from stability_probe.terminal import print_result, watching

    store = Store(Path(options["output"]))
    with watching(options) as progress:
        v = validate(config, seeds=options["seeds"], store=store, limits=limits, progress=progress)
    print_result(
        options["json"], lambda: summary.validation_json(v), lambda: summary.validation_table(v)
    )
    if summary.validation_failed(v):
        click.get_current_context().exit(1)


@probe.command(
    params=[MODEL, *TRAINING, seeds_option("0,1,2"), SCHEDULERS, *LIMITS, JOBS, ROOT, *COMMON]
)
def compare(**options: Any) -> None:
    """DEBA and its rivals on MODEL, in full runs.

    Schedules, larger fixed batches, decaying rates and DEBA's controls, paired by seed. Stored
    runs are not repeated.
    """
    config, limits = make_config(options), make_limits(options)
    from stability_probe.compare import compare
    from stability_probe.terminal import watching

    with watching(options) as progress:
        study = compare(
            config,
            seeds=options["seeds"],
            root=Path(options["output"]),
            schedulers=options["schedulers"],
            jobs=options["jobs"],
            limits=limits,
            progress=progress,
        )
    _show_study("comparison", study, options)


@probe.command(params=[MODEL, *TRAINING, seeds_option("0,1,2"), SCHEDULER_ARG, JOBS, ROOT, *COMMON])
def ablate(**options: Any) -> None:
    """What each part of DEBA is worth on MODEL, in full runs.

    Window, cooldown, thresholds and rate rule, changed one at a time. Stored runs are not
    repeated.
    """
    config = make_config(options)
    from stability_probe.ablate import ablate
    from stability_probe.terminal import watching

    with watching(options) as progress:
        study = ablate(
            config,
            seeds=options["seeds"],
            root=Path(options["output"]),
            jobs=options["jobs"],
            progress=progress,
        )
    _show_study("ablation", study, options)


def _show_study(kind: str, study: Study, options: dict[str, Any]) -> None:
    """Printed first: a disk that is full by now does not take the answer with it."""
    from stability_probe import plots, study_summary
    from stability_probe.store import Store
    from stability_probe.terminal import print_result

    print_result(
        options["json"],
        lambda: study_summary.study_json(study),
        lambda: study_summary.study_table(study),
    )
    path = Store(Path(options["output"])).save_study(kind, study)
    (figure,) = plots.write_study_plots(study, path.parent, name=path.stem)
    if not options["quiet"] and not options["json"]:
        click.echo(f"kept in {path}, drawn in {figure}", err=True)


@probe.command(params=[STORED, *PLOT, *COMMON])
def plot(**options: Any) -> None:
    """Draw a stored run, or what a file holds.

    The run is looked for in --runs, then in -o, and the fixed run beside it; a file may hold a
    characterization, a comparison or what validate --json printed.
    """
    from predictor.plots import write_plots
    from stability_probe.stored import load_drawable
    from stability_probe.terminal import print_result

    root, figures = Path(options["output"]), Path(options["figures"])
    drawn = load_drawable(options["stored"], root, figures)
    names = [str(file) for file in write_plots(drawn, root, figures, options["format"])]
    print_result(options["json"], lambda: {"files": names}, lambda: "\n".join(names))


@probe.command(params=[REPORTED, REPORT_OUT, RUNS, *COMMON])
def report(**options: Any) -> None:
    """One HTML page of runs, characterizations, comparisons.

    A single file that opens offline: verdict, figures, what the prediction rests on, data as CSV.
    Several models are ranked. Runs that belong together are looked for in --runs.
    """
    from predictor.report import write_report
    from stability_probe.terminal import print_result

    path = Path(options["report"])
    page = write_report(options["reported"], path, Path(options["output"]))
    ranked = [{"model": s.title, "kind": s.kind, "answer": s.verdict.words} for s in page.sections]
    print_result(
        options["json"],
        lambda: {"file": str(path), "ranked": ranked},
        lambda: str(path),
    )


@probe.command(params=[RUN, RUNS, *COMMON])
def explain(**options: Any) -> None:
    """Every decision of a run, and its grounds.

    Signals, limits, action, cooldown and rate of each epoch.
    """
    from stability_probe import run_summary
    from stability_probe.replay import explain
    from stability_probe.stored import load_run
    from stability_probe.terminal import print_result

    result = load_run(options["run"], Path(options["output"]))
    decisions = explain(result)
    title = f"{result.run_id}: what its schedule decided after each epoch"
    print_result(
        options["json"],
        lambda: run_summary.decisions_json(result.run_id, decisions),
        lambda: run_summary.decisions_table(title, decisions),
    )


@probe.command("replay-policy", params=[RUN, *POLICY, RUNS, *COMMON])
def replay_policy(**options: Any) -> None:
    """What another schedule would have decided on a run.

    Nothing is trained: the signals stay those of the batches that really ran. A rehearsal, no
    measurement.
    """
    from stability_probe import run_summary
    from stability_probe.replay import replay_policy
    from stability_probe.store import Store
    from stability_probe.stored import load_run
    from stability_probe.terminal import print_result

    root, name = Path(options["output"]), options["scheduler"]
    result = load_run(options["run"], root)
    decisions = replay_policy(result, name, options["scheduler_arg"], Store(root))
    title = f"{name} on the records of {result.run_id}; the signals are those of its own batches"
    print_result(
        options["json"],
        lambda: run_summary.decisions_json(result.run_id, decisions),
        lambda: run_summary.decisions_table(title, decisions),
    )


@probe.command(params=[RUN, *EXPORT, RUNS, *COMMON])
def export(**options: Any) -> None:
    """The batch schedule of a run, for other trainers.

    For those that take only a fixed one. One entry an epoch as JSON, a Python file for Lightning or
    the Hugging Face Trainer, or Megatron-LM's arguments.
    """
    from stability_probe.export import export_schedule
    from stability_probe.files import write_text
    from stability_probe.stored import load_run
    from stability_probe.terminal import print_result

    result = load_run(options["run"], Path(options["output"]))
    exported = export_schedule(result, options["to"])
    if exported.note and not options["quiet"] and not options["json"]:
        click.echo(exported.note, err=True)
    if options["exported"]:
        write_text(Path(options["exported"]), exported.text + "\n")
    print_result(
        options["json"],
        lambda: {
            "run_id": result.run_id,
            "to": options["to"],
            "content": exported.text,
            "note": exported.note,
            "file": options["exported"],
        },
        lambda: options["exported"] or exported.text,
    )


@probe.command(params=[ROOT, *COMMON])
def runs(**options: Any) -> None:
    """List the stored runs."""
    from stability_probe import run_summary
    from stability_probe.store import Store
    from stability_probe.terminal import print_result

    damaged: list[str] = []
    stored = Store(Path(options["output"])).list(damaged)
    print_result(
        options["json"],
        lambda: run_summary.runs_json(stored),
        lambda: run_summary.runs_table(stored),
    )
    if damaged:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise MissingError(f"not listed: {damaged[0]}{more}")


@probe.command(params=[PATTERN, *COMMON])
def models(**options: Any) -> None:
    """List the models, or those like PATTERN (*vit*).

    Exits 2 when none is. Your own are named package.module:callable.
    """
    from stability_probe.catalogue import matching
    from stability_probe.models import model_names, suggest
    from stability_probe.terminal import print_result

    names = matching(model_names(), options["pattern"])
    if not names:
        alike = suggest(options["pattern"]) or ["probe models without a pattern, which lists all"]
        raise UsageError(f"no model like {options['pattern']!r}; use {' or '.join(alike)}")
    print_result(options["json"], lambda: {"models": names}, lambda: "\n".join(names))


@probe.command(params=[DATA_DIR, *COMMON])
def data(**options: Any) -> None:
    """List the data sets, and where their files lie.

    Your own are named folder:PATH or package.module:callable.
    """
    from stability_probe import machine_summary
    from stability_probe.doctor import data_places
    from stability_probe.terminal import print_result

    places = data_places(options["data_dir"])
    print_result(
        options["json"],
        lambda: {"data": places},
        lambda: machine_summary.places_table(places),
    )


@probe.command(params=[PATTERN, *COMMON])
def schedulers(**options: Any) -> None:
    """List the batch schedules, or those like PATTERN.

    With their arguments. Exits 2 when none is. Your own are named package.module:callable.
    """
    from stability_probe import machine_summary
    from stability_probe.catalogue import schedules
    from stability_probe.plain import to_plain
    from stability_probe.schedulers import SCHEDULERS
    from stability_probe.terminal import print_result

    found = schedules(options["pattern"])
    if not found:
        known = near(options["pattern"], SCHEDULERS)
        raise UsageError(f"no schedule like {options['pattern']!r}; use {known}")
    print_result(
        options["json"],
        lambda: {"schedulers": to_plain(found)},
        lambda: machine_summary.schedules_table(found),
    )


@probe.command(params=[DATA_DIR, ROOT, *COMMON])
def doctor(**options: Any) -> None:
    """Examine this machine: versions, devices, data, disk.

    Paste its output into a report. Exits 4 when something will not work.
    """
    from stability_probe import machine_summary
    from stability_probe.doctor import examine
    from stability_probe.plain import to_plain
    from stability_probe.terminal import print_result

    found = examine(Path(options["output"]), options["data_dir"])
    print_result(
        options["json"],
        lambda: to_plain(found),
        lambda: machine_summary.examination_text(found),
    )
    if found.problems:
        click.get_current_context().exit(4)


@probe.command(params=[SHELL])
def completion(shell: str) -> None:
    """Print what makes a shell complete commands and flags.

    bash: eval "$(probe completion bash)" in ~/.bashrc; zsh likewise; fish: pipe it into source.
    """
    from click.shell_completion import get_completion_class

    from stability_probe.terminal import print_result

    made = get_completion_class(shell)
    print_result(
        False, dict, lambda: made(probe, {}, "probe", "_PROBE_COMPLETE").source() if made else ""
    )


@probe.command(params=[SWEEP, KNOWN_ROWS, JOBS, EXECUTOR, DRY_RUN, ROOT, *COMMON])
def sweep(**options: Any) -> None:
    """Run every combination of a sweep file.

    Finished runs are not repeated. Exits 1 when some failed; the others are kept. A run that
    diverged is an outcome, of which the corpus learns: it is named, and no failure.
    """
    from predictor.build import keep_known_curves, without_known
    from predictor.corpus import load_corpus
    from stability_probe.executors import make_executor
    from stability_probe.sweep import diverged, load_sweep, num_runs, run_sweep
    from stability_probe.terminal import print_result, watching

    asked = planned = load_sweep(Path(options["sweep"]))
    known = load_corpus(Path(options["known"])) if options["known"] else []
    if options["known"]:
        planned = without_known(asked, known)
        if not options["quiet"] and not options["json"]:
            told = f"{len(asked) - len(planned)} of {len(asked)} runs are not needed"
            click.echo(f"{told}, their rows are in {options['known']}", err=True)
    if options["dry_run"]:
        _show_plan(planned, options)
        return
    keep_known_curves(asked, known, Path(options["output"]))
    executor = make_executor(options["executor"], options["jobs"])
    with watching(options) as progress:
        failed = run_sweep(planned, Path(options["output"]), executor, progress)
    lost = diverged(planned, Path(options["output"]))
    total = num_runs(planned)
    told = f"{total - len(failed) - len(lost)} of {total} runs are finished"
    reasons = [f"diverged: {run_id}" for run_id in lost]
    reasons += [f"failed: {run_id}: {reason}" for run_id, reason in failed.items()]
    print_result(
        options["json"],
        lambda: {
            "runs": total,
            "failed": list(failed),
            "reasons": failed,
            "diverged": lost,
        },
        lambda: "\n".join([told, *reasons]),
    )
    if failed:
        click.get_current_context().exit(1)


def _show_plan(planned: list[SweepRun], options: dict[str, Any]) -> None:
    """What a sweep would do, and about how long it would take."""
    from stability_probe.sweep import estimated_s, num_done, num_runs
    from stability_probe.terminal import format_duration, print_result

    root = Path(options["output"])
    total, done = num_runs(planned), num_done(planned, root)
    seconds, unknown = estimated_s(planned, root)
    lines = [f"{total} runs: {done} done, {total - done} to do"]
    if seconds:
        lines[0] += f", at most {format_duration(seconds / options['jobs'])}"
    if unknown:
        lines.append(f"not counted, their speed was not measured here yet: {', '.join(unknown)}")
    print_result(
        options["json"],
        lambda: {
            "runs": total,
            "done": done,
            "estimated_s": seconds / options["jobs"],
            "unknown_models": unknown,
        },
        lambda: "\n".join(lines),
    )


@probe.group(cls=Group)
def corpus() -> None:
    """The rows behind predictions: build, check, add your own."""


@corpus.command(params=[SWEEP, RUNS, CORPUS_OUT, *COMMON])
def build(**options: Any) -> None:
    """Write the rows of a sweep's finished runs.

    They are added to those that the file holds. A row pairs each run with the fixed one of the same
    model, data and seed.
    """
    from predictor.build import build_rows
    from predictor.corpus import format_corpus, load_with
    from stability_probe.files import write_text
    from stability_probe.sweep import load_sweep
    from stability_probe.terminal import print_result

    rows, apart = build_rows(load_sweep(Path(options["sweep"])), Path(options["output"]))
    if apart:
        told = f"{len(apart)} left out, being of another machine than their fixed runs or curve"
        click.echo(f"{told}; the first is {apart[0]}", err=True)
    if not rows:
        raise UsageError(f"no finished pair of this sweep in {options['output']}; run probe sweep")
    path = Path(options["rows"])
    together = load_with(path, rows)
    busy = sum(row.curve_busy for row in rows)
    write_text(path, format_corpus(together))
    if busy:
        told = f"{busy} with a throughput curve of a busy machine, from which no prediction learns"
        click.echo(f"{told}; probe sweep with the same file measures it anew", err=True)
    print_result(
        options["json"],
        lambda: {
            "built": len(rows),
            "busy": busy,
            "rows": len(together),
            "file": str(path),
            "other_machine": apart,
        },
        lambda: f"{len(rows)} built, {len(together)} rows in {path}",
    )


@corpus.command(params=[CORPUS_IN, RUNS, *COMMON])
def check(**options: Any) -> None:
    """Prove that each row's numbers follow from its runs.

    Rows whose runs are not stored here are only checked against themselves. Exits 1 when a
    number contradicts.
    """
    from predictor.check import check_corpus
    from predictor.corpus import load_corpus
    from stability_probe.plain import to_plain
    from stability_probe.terminal import print_result

    path = options["corpus"]
    found = check_corpus(load_corpus(Path(path) if path else None), Path(options["output"]))
    told = (
        f"{found.rows} rows, {found.recomputed} computed again from their runs, "
        f"{len(found.problems)} contradictions"
    )
    print_result(
        options["json"],
        lambda: to_plain(found),
        lambda: "\n".join([told, *found.problems]),
    )
    if found.problems:
        click.get_current_context().exit(1)


@corpus.command(params=[RUN_IDS, RUNS, *COMMON])
def add(**options: Any) -> None:
    """Add your own runs to your own rows.

    Those count beside the shipped ones. Each is paired with the fixed run that is the same in all
    else.
    """
    from predictor.build import own_rows
    from predictor.corpus import format_corpus, load_with, own_corpus_path
    from predictor.examples import learned, usable
    from stability_probe.files import write_text
    from stability_probe.terminal import print_result

    added = own_rows(options["run_ids"], Path(options["output"]))
    path = own_corpus_path()
    rows = load_with(path, added)
    counted = len(usable(rows))
    busy = any(row.curve_busy for row in added)
    unlearned = not all(map(learned, added))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, format_corpus(rows))
    print_result(
        options["json"],
        lambda: {
            "added": len(added),
            "rows": len(rows),
            "counted": counted,
            "file": str(path),
        },
        lambda: (
            f"{len(added)} added, {len(rows)} rows in {path}; predictions count the "
            f"{counted} of DEBA as the corpus reads it"
            + (", and none whose throughput a busy machine measured" if busy else "")
            + (", and none whose fixed run learned nothing" if unlearned else "")
        ),
    )


@probe.command(params=[FITTED_OUT, *LIMITS, *COMMON])
def fit(**options: Any) -> None:
    """Fit anew, with your own rows too.

    How they were told, and what they change. Your rows are those of `probe corpus add`; a
    prediction counts them without being told.
    """
    from predictor import scores_summary
    from predictor.corpus import load_corpus, own_corpus_path
    from predictor.fitted import fit_known, to_json
    from predictor.refit import refit
    from stability_probe.files import write_text
    from stability_probe.terminal import print_result

    path, limits = own_corpus_path(), make_limits(options)
    done = refit(load_corpus(), load_corpus(path) if path.exists() else [], limits)
    if options["fitted"]:
        write_text(Path(options["fitted"]), to_json(fit_known(limits)))
    print_result(
        options["json"],
        lambda: scores_summary.refit_json(done),
        lambda: scores_summary.refit_tables(done),
    )


@probe.command(params=[CORPUS_IN, HORIZON, RATE, *LIMITS, *EVALUATION_PLOTS, *COMMON])
def evaluate(**options: Any) -> None:
    """Score the predictor on its corpus, families held out."""
    from predictor import scores_summary
    from predictor.corpus import load_corpus
    from predictor.evaluate import evaluate
    from stability_probe.terminal import print_result, watching

    path, limits = options["corpus"], make_limits(options)
    with watching(options) as progress:
        rows = load_corpus(Path(path) if path else None)
        evaluation = evaluate(
            rows, progress, limits, epochs=options["epochs"], lr_schedule=options["lr_schedule"]
        )
    if options["figures"]:
        from predictor.plots import write_evaluation_plots

        write_evaluation_plots(evaluation, Path(options["figures"]), options["format"])
    print_result(
        options["json"],
        lambda: scores_summary.evaluation_json(evaluation),
        lambda: scores_summary.evaluation_tables(evaluation),
    )


def main() -> None:
    """The console script."""
    try:
        probe.main(prog_name="probe")
    except OSError as error:  # help that cannot be written
        message, code = explain_error(error)
        complain(message)
        sys.exit(code)


if __name__ == "__main__":
    main()
