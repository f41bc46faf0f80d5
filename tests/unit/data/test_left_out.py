from openddpm.data.left_out import MAX_REASONS, LeftOutCounts


def test_very_many_reasons_are_told_in_sum() -> None:
    """An archive in which each file is of a kind of its own fills no record: the last are one entry, all counted."""
    left_out = LeftOutCounts()
    for number in range(1000):
        left_out.add(f".{number} files", [f"a.{number}"], is_data=False, is_text=True)
    left_out.add(".heic: needs a package", ["a.heic", "b.heic"], is_data=True)
    first, *rest = left_out.listed()
    assert (first.count, first.is_data) == (2, True)
    assert len(rest) == MAX_REASONS and sum(one.count for one in rest) == 1000
    assert rest[-1].reason == f"for {1000 - MAX_REASONS + 1} other reasons"
    assert not rest[-1].is_data and rest[-1].is_text and len(rest[-1].examples) == 3


def test_each_reason_is_told_once_with_its_first_names() -> None:
    """Names that come one by one add up, the first three are kept, and what counts nothing is not told."""
    left_out = LeftOutCounts()
    for number in range(5):
        left_out.add("texts", [f"{number}.txt"], is_data=False)
    left_out.add("nothing", [], is_data=True)
    (told,) = left_out.listed()
    assert (told.count, told.examples) == (5, ["0.txt", "1.txt", "2.txt"])
