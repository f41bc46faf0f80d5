"""Checks that the processes of a run, on one machine or several, have the same folder, run, options and images."""

import json
import secrets
import socket
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from openddpm.config import NEUTRAL_OPTIONS, TrainConfig
from openddpm.errors import UserError
from openddpm.record.files import TEMPORARY
from openddpm.training.earlier_run import Earlier

_MAX_BYTES = 1 << 14  # assumed: five times the size of all options as JSON


def gather_json(accelerator: Accelerator, value: Any) -> list[Any]:
    """Return the JSON values of all processes, by rank. A collective call, and so a barrier."""
    content = json.dumps(value).encode()
    assert len(content) <= _MAX_BYTES, f"{len(content)} bytes are too many"
    padded = torch.tensor([list(content.ljust(_MAX_BYTES))], dtype=torch.uint8)  # JSON may end in blanks
    rows = accelerator.gather(padded.to(accelerator.device))
    return [json.loads(bytes(row)) for row in rows.tolist()]  # type: ignore[union-attr]


def processes_without_folder(accelerator: Accelerator, folder: Path) -> str:
    """Return which processes do not see the run folder of process 0, as text; "" if all do. A collective call.

    Process 0 creates an empty file in it, and the others look for that. They must not have looked for the folder
    before: a network file system may cache for a minute that it did not exist.
    """
    if accelerator.num_processes == 1:
        return ""
    token = folder / f".shared-{secrets.token_hex(8)}{TEMPORARY}"
    if accelerator.is_main_process:
        token.write_bytes(b"")
    try:
        name = gather_json(accelerator, token.name)[0]
        answers = gather_json(accelerator, [(folder / name).exists(), socket.gethostname()])
    finally:
        if accelerator.is_main_process:
            token.unlink(missing_ok=True)
    unseeing = [f"process {rank} on '{host}'" for rank, (sees, host) in enumerate(answers) if not sees]
    return f"{_first_few(unseeing, ', ')}, unlike process 0 on '{answers[0][1]}'" if unseeing else ""


def check_same_start(
    accelerator: Accelerator, config: TrainConfig, earlier: Earlier | None, without_folder: str
) -> list[str]:
    """Return remarks on the run folder; check that all processes start or resume the same run.

    Args:
        without_folder: the result of `processes_without_folder`.

    Raises:
        UserError: in all processes, if their options or the runs that they find differ, or if a run is to be resumed
            from a folder that not all of them see.
    """
    if accelerator.num_processes == 1:
        return []
    found = "none" if earlier is None else f"{earlier.record.run_id} at step {earlier.position[0]}"
    options = {name: value for name, value in config.model_dump().items() if name not in NEUTRAL_OPTIONS}
    _check_same(
        *(accelerator, options, "the processes have different options"),
        "Give the same command on all hosts.",
    )
    _check_same(
        *(accelerator, {"run": found}, f"the processes do not find the same run in '{config.output_dir}'"),
        "Give all of them an --output_dir on a file system that they share, or a copy of the run folder as it is now.",
    )
    if not without_folder:
        return []
    unseen = f"the run folder '{config.output_dir}' is not seen by {without_folder}"
    if config.max_rollbacks or (config.resume_from_checkpoint and earlier is None):
        option = "max_rollbacks" if config.max_rollbacks else "resume_from_checkpoint"
        raise UserError(
            f"{unseen}, and --{option} reads checkpoints from it in every process",
            f"Give all hosts an --output_dir on a file system that they share; or leave out --{option}.",
        )
    return [
        f"{unseen}: record, checkpoints and samples are only on the host of process 0. To resume this run later, give "
        "all hosts an --output_dir on a file system that they share, or copy the folder to each of them first"
    ]


def check_same_images(accelerator: Accelerator, sha256: str, structure: dict[str, Any]) -> None:
    """Check that all processes train the same UNet on the same images.

    Args:
        sha256: of the decoded images.
        structure: the UNet's config.

    Raises:
        UserError: in all processes, if they do not.
    """
    if accelerator.num_processes > 1:
        ours = {"images, sha256": sha256[:16], "UNet": json.dumps(structure, sort_keys=True, default=str)}
        hint = "Give all hosts the same files: the data set and --model."
        _check_same(accelerator, ours, "the processes do not find the same images or UNet", hint)


def _check_same(accelerator: Accelerator, ours: dict[str, Any], found: str, hint: str) -> None:
    """Compare the entries of each process with those of process 0. A collective call."""
    (first_host, first), *others = gather_json(accelerator, [socket.gethostname(), ours])
    lines = [
        f"{name}: {value!r} in process {rank} on '{host}', {first[name]!r} in process 0 on '{first_host}'"
        for rank, (host, theirs) in enumerate(others, 1)
        for name, value in theirs.items()
        if value != first[name]
    ]
    if lines:
        listed = _first_few(lines, "\n  ")
        raise UserError(f"{found}:\n  {listed}", hint)


def _first_few(parts: list[str], separator: str) -> str:
    """Return the first four parts, and the number of the others."""
    return separator.join(parts[:4] + [f"and {len(parts) - 4} more"] * (len(parts) > 4))
