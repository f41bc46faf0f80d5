"""What is said of held-out images that are nearly training images, and of mirroring that nobody asked for."""

import pytest

from made_up_run import write_made_up_run
from openddpm.analysis.checks import check_plan
from openddpm.analysis.data_checks import check_mirroring, check_split, labels_text, seen_characters
from openddpm.analysis.verdict import judge
from openddpm.record.data_record import DataRecord, LabelsRecord, NearDuplicateRecord
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.record.schema import RunRecord


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A healthy run."""
    return read_run_folder(write_made_up_run(tmp_path_factory.mktemp("runs") / "run"))


def with_near(run: RunRecord, number: int, compared: int = 512) -> RunRecord:
    """Return the run with so many near duplicates across its split."""
    found = {"num_near_duplicates": number, "num_compared": compared}
    return run.model_copy(update={"dataset": run.dataset.model_copy(update=found)})


def flipping(run: RunRecord, source: str, chosen: list[str], random_flip: bool = True) -> RunRecord:
    """Return the run with its mirroring and how it came about."""
    dataset = run.dataset.model_copy(update={"source": source})
    config = {**run.config, "random_flip": random_flip}
    return run.model_copy(update={"dataset": dataset, "config": config, "chosen_options": chosen})


@pytest.mark.parametrize(("number", "severity"), [(0, None), (4, "note"), (11, "warning"), (300, "warning")])
def test_near_duplicates_across_the_split_are_told(record: RunFolder, number: int, severity: str | None) -> None:
    """The doctor tells of them by count and share, and warns from 2 % on; then the verdict's evidence does, too."""
    run = with_near(record.run, number)
    pairs = [NearDuplicateRecord(heldout="a.png", train="b.png", how="mirrored")]
    data = DataRecord(num_images=6000, counts={}, images=[], near_duplicates=pairs)
    found = {finding.name: finding for finding in check_plan(run, data)}.get("near_duplicates")
    assert (None if found is None else found.severity) == severity
    if found is not None:
        assert f"{number} of 512" in found.what and f"{number / 512:.1%}" in found.what  # type: ignore[operator]
        assert "a.png is b.png, mirrored" in found.what and found.images == ("a.png",)
    verdict = judge(run, record.metrics, record.evaluations, record.baselines)
    (evidence,) = [one for one in verdict.evidence if one.name == "near_duplicates"] or [None]
    assert (evidence is not None) == (severity == "warning")
    if evidence is not None:
        assert evidence.kind == "warning" and f"{number} of 512" in evidence.text
        assert evidence.value == pytest.approx(number / 512)  # type: ignore[operator]


def test_held_out_images_that_were_not_compared_are_told(record: RunFolder) -> None:
    """Where there are more held-out images than are compared, both numbers are given."""
    run = with_near(record.run, 100, compared=256)
    (found,) = [finding for finding in check_plan(run, None) if finding.name == "near_duplicates"]
    assert "100 of 256 held-out images (of 512)" in found.what
    for compared, what in ((1, "1 of 1 held-out image (of 512) (100.0%) is"), (50, "1 of 50 held-out images (of 512)")):
        (found,) = check_split(with_near(record.run, 1, compared), None)  # two per cent are enough
        assert found.severity == "warning" and found.what.startswith(what)


@pytest.mark.parametrize(("number", "verb"), [(1, "is"), (2, "are")])
def test_near_duplicates_are_named(record: RunFolder, number: int, verb: str) -> None:
    """Three pairs are named in words, by how they are alike, and all for programs."""
    run = with_near(record.run, number)
    pairs = [
        NearDuplicateRecord(heldout=f"{n}.png", train=f"{n}.jpg", how="nearly identical" if n else "mirrored")
        for n in range(4)
    ]
    named = ": 0.png is 0.jpg, mirrored; 1.png is nearly 1.jpg; 2.png is nearly 2.jpg"
    for shown, told in ((4, f"{named}; ..."), (3, named), (0, "")):
        data = DataRecord(num_images=6000, counts={}, images=[], near_duplicates=pairs[:shown])
        (found,) = [finding for finding in check_plan(run, data) if finding.name == "near_duplicates"]
        assert found.what == (
            f"{number} of 512 held-out images ({number / 512:.1%}) {verb} nearly a training image: the same picture "
            f"shifted, mirrored, recompressed or recoloured{told}"
        )
        assert found.images == tuple(pair.heldout for pair in pairs[:shown])


