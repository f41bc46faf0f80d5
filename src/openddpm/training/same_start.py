"""Whether the processes of a run, on one machine or on several, have the same folder, run, options and images."""

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

_MAX_BYTES = 1 << 14  # assumed: five times what all options take as JSON


def said_by_all(accelerator: Accelerator, said: Any) -> list[Any]:
    """Return what each process says, by rank, as JSON values. A collective call, and so a barrier."""
    content = json.dumps(said).encode()
    assert len(content) <= _MAX_BYTES, f"{len(content)} bytes are too many to say"
    padded = torch.tensor([list(content.ljust(_MAX_BYTES))], dtype=torch.uint8)  # JSON may end in blanks
    everybody = accelerator.gather(padded.to(accelerator.device))
    return [json.loads(bytes(row)) for row in everybody.tolist()]  # type: ignore[union-attr]


def processes_without_folder(accelerator: Accelerator, folder: Path) -> str:
    """Return which processes do not see the run folder of the first, in words; "" if all do. A collective call.

    The first leaves an empty file in it, and the others look for that. They must not have looked for the folder itself
    before: a network file system may remember for a minute that it was not there.
    """
    if accelerator.num_processes == 1:
        return ""
    token = folder / f".shared-{secrets.token_hex(8)}{TEMPORARY}"
    if accelerator.is_main_process:
        token.write_bytes(b"")
    try:
        name = said_by_all(accelerator, token.name)[0]
        answers = said_by_all(accelerator, [(folder / name).exists(), socket.gethostname()])
    finally:
        if accelerator.is_main_process:
            token.unlink(missing_ok=True)
    blind = [f"process {rank} on '{host}'" for rank, (sees, host) in enumerate(answers) if not sees]
    return f"{_first_few(blind, ', ')}, unlike process 0 on '{answers[0][1]}'" if blind else ""


def check_same_start(
    accelerator: Accelerator, config: TrainConfig, earlier: Earlier | None, without_folder: str
) -> list[str]:
    """Return what there is to say of the run folder; see that all processes begin, or go on with, the same run.

    Args:
        without_folder: what `processes_without_folder` has returned.

    Raises:
        UserError: in all processes, where their options differ or the run that they find, or where a folder that not
            all of them see is to be gone on from.
    """
    if accelerator.num_processes == 1:
        return []
    found = "none" if earlier is None else f"{earlier.record.run_id} at step {earlier.position[0]}"
    options = {name: value for name, value in config.model_dump().items() if name not in NEUTRAL_OPTIONS}
    _check_same(
        *(accelerator, options, "the processes have other options"),
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
        f"{unseen}: record, checkpoints and samples are where process 0 runs alone. To go on with this run later, give "
        "all hosts an --output_dir on a file system that they share, or copy the folder to each of them first"
    ]


def check_same_images(accelerator: Accelerator, sha256: str, structure: dict[str, Any]) -> None:
    """See that all processes train the same UNet on the same images, whichever host they read them from.

    Args:
        sha256: of the decoded images.
        structure: the UNet's config.

    Raises:
        UserError: in all processes, where they do not.
    """
    if accelerator.num_processes > 1:
        said = {"images, sha256": sha256[:16], "UNet": json.dumps(structure, sort_keys=True, default=str)}
        hint = "Give all hosts the same files: the data set and --model."
        _check_same(accelerator, said, "the processes do not find the same images or UNet", hint)


def _check_same(accelerator: Accelerator, ours: dict[str, Any], found: str, hint: str) -> None:
    """Compare what each process has with what the first has, one thing after the other. A collective call."""
    (first_host, first), *others = said_by_all(accelerator, [socket.gethostname(), ours])
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
    """Return the first four parts, and how many more there are."""
    return separator.join(parts[:4] + [f"and {len(parts) - 4} more"] * (len(parts) > 4))
