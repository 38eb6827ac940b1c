"""One full run, stored as it goes and resumed where it stopped."""

from __future__ import annotations

import dataclasses
import io
import signal
import textwrap
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stability_probe.buffers import restore_buffers
from stability_probe.config import RunConfig, with_memory_format
from stability_probe.datasets import Dataset, load_dataset
from stability_probe.device import describe_environment, is_out_of_memory, use_threads
from stability_probe.distributed import World, joined
from stability_probe.errors import DivergedError, MissingError, UsageError
from stability_probe.files import write_bytes
from stability_probe.fingerprint import has_fingerprint, require_unchanged
from stability_probe.interrupt import Interrupted, Stop, stopping
from stability_probe.launch import follows
from stability_probe.loop import StoppedError, never, train
from stability_probe.models import normalization, num_params
from stability_probe.paired import machine_of, whole_environment
from stability_probe.plain import from_plain, to_plain
from stability_probe.progress import Progress, Quiet
from stability_probe.records import EpochRecord, RunResult
from stability_probe.replay import with_stored_sequence
from stability_probe.state import PartialEpoch, TrainState, make_state
from stability_probe.store import RunDirectory, Store, as_store
from stability_probe.throughput import choose_memory_format
from stability_probe.user_code import cause


def run(
    config: RunConfig,
    store: Store | Path | str,
    progress: Progress | None = None,
    dataset: Dataset | None = None,
) -> RunResult:
    """Train as `config` says, or report the stored result of a run that finished before.

    A run that was interrupted goes on after its last recorded epoch. A run whose loss becomes
    non-finite is stored with the status diverged. SIGINT and SIGTERM let the step under way end,
    store the state within the epoch, or the result after the last, and raise `Interrupted`.
    `dataset` is the one `config` names, where the caller has loaded it already.
    """
    progress, store = Quiet() if progress is None or follows() else progress, as_store(store)
    with use_threads(config.threads), joined(config.device) as world, stopping() as stop:
        config = world.lead(partial(with_stored_sequence, config, store))
        world.lead(store.check_root)
        if has_fingerprint(config):
            dataset = dataset or load_run_data(config)
            world.lead(partial(require_unchanged, config, dataset, store.root))
        with _opened(config, store, world) as directory:
            finished = world.lead(directory.result)
            if finished is not None:
                _end_if_asked(world, stop)
                progress.note(f"{finished.run_id} was {finished.status} before; not run again")
                return finished
            dataset = dataset or load_run_data(config)
            return _train(config, dataset, directory, world, progress, stop)


@contextmanager
def _opened(config: RunConfig, store: Store, world: World) -> Iterator[RunDirectory]:
    """The run's directory: the leader's, locked; the others never write."""
    with ExitStack() as stack:
        # The lock stays with the leader; where it lies is for all to know.
        path = world.lead(lambda: stack.enter_context(store.open(config)).path)
        yield RunDirectory(path)


def _train(
    config: RunConfig,
    dataset: Dataset,
    directory: RunDirectory,
    world: World,
    progress: Progress,
    stop: Stop,
) -> RunResult:
    state, records = _start_or_resume(config, dataset, directory, world)
    if records or state.partial:
        within = f", step {state.partial.step}" if state.partial else ""
        progress.note(f"{config.run_id()} goes on after epoch {len(records)}{within}")
    progress.start(f"{config.model} {config.scheduler} seed {config.seed}", config.last_epoch)
    for record in records:
        progress.epoch(record)
    status = "finished"
    # Processes cannot leave an epoch at different steps: several stop between epochs only.
    stop_within = stop if world.size == 1 else never
    try:
        for record in train(state, dataset, config, stop_within):
            records.append(record)
            world.lead(partial(_keep, directory, record, state))
            progress.epoch(record)
            if world.size == 1:
                _tell_split(progress, records)
            elif state.epoch < config.last_epoch:
                _end_if_asked(world, stop)
    except StoppedError:
        write_bytes(directory.checkpoint, _checkpoint(state))
        stop.check()
    except DivergedError:
        status = "diverged"
    result = _result(config, state, dataset, records, status)
    world.lead(partial(directory.finish, result))
    # Too late for this run, but what called it may have more of them in mind.
    _end_if_asked(world, stop)
    return result


def _end_if_asked(world: World, stop: Stop) -> None:
    """Raises `Interrupted` in every process where one was asked for an end."""
    if world.any(stop()):
        raise Interrupted(stop.signum or signal.SIGTERM)


def _keep(directory: RunDirectory, record: EpochRecord, state: TrainState) -> None:
    """Record first, then the state that knows it: a kill between the two loses this epoch."""
    directory.append(record)
    write_bytes(directory.checkpoint, _checkpoint(state))


def load_run_data(config: RunConfig) -> Dataset:
    """The data of a run. The subset of `limit` is the same for every seed, so seeds compare."""
    return load_dataset(
        config.data, data_dir=config.data_dir, limit=config.limit, img_size=config.img_size
    )


def resolve(config: RunConfig, dataset: Dataset, root: Path) -> RunConfig:
    """`config` with the memory format chosen by measurement where it says auto.

    All runs of the store at `root` share the choice.
    """
    return with_memory_format(config, choose_memory_format(config, dataset, root).memory_format)


