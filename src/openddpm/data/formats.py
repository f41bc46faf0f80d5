"""Formats of image files that can be opened, by suffix or first bytes, and the meaning of other suffixes."""

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
"""Suffixes of files that are no images, but often lie beside them."""
HEAD_BYTES = 32  # read of a file without a suffix, to find its format
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
RUN_GIT_LFS = "a Git LFS pointer in place of the file: run git lfs pull"

_PLUGINS = {  # module of a Pillow plugin, the function that registers it, its formats
    "pillow_heif": ("register_heif_opener", ("HEIF",)),
    "pillow_jxl": (None, ("JXL",)),
    "pillow_avif": (None, ("AVIF",)),
}
_NEEDS = {  # suffixes of images that Pillow opens only with a package that may be missing
    **dict.fromkeys((".heic", ".heif", ".hif"), "pip install pillow-heif"),
    **dict.fromkeys((".avif", ".avifs"), "pip install pillow-avif-plugin"),
    ".jxl": "pip install pillow-jxl-plugin",
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "install a Pillow that is built with OpenJPEG"),
}
_ARRAY_NAME = re.compile(
    r"\.(npy|npz|idx)(\.gz)?$|[.-]idx\d-ubyte(\.gz)?$|^(data_batch_\d+|test_batch|train|test)\.bin$", re.IGNORECASE
)
_NO_SUFFIX = re.compile(r"\.(?:\d+|.*\s.*|.{13,})", re.DOTALL)  # such as in "scan 2024.01", "Mr. Smith", a long hash


@functools.cache
def image_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that can be opened on this machine, those of its plugins included."""
    from_plugins: list[str] = []
    Image.init()
    for module, (register, formats) in _PLUGINS.items():
        try:
            plugin = importlib.import_module(module)
            if register:
                getattr(plugin, register)()
        except Exception:  # not installed, or built for another Pillow
            continue
        from_plugins += formats
    wanted = dict.fromkeys([*TRUSTED_FORMATS, *from_plugins])
    return tuple(name for name in wanted if name in Image.OPEN)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files that can be opened, in lower case and with their dot."""
    formats = [name for name in image_formats() if _has_decoder(name)]
    formats += ["MPO"] if "JPEG" in formats else []  # several JPEGs in one file, such as from 3D cameras
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def suffix_of(name: str) -> str:
    """Return a file name's suffix in lower case; "" if the part after its last dot is none."""
    stem, dot, end = name.rpartition(".")
    suffix = f".{end.lower()}"
    return suffix if stem and dot and end and not _NO_SUFFIX.fullmatch(suffix) else ""


def names_arrays(name: str) -> bool:
    """Return whether a file is, by its name, one of arrays or of the labels beside them."""
    return _ARRAY_NAME.search(name) is not None


def is_image_head(head: bytes) -> bool:
    """Return whether a file with the first bytes `head` is an image in a format that can be opened."""
    if head[:2] == b"BM" and head[6:10] != bytes(4):  # a text may begin with these two letters
        return False
    if head[:1] == b"P" and head[2:3] not in (b" ", b"\n", b"\r", b"\t"):
        return False
    return any(_has_decoder(name) and _accepts(name, head) for name in image_formats())


def why_left_out(suffix: str) -> tuple[str, bool]:
    """Return what files of a suffix that is not read are, and whether they may be meant as images."""
    if suffix in _NEEDS:
        return f"{suffix}: these images need a package that is not installed: {_NEEDS[suffix]}", True
    if foreign := NOT_READ.get(suffix):
        return f"{suffix}: {foreign.what}; {foreign.advice}", True
    return (f"{suffix} files" if suffix else "files without a suffix"), False


def foreign_format(name: str, read_head: Callable[[], bytes]) -> NotRead | None:
    """Return the format of a file that is not read, by its suffix, or by its first bytes if it has none."""
    return NOT_READ.get(suffix_of(name) or suffix_of_head(read_head()))


def suffix_of_head(head: bytes) -> str:
    """Return the suffix that a file should have by its first bytes; "" if they are unknown."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1"):
        return ".heic"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):  # PROTO, and its versions
        return ".pkl"
    known = {b"\xff\x0a": ".jxl", b"\0\0\0\x0cJXL ": ".jxl", b"PAR1": ".parquet", b"PK\3\4": ".zip"}
    return next((suffix for magic, suffix in known.items() if head.startswith(magic)), "")


def _accepts(name: str, head: bytes) -> bool:
    accepts = Image.OPEN[name][1]
    try:
        return accepts is not None and accepts(head) is True  # it is a text if the decoder is missing
    except Exception:  # too short for a plugin
        return False


def _has_decoder(name: str) -> bool:
    """Return whether Pillow has the decoder of a format: it registers some that it was built without."""
    feature = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}.get(name)
    return feature is None or bool(features.check(feature)) or (name == "AVIF" and "pillow_avif" in sys.modules)
