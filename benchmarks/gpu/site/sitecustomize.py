"""Put first on PYTHONPATH of a machine with many packages: spares diffusers those that it imports and nobody uses here.

Each process imports diffusers, and that takes transformers, peft and scipy along wherever they are installed, and reads
the list of files of every installed package. (Names in HIDE_PACKAGES stay hidden; not by None in sys.modules, since
`datasets` takes a name that stands there for a package that can be imported.)
"""

import importlib.metadata
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

HIDDEN = set(os.environ.get("HIDE_PACKAGES", "").split())


class _Finder(PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in HIDDEN:
            return None
        return super().find_spec(fullname, path, target)


if HIDDEN:
    sys.meta_path[:] = [_Finder if finder is PathFinder else finder for finder in sys.meta_path]
    importlib.metadata.packages_distributions = dict  # diffusers then looks a package up by the name it is imported by