def _tell_split(progress: Progress, records: list[EpochRecord]) -> None:
    """Say once that memory forced a batch to be split."""
    split = [r for r in records if r.micro_batch_size < r.batch_size]
    if split and split[0] is records[-1]:
        r = split[0]
        progress.note(
            f"batch {r.batch_size} exceeds the memory: micro-batches of {r.micro_batch_size}"
        )


def _start_or_resume(
    config: RunConfig, dataset: Dataset, directory: RunDirectory, world: World
) -> tuple[TrainState, list[EpochRecord]]:
    """State and records after the last epoch that is whole on the disk."""
    saved, records, config = world.lead(partial(_found, config, dataset, directory, world))
    state = make_state(config, dataset, world)
    if saved is not None:
        _restore(state, saved, directory.checkpoint)
    here = _environment(state)
    if [machine_of(e) for e in state.environments[-1:]] != [machine_of(here)]:
        state.environments += (here,)
    return state, records


def _found(
    config: RunConfig, dataset: Dataset, directory: RunDirectory, world: World
) -> tuple[dict[str, Any] | None, list[EpochRecord], RunConfig]:
    """The stored state, if any, its records, and the config with its memory format decided."""
    if not directory.checkpoint.exists():
        directory.keep([])
        return None, [], resolve(config, dataset, directory.path.parent)
    saved = _read_checkpoint(directory.checkpoint)
    before = saved.get("processes", 1)
    if before != world.size:
        raise UsageError(
            f"{config.run_id()} was begun by {before} processes, which see other batches than "
            f"{world.size}; use torchrun --nproc-per-node {before}, or another -o"
        )
    records = directory.records()[: saved["epoch"]]
    if len(records) < saved["epoch"]:
        raise MissingError(
            f"{directory.path} lacks records of epochs its checkpoint has; delete it to start over"
        )
    directory.keep(records)
    return saved, records, dataclasses.replace(config, channels_last=saved["channels_last"])


def _restore(state: TrainState, saved: dict[str, Any], checkpoint: Path) -> None:
    try:
        restore_buffers(state.model, {**saved["model"], **saved.get("buffers", {})})
        state.model.load_state_dict(saved["model"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.scheduler.load_state_dict(saved["scheduler"])
        state.epoch, state.batch_size = saved["epoch"], saved["batch_size"]
        previous, partial = saved["previous"], saved.get("partial")
        state.previous = None if previous is None else from_plain(EpochRecord, previous)
        state.partial = None if partial is None else PartialEpoch(**partial)
        state.micro_batch_size = saved.get("micro_batch_size")
        # An earlier version kept no more than the names of the devices.
        names = saved.get("device_names", ())
        known = [{**_environment(state), "device_name": name} for name in names]
        state.environments = tuple(saved.get("environments", known))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error, state.device):
            raise
        raise MissingError(
            f"{checkpoint} is of another version of probe or of the model ({cause(error)}); "
            "delete it to start over"
        ) from error


def _environment(state: TrainState) -> dict[str, str]:
    several = {"processes": str(state.world.size)} if state.world.size > 1 else {}
    return {**describe_environment(state.device), **several}


def _checkpoint(state: TrainState) -> memoryview:
    """The state as bytes that `torch.load` reads with `weights_only`: tensors and plain values.

    Raises `UsageError` for a schedule whose own state is anything else.
    """
    schedule = state.scheduler.state_dict()
    buffer = io.BytesIO()
    try:
        torch.save(schedule, buffer)
        torch.load(io.BytesIO(buffer.getbuffer()), weights_only=True)
    except Exception as error:  # what a user's rule may hold fails in as many ways
        told = textwrap.shorten(repr(schedule), 160, placeholder=" ...")
        raise UsageError(
            f"the schedule's state_dict() gave {told}, which cannot be read back; use plain "
            "numbers (float(x), not NumPy's), texts, lists and tables"
        ) from error
    buffer = io.BytesIO()
    last = state.memory_format == torch.channels_last
    torch.save(
        {
            "model": state.model.state_dict(),
            # Those that are not persistent are part of the state of a run all the same.
            "buffers": dict(state.model.named_buffers()),
            "optimizer": state.optimizer.state_dict(),
            "scheduler": schedule,
            "epoch": state.epoch,
            "batch_size": state.batch_size,
            "previous": None if state.previous is None else to_plain(state.previous),
            "micro_batch_size": state.micro_batch_size,
            "partial": None if state.partial is None else vars(state.partial),
            "processes": state.world.size,
            "environments": [dict(e) for e in state.environments],
            "channels_last": "on" if last else "off",
        },
        buffer,
    )
    return buffer.getbuffer()


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        # torch does not check the checksums that it writes.
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} does not match")
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage fails in as many ways as there are bytes
        raise MissingError(
            f"{path} is damaged ({type(error).__name__}); delete it to start over"
        ) from error
    return saved


def _result(
    config: RunConfig,
    state: TrainState,
    dataset: Dataset,
    records: list[EpochRecord],
    status: str,
) -> RunResult:
    return RunResult(
        run_id=config.run_id(),
        config=config.to_dict(),
        status=status,
        device=str(state.device),
        num_params=num_params(state.model),
        normalization=normalization(state.model),
        num_train=len(dataset.train_labels),
        num_test=len(dataset.test_labels),
        memory_format=str(state.memory_format).removeprefix("torch."),
        environment=whole_environment(state.environments),
        epochs=tuple(records),
    )
