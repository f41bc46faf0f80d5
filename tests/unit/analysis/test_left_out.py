"""What is said of what a data set's source holds and does not take."""

from openddpm.analysis.left_out import check_left_out, headline, is_more_than_taken, lines
from openddpm.record.data_record import DataRecord, LeftOut


def record(*left_out: LeftOut) -> DataRecord:
    """Return the record of ten images beside `left_out`."""
    return DataRecord(num_images=10, counts={}, images=[], left_out=list(left_out))


def test_nothing_left_out_is_nothing_said() -> None:
    """Where all is taken there is no finding."""
    assert list(check_left_out(record())) == [] and lines(record()) == []


def test_more_left_out_than_taken_is_a_warning() -> None:
    """More of what may be meant than of images is a warning; other splits and thumbnails make none."""
    meant, split = LeftOut(reason=".heic", count=11), LeftOut(reason="split 'test'", count=900, is_data=False)
    (warning,) = check_left_out(record(meant, split))
    assert (warning.name, warning.severity) == ("left_out", "warning")
    assert "more was left out (11) than used (10 images)" in warning.what
    for harmless in (split, LeftOut(reason=".heic", count=10)):
        (note,) = check_left_out(record(harmless))
        assert (note.name, note.severity) == ("left_out", "note") and not is_more_than_taken(record(harmless))
        assert note.what == f"left out, beside 10 images: {harmless.count}  {harmless.reason}"


def test_texts_are_not_told() -> None:
    """A README and captions are in the record, and neither lines, nor counts, nor findings tell of them."""
    text = LeftOut(reason=".txt files", count=7, is_data=False, is_text=True)
    assert lines(record(text)) == [] and list(check_left_out(record(text))) == []
    split = LeftOut(reason="split 'test'", count=3, is_data=False)
    assert len(lines(record(text, split))) == 1 and headline(record(text, split)) == "left out, beside 10 images: 3"


def test_lines_are_few_and_lose_no_count() -> None:
    """Of many reasons the first are told one by one and the others in sum, so that all counts add up."""
    data = record(*(LeftOut(reason=f".{index}", count=index + 1000, is_data=index == 9) for index in range(10)))
    told = lines(data, 4)
    assert len(told) == 4
    assert [int(line.split()[0].replace(",", "")) for line, _ in told] == [1000, 1001, 1002, 7042]
    assert told[-1][1] and told[-1][0].endswith("for 7 other reasons")
    assert headline(data).endswith(": 10,045")
    for number, shown in ((6, 6), (7, 5)):  # what has room is told one by one
        told = lines(record(*data.left_out[:number]))
        assert len(told) == 6 and not told[-1][1]
        assert [line.endswith(f" .{index}") for index, (line, _) in enumerate(told)].count(True) == shown
