import io
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.decode import Preprocessing, decode_image
from openddpm.data.image_source import ImageSource
from openddpm.data.sources import open_source
from openddpm.errors import UserError
from picture_files import image_dataset, open_path, png, tone, tones, write, write_parquet, write_zip


def test_parquet_by_others_is_read_by_its_types(tmp_path: Path) -> None:
    """Without metadata the one column of bytes is taken, and rows without bytes are refused."""
    path = write_parquet(tmp_path / "a.parquet", label=[1, 2, 3], jpg=[png(1), None, png(3)])
    found = tones(open_path(path))
    assert found == {"a 0": 1, "a 1": "NoneType in place of an image's bytes", "a 2": 3}


def test_parquet_by_datasets_is_read_by_its_metadata(tmp_path: Path) -> None:
    """With the metadata of `datasets` the image column is taken, though another holds bytes, with the paths inside."""
    rows = {"clip": [b"x", b"y"], "image": [{"bytes": png(1), "path": "one.png"}, {"bytes": png(2), "path": None}]}
    features = datasets.Features({"clip": datasets.Value("binary"), "image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert tones(open_path(tmp_path / "a.parquet")) == {"one.png": 1, "a 1": 2}


@pytest.mark.parametrize("wrap", [lambda source: source, datasets.Dataset.from_dict], ids=["parquet", "Dataset"])
def test_columns_are_chosen_by_name(wrap: Callable[..., object], tmp_path: Path) -> None:
    """Of several image columns the choices are listed, a wrong name gets a hint, and a right one is taken."""
    columns = {"photo": [png(1)], "mask": [png(2)], "label": [0]}
    if wrap is datasets.Dataset.from_dict:
        features = {"photo": datasets.Image(), "mask": datasets.Image(), "label": datasets.Value("int64")}
        own = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        dataset = ""
    else:
        own, dataset = None, str(write_parquet(tmp_path / "a.parquet", **columns))

    def source(**options: str) -> ImageSource:
        return open_source(DataOptions(dataset=dataset, **options), own)

    with pytest.raises(UserError, match=r"several image columns.*: photo, mask"):
        source()
    with pytest.raises(UserError, match="no column 'foto'\ndid you mean 'photo'"):
        source(image_column="foto")
    assert list(tones(source(image_column="mask")).values()) == [2]
    assert list(tones(source(image_column="label")).values()) == ["int in place of an image's bytes"]


def test_tables_without_images_are_the_users_error(tmp_path: Path) -> None:
    """Where no column can hold images, the columns that are there are named."""
    with pytest.raises(UserError, match=r"no image column.*label, text"):
        open_path(write_parquet(tmp_path / "a.parquet", label=[1], text=["a"]))
    with pytest.raises(UserError, match="no image column: its columns are label"):
        open_source(DataOptions(), datasets.Dataset.from_dict({"label": [1]}))


def test_parquet_shards_follow_each_other(tmp_path: Path) -> None:
    """A folder of parquet files is one data set in the order of their names."""
    write_parquet(tmp_path / "data" / "train-1.parquet", image=[png(3)])
    write_parquet(tmp_path / "data" / "train-0.parquet", image=[png(1), png(2)])
    assert tones(open_path(tmp_path)) == {"train-0 0": 1, "train-0 1": 2, "train-1 0": 3}


def test_parquet_shards_must_agree(tmp_path: Path) -> None:
    """A shard without the image column of the first is named at once, not after hours of decoding."""
    write_parquet(tmp_path / "a.parquet", image=[png(1)])
    write_parquet(tmp_path / "b.parquet", picture=[png(2)])
    with pytest.raises(UserError, match=r"b\.parquet' has no column 'image': its columns are picture"):
        open_path(tmp_path)


def test_parquet_damaged_inside_is_the_users_error(tmp_path: Path) -> None:
    """A parquet file whose pages are damaged is named, and no other folder is blamed."""
    path = write_parquet(tmp_path / "a.parquet", image=[np.random.default_rng(0).bytes(5000) for _ in range(9)])
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet' cannot be read"):
        list(open_path(path).items())


def test_arrow_files_are_read(tmp_path: Path) -> None:
    """A file of `Dataset.save_to_disk` is a data set."""
    image_dataset(5, 6).save_to_disk(tmp_path)
    (path,) = tmp_path.glob("*.arrow")
    assert tones(open_path(path)) == {"row 0": 5, "row 1": 6}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda own: own, [1, 2, 3]),
        (lambda own: own.select([2, 0]), [3, 1]),
        (lambda own: own.filter(lambda row: row["label"] > 1), [2, 3]),
        (lambda own: own.with_format("numpy"), [1, 2, 3]),
        (lambda own: own.cast_column("image", datasets.Image(decode=False)), [1, 2, 3]),
        (lambda own: own.select([]), []),
    ],
    ids=["plain", "select", "filter", "format", "not decoded", "empty"],
)
def test_datasets_of_ones_own_keep_their_rows(
    change: Callable[[datasets.Dataset], datasets.Dataset], expected: list[int]
) -> None:
    """A datasets.Dataset gives just the rows it shows, whatever was selected or set on it, under a digest of them."""
    own = image_dataset(1, 2, 3)
    source = open_source(DataOptions(), change(own))
    assert list(tones(source).values()) == expected
    assert source.digest is not None
    assert (source.digest == open_source(DataOptions(), own).digest) == (change(own)._fingerprint == own._fingerprint)