@pytest.mark.parametrize(
    ("chosen", "random_flip", "source", "severity"),
    [
        (["dataset"], True, "photos", "note"),
        (["dataset"], True, "ylecun/mnist", "warning"),
        (["dataset", "random_flip"], True, "ylecun/mnist", None),
        (["dataset", "random_flip"], False, "ylecun/mnist", None),
    ],
)
def test_mirroring_by_default_is_told(
    record: RunFolder, chosen: list[str], random_flip: bool, source: str, severity: str | None
) -> None:
    """It is a note where mirroring was not chosen, a warning where names tell of characters, and nothing elsewhere."""
    found = {finding.name: finding for finding in check_plan(flipping(record.run, source, chosen, random_flip), None)}
    assert (found["mirroring"].severity if "mirroring" in found else None) == severity
    assert severity is None or "--no-random_flip" in found["mirroring"].hint


def test_mirroring_of_characters_is_told_by_the_labels(record: RunFolder) -> None:
    """The classes of the data set count, not only its name."""
    labels = LabelsRecord(origin="sub-folders", counts=dict.fromkeys("ABCDE", 1))
    data = DataRecord(num_images=5, counts={}, images=[], labels=labels)
    (found,) = check_mirroring(flipping(record.run, "photos", []), data)
    assert found.severity == "warning" and "their classes are called A, B, C ... E:" in found.what


@pytest.mark.parametrize(
    ("source", "classes", "are_seen"),
    [
        ("data/faces", [str(number) for number in range(10)], True),
        ("data/faces", list("abcxyz"), True),
        ("data/faces", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], True),
        ("data/faces", ["a", "b", "c"], True),
        ("data/faces", ["a", "b", "?"], False),
        ("data/faces", ["0", "1"], False),  # no and yes
        ("data/faces", [str(number) for number in range(43)], False),  # numbered classes
        ("data/faces", ["a", "b", "cat"], False),
        ("/home/me/EMNIST", [], True),
        ("fonts/", [], True),
        ("runs/my_digits-28.zip", [], True),
        ("svhn_cropped", [], True),
        ("/home/mnist/photos", [], False),
        ("C:\\mnist\\photos", [], False),
        ("fontsX", [], False),
        ("zalando/fashion_mnist", [], False),
        ("me/pokemon-text-to-image", [], False),
        ("textures", [], False),
        ("game-characters", [], False),
    ],
)
def test_characters_are_known_by_names(source: str, classes: list[str], are_seen: bool) -> None:
    """Single characters or numerals as labels, or a telling name of the data set; no labels that are mere numbers."""
    labels = LabelsRecord(origin="sub-folders", counts=dict.fromkeys(classes, 1))
    assert bool(seen_characters(source, labels)) == are_seen
    unnamed = labels.model_copy(update={"are_numbers": True})
    assert bool(seen_characters(source, unnamed)) == (are_seen and not classes)


def test_labels_in_words() -> None:
    """How many there are and where they are from, the first by name; or why there are none."""
    labels = LabelsRecord(
        origin="sub-folders", num_labels=20, num_labelled=1234, counts={f"c{n}": n for n in range(20)}
    )
    text = labels_text(labels)
    assert text.startswith("20, from sub-folders, of 1,234 images: c0 0, c1 1,") and text.endswith("c11 11, ...")
    assert labels_text(LabelsRecord(origin="", note="several")) == "several"
    twelve = LabelsRecord(origin="x", num_labels=12, num_labelled=1, counts=dict.fromkeys("abcdefghijkl", 0))
    assert labels_text(twelve) == "12, from x, of 1 image: " + ", ".join(f"{name} 0" for name in "abcdefghijkl")


def test_what_tells_of_characters_is_named() -> None:
    """The words are those that the finding gives: three classes and the last, or the part of the data set's name."""
    labels = LabelsRecord(origin="sub-folders", counts=dict.fromkeys("ABCDE", 1))
    assert seen_characters("data", labels) == "their classes are called A, B, C ... E"
    assert seen_characters("EMNIST", None) == "the data set's name says 'mnist'"
    assert seen_characters("C:\\data\\digits-28\\", None) == "the data set's name says 'digits'"
