"""The intended content of a file, in memory: its hash, and the comparison with what is read back."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

BYTES_AT_A_TIME = 2**20  # measured: fastest, as the compared bytes fit into the processor's cache


class DamagedHeader(OSError):
    """The header of a file just written does not describe the tensors."""


@dataclass(frozen=True)
class Intended:
    """The content of a file, in parts that are views of memory, each (N,) uint8."""

    parts: list[np.ndarray]

    @classmethod
    def of_text(cls, text: str) -> "Intended":
        """Return the content of a text file."""
        return cls([np.frombuffer(text.encode(), np.uint8)])

    @classmethod
    def of_tensors(cls, path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> "Intended":
        """Return the intended content of the safetensors file at `path`, of which only the header is read.

        The format (safetensors' README, "Format"): the length of the header in 8 bytes, the header as JSON, and the
        bytes of the tensors in the order of the header.

        Args:
            tensors: on the CPU, contiguous.

        Raises:
            DamagedHeader: the header does not describe exactly these tensors.
        """
        with path.open("rb") as file:
            length = file.read(8)
            header = file.read(min(int.from_bytes(length, "little"), path.stat().st_size))
        try:
            found = json.loads(header)
            order = sorted(tensors, key=lambda name: found[name]["data_offsets"])
        except (ValueError, LookupError, TypeError) as error:
            raise DamagedHeader(f"the header of {path.name} is damaged") from error
        wanted: dict[str, Any] = {"__metadata__": metadata}
        end = 0
        for name in order:
            start, end = end, end + tensors[name].nbytes
            shape = list(tensors[name].shape)
            wanted[name] = {"dtype": _dtype_name(tensors[name].dtype), "shape": shape, "data_offsets": [start, end]}
        if found != wanted:
            raise DamagedHeader(f"the header of {path.name} does not describe its tensors")
        head = np.frombuffer(length + header, np.uint8)
        return cls([head, *(tensors[name].reshape(-1).view(torch.uint8).numpy() for name in order)])

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return sum(part.nbytes for part in self.parts)

    def sha256(self) -> str:
        """Return the digest of the content."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(part.data)
        return digest.hexdigest()

    def is_in(self, path: Path) -> bool:
        """Tell whether a file has exactly this content."""
        buffer = np.empty(BYTES_AT_A_TIME, np.uint8)
        with path.open("rb") as file:
            for part in self.parts:
                for start in range(0, len(part), BYTES_AT_A_TIME):
                    wanted = part[start : start + BYTES_AT_A_TIME]
                    read = buffer[: len(wanted)]
                    if file.readinto(read) < len(wanted) or not np.array_equal(read, wanted):  # type: ignore[arg-type]
                        return False
            return not file.read(1)


@lru_cache
def _dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype in safetensors."""
    content = save({"any": torch.empty(0, dtype=dtype)})
    return str(json.loads(content[8:])["any"]["dtype"])