def test_transforms_of_ones_own_are_used() -> None:
    """A datasets.Dataset with a transform gives what the transform makes, and is decoded afresh every time."""
    own = image_dataset(1, 2).with_transform(
        lambda rows: {"image": [Image.eval(image, lambda tone: 255 - tone) for image in rows["image"]]}
    )
    source = open_source(DataOptions(), own)
    assert list(tones(source).values()) == [254, 253]
    assert source.digest is None


def test_columns_that_a_format_hides_are_not_used() -> None:
    """A datasets.Dataset whose format shows labels alone has no image column for its caller, and none here."""
    with pytest.raises(UserError, match="no image column: its columns are label"):
        open_source(DataOptions(), image_dataset(1).with_format("numpy", columns=["label"]))
    shown = image_dataset(1).with_format("numpy", columns=["label"], output_all_columns=True)
    assert list(tones(open_source(DataOptions(), shown)).values()) == [1]


@pytest.mark.parametrize("kind", ["own", "parquet"])
@pytest.mark.parametrize(("mode", "shape"), [("L", (1, 4, 4)), ("RGB", (3, 4, 4)), (None, (3, 4, 4))])
def test_modes_of_features_are_honoured(kind: str, mode: str | None, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Images come in the mode that their feature has, from Python and from a parquet file that says so."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 0, 0)).save(buffer, "PNG")
    rows = {"image": [{"bytes": buffer.getvalue(), "path": None}]}
    own = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(mode=mode)}))
    own.to_parquet(tmp_path / "a.parquet")
    source = open_source(DataOptions(), own) if kind == "own" else open_path(tmp_path / "a.parquet")
    ((_, encoded, _),) = source.items()
    pixels, changes, *_ = decode_image(encoded, Preprocessing(4, "auto", "white"))
    assert pixels.shape == shape
    assert np.array_equal(pixels, np.asarray(own[0]["image"]).reshape(4, 4, -1).transpose(2, 0, 1))
    assert len(changes) == (mode == "L")
    unlike = open_source(DataOptions(), own.cast_column("image", datasets.Image(mode="CMYK")))
    assert unlike.digest != open_source(DataOptions(), own).digest


def test_datasets_that_point_to_files_have_no_digest(tmp_path: Path) -> None:
    """A datasets.Dataset that holds only the paths of images is never taken from the cache: the files may change."""
    path = write(tmp_path / "a.png", png(1))
    own = datasets.Dataset.from_dict({"image": [str(path)]}).cast_column("image", datasets.Image())
    source = open_source(DataOptions(), own)
    assert tones(source) == {str(path): 1}
    assert source.digest is None


def test_digests_differ_by_column(tmp_path: Path) -> None:
    """Two columns of one file have digests of their own."""
    path = write_parquet(tmp_path / "a.parquet", photo=[png(1)], mask=[png(2)])
    assert len({open_path(path, image_column=name).digest for name in ("photo", "mask")}) == 2


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_name_files_of_their_own_folder_only(kind: str, tmp_path: Path) -> None:
    """A cell may name a file beside its table; any other file of the machine is refused unread, links followed."""
    secret = write(tmp_path / "secret.png", png(9))
    folder = tmp_path / "set"
    inside = write(folder / "images" / "a.png", png(1))
    (folder / "link.png").symlink_to(secret)
    (folder / "out").symlink_to(tmp_path)
    outside = [str(secret), "../secret.png", "images/../../secret.png", "link.png", "out/secret.png", "a\0.png"]
    names = ["images/a.png", str(inside), *outside]
    rows = {"image": [{"bytes": None, "path": name} for name in names]}
    own = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    if kind == "parquet":
        pq.write_table(own.data.table, folder / "a.parquet")
    else:
        with (
            pa.OSFile(str(folder / "a.arrow"), "wb") as file,
            pa.ipc.new_stream(file, own.data.table.schema) as stream,
        ):
            stream.write_table(own.data.table)
    source = open_path(folder / f"a.{kind}")
    found = [tone(encoded) for _, encoded, _ in source.items()]
    assert found == [1, 1, *["names a file outside the data set's folder"] * len(outside)]
    assert source.digest is None  # the files may change while the table does not


