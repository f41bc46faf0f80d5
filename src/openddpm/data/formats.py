"""Which image files can be opened here, told by suffix or by first bytes, and what other suffixes stand for."""

import functools
import importlib
import re
import sys
from collections.abc import Callable

from PIL import Image, features

from openddpm.data.foreign_files import NOT_READ, NotRead

TRUSTED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")  # decoders in daily use
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARRAY_SUFFIXES = (".npy", ".npz", ".idx", ".idx3-ubyte")
TEXT_SUFFIXES = frozenset(
    (".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".htm", ".py", ".log")
    + (".caption", ".tags", ".cls", ".toml", ".ini", ".cfg", ".rst", ".license")
)
"""Suffixes of what is never an image, and may lie beside each of them."""
HEAD_BYTES = 32  # all that is read of a file without a suffix to tell what it is
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
RUN_GIT_LFS = "a Git LFS pointer in place of the file: run git lfs pull"

_PLUGINS = {  # module of a Pillow plugin, how to switch it on, the formats it brings
    "pillow_heif": ("register_heif_opener", ("HEIF",)),
    "pillow_jxl": (None, ("JXL",)),
    "pillow_avif": (None, ("AVIF",)),
}
_NEEDS = {  # suffixes of images that Pillow opens only with something that may be missing
    **dict.fromkeys((".heic", ".heif", ".hif"), "pip install pillow-heif"),
    **dict.fromkeys((".avif", ".avifs"), "pip install pillow-avif-plugin"),
    ".jxl": "pip install pillow-jxl-plugin",
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "install a Pillow that is built with OpenJPEG"),
}
_ARRAY_NAME = re.compile(
    r"\.(npy|npz|idx)(\.gz)?$|[.-]idx\d-ubyte(\.gz)?$|^(data_batch_\d+|test_batch|train|test)\.bin$", re.IGNORECASE
)
_NO_SUFFIX = re.compile(r"\.(?:\d+|.*\s.*|.{13,})", re.DOTALL)  # such as of "scan 2024.01", "Mr. Smith", a long hash


@functools.cache
def image_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are opened: those that it can open here, its plugins included."""
    from_plugins: list[str] = []
    Image.init()
    for module, (register, formats) in _PLUGINS.items():
        try:
            plugin = importlib.import_module(module)
            if register:
                getattr(plugin, register)()
        except Exception:  # not installed, or built for another Pillow: the same to whoever has its files
            continue
        from_plugins += formats
    wanted = dict.fromkeys([*TRUSTED_FORMATS, *from_plugins])
    return tuple(name for name in wanted if name in Image.OPEN)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files that are opened, in small letters and with their dot."""
    formats = [name for name in image_formats() if _has_decoder(name)]
    formats += ["MPO"] if "JPEG" in formats else []  # a JPEG with further ones behind it, as of 3D cameras
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def suffix_of(name: str) -> str:
    """Return a file name's suffix in small letters, "" where what follows its last dot is none."""
    stem, dot, end = name.rpartition(".")
    suffix = f".{end.lower()}"
    return suffix if stem and dot and end and not _NO_SUFFIX.fullmatch(suffix) else ""


def names_arrays(name: str) -> bool:
    """Whether a file is one of arrays, or of the labels beside them, by its name."""
    return _ARRAY_NAME.search(name) is not None


def is_image_head(head: bytes) -> bool:
    """Whether a file that begins with `head`, HEAD_BYTES of it or all, is an image of a format that is opened."""
    if head[:2] == b"BM" and head[6:10] != bytes(4):  # two letters alone may be those of a text
        return False
    if head[:1] == b"P" and head[2:3] not in (b" ", b"\n", b"\r", b"\t"):
        return False
    return any(_has_decoder(name) and _accepts(name, head) for name in image_formats())


def why_left_out(suffix: str) -> tuple[str, bool]:
    """Return what files of a suffix that is not read are, and whether they may be images that were meant."""
    if suffix in _NEEDS:
        return f"{suffix}: these images need a package that is not here: {_NEEDS[suffix]}", True
    if foreign := NOT_READ.get(suffix):
        return f"{suffix}: {foreign.what}; {foreign.way}", True
    return (f"{suffix} files" if suffix else "files without a suffix"), False


def foreign_format(name: str, read_head: Callable[[], bytes]) -> NotRead | None:
    """Return the format of a file that is not read, by its name, or by its first bytes if its name has no suffix."""
    return NOT_READ.get(suffix_of(name) or suffix_of_head(read_head()))


def suffix_of_head(head: bytes) -> str:
    """Return the suffix that a file ought to have, by its first bytes, "" where these are of nothing known here."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1"):
        return ".heic"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):  # PROTO, and the versions there are
        return ".pkl"
    known = {b"\xff\x0a": ".jxl", b"\0\0\0\x0cJXL ": ".jxl", b"PAR1": ".parquet", b"PK\3\4": ".zip"}
    return next((suffix for magic, suffix in known.items() if head.startswith(magic)), "")


def _accepts(name: str, head: bytes) -> bool:
    accepts = Image.OPEN[name][1]
    try:
        return accepts is not None and accepts(head) is True  # a text stands for a decoder that is missing
    except Exception:  # too short for a plugin
        return False


def _has_decoder(name: str) -> bool:
    """Whether the decoder of a format is there: Pillow registers some that it was built without."""
    feature = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}.get(name)
    return feature is None or bool(features.check(feature)) or (name == "AVIF" and "pillow_avif" in sys.modules)
