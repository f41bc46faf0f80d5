"""What a verification found, in words."""

import pytest

from openddpm.analysis.verification import TITLES, conclusion, titles_by_status
from openddpm.record.verification import RungName, RungStatus
from verifications import CLIMBED, a_verification

EXACT: dict[RungName, RungStatus] = dict.fromkeys(TITLES, "exact")


@pytest.mark.parametrize(
    ("statuses", "sentence"),
    [
        (EXACT, "Verified as far as the ladder was climbed: the record is what its options produce, to the bit; "),
        (CLIMBED, "Verified as far as the ladder was climbed: the record is what its options produce, but for "),
        ({**EXACT, "data": "not_checked"}, "Too little could be checked here: data not checked; nothing failed."),
        ({"files": "exact"}, "Too little could be checked here: nothing failed."),
        ({**EXACT, "segments": "failed"}, "Not verified: segments failed, first at step 40; 60 of 400 training steps "),
        (
            {**EXACT, "data": "not_checked", "files": "failed", "previews": "failed"},
            "Not verified: files and previews failed, first at step 40; ",
        ),
    ],
    ids=["exact", "rounding", "no data", "files alone", "failed", "failed and not checked"],
)
def test_the_conclusion_says_what_holds(statuses: dict[RungName, RungStatus], sentence: str) -> None:
    """A failed rung decides; without files, data or first steps it is too little; rounding is named."""
    found = a_verification(statuses, first_divergent_step=40 if "failed" in statuses.values() else None)
    assert conclusion(found).startswith(sentence)


def test_rungs_are_named_by_their_status_in_the_order_of_the_ladder() -> None:
    """Each rung is under its status, and statuses that no rung has are left out."""
    assert titles_by_status(a_verification()) == {
        "exact": ["files", "data", "initial weights", "evaluation"],
        "rounding": ["first steps", "previews"],
        "not_checked": ["segments"],
    }