def test_tables_name_members_of_zips(tmp_path: Path) -> None:
    """A cell may name what lies in zips of its folder, as those of the Hub do; other zips are refused unread."""
    zips = [write_zip(tmp_path / "set" / f"{n}.zip", [("a/b.png", png(n)), ("c.png", png(n + 1))]) for n in (1, 5)]
    outside = write_zip(tmp_path / "outside.zip", [("a.png", png(9))])
    write(tmp_path / "set" / "torn.zip", b"PK")
    named = [
        *(f"zip://a/b.png::{zips[0]}", f"zip://c.png::{zips[0]}", f"zip://c.png::{zips[1]}", "zip://c.png::1.zip"),
        *(f"zip://a.png::{outside}", "zip://a.png::../outside.zip", "zip://none.png::1.zip", "zip://a.png::torn.zip"),
        *("zip://a.png::.", "zip://a.png::", "zip://a.png"),
    ]
    cells = [{"bytes": None, "path": name} for name in named]
    column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    source = open_path(write_parquet(tmp_path / "set" / "a.parquet", image=column))
    found = [tone(encoded) for _, encoded, _ in source.items()]
    assert found[:4] == [1, 2, 6, 2]
    assert found[4:6] == ["names a file outside the data set's folder"] * 2
    assert found[6:9] == ["not in its archive", "cannot be read: File is not a zip file", "no regular file"]
    assert found[9:] == ["cannot be read: No such file or directory"] * 2


def test_odd_cells_are_refused(tmp_path: Path) -> None:
    """Cells of any other kind, in columns of any type that is asked for, are refused with what they hold."""
    nested = write_parquet(tmp_path / "nested.parquet", image=[[[png(1)]], [[]], None, [None]])
    kinds = ["list", "list", "NoneType", "NoneType"]
    found = list(tones(open_path(nested, image_column="image")).values())
    assert [str(reason).removesuffix("bytes").removesuffix("pixels") for reason in found] == [
        f"{kind} in place of an image's " for kind in kinds
    ]
    odd = write_parquet(tmp_path / "odd.parquet", image=[{"bytes": [1], "path": 3}, {"bytes": None, "path": 3}, None])
    kinds = ["list", "NoneType", "NoneType"]
    assert list(tones(open_path(odd)).values()) == [f"{kind} in place of an image's bytes" for kind in kinds]
    for column in ([], pa.nulls(2)):
        with pytest.raises(UserError, match="no image column"):
            open_path(write_parquet(tmp_path / "empty.parquet", image=column))
    assert tones(open_path(write_parquet(tmp_path / "none.parquet", image=pa.array([], pa.binary())))) == {}


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_bytes_of_any_type_are_images(kind: pa.DataType, is_dictionary: bool, tmp_path: Path) -> None:
    """A column of bytes is found and read whatever arrow type it has, dictionary-encoded ones too."""
    column = pa.array([png(1), png(2)], kind if not is_dictionary else pa.dictionary(pa.int32(), pa.binary()))
    assert list(tones(open_path(write_parquet(tmp_path / "a.parquet", image=column))).values()) == [1, 2]


@pytest.mark.parametrize("metadata", ["{torn", "[" * 100_000, '{"info": {"features": {"image": {}}}}', "[]", "7"])
def test_damaged_metadata_is_passed_over(metadata: str, tmp_path: Path) -> None:
    """Where the metadata of `datasets` is damaged or hostile, the columns are found by their types."""
    table = pa.table({"image": [png(1)]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert tones(open_path(tmp_path / "a.parquet")) == {"a 0": 1}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_cut_anywhere_are_the_users_error(kind: str, tmp_path: Path) -> None:
    """A table cut off at any place is named as unreadable, and is no traceback."""
    if kind == "parquet":
        whole = write_parquet(tmp_path / "whole.parquet", image=[png(1), png(2)])
    else:
        image_dataset(1, 2).save_to_disk(tmp_path / "saved")
        (whole,) = (tmp_path / "saved").glob("*.arrow")
    content = whole.read_bytes()
    for end in range(0, len(content), 97):
        path = write(tmp_path / f"cut.{kind}", content[:end])
        with pytest.raises(UserError, match=r"cut.* cannot be read"):
            list(open_path(path).items())
