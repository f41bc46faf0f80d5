"""What a verification found, in words, for the terminal and for pages."""

from collections.abc import Mapping
from typing import Final

from openddpm.analysis.text import count, listed
from openddpm.record.verification import RungName, RungStatus, VerificationRecord

TITLES: Final[Mapping[RungName, str]] = {
    "files": "files",
    "data": "data",
    "initial_weights": "initial weights",
    "evaluation": "evaluation",
    "previews": "previews",
    "first_steps": "first steps",
    "segments": "segments",
    "whole": "whole run",
}
"""Each rung, the lowest first."""
WORDS: Final[Mapping[RungStatus, str]] = {
    "exact": "exact",
    "rounding": "equal to rounding",
    "failed": "failed",
    "not_checked": "not checked",
}


def conclusion(found: VerificationRecord) -> str:
    """Return the result as a sentence."""
    by_status = titles_by_status(found)
    if found.is_failed:
        where = "" if found.first_divergent_step is None else f", first at step {count(found.first_divergent_step)}"
        return f"Not verified: {listed(by_status['failed'])} failed{where}; {steps_text(found)}."
    if not found.is_verified:
        missing = by_status.get("not_checked")
        why = f"{listed(missing)} not checked; " if missing else ""
        return f"Too little could be checked here: {why}nothing failed."
    how = "but for rounding" if "rounding" in by_status else "to the bit"
    return (
        f"Verified as far as the ladder was climbed: the record is what its options produce, {how}; "
        f"{steps_text(found)}."
    )


def titles_by_status(found: VerificationRecord) -> dict[RungStatus, list[str]]:
    """Return the titles of the rungs of each status that occurs, in the order of the ladder."""
    titles = {status: [TITLES[rung.name] for rung in found.rungs if rung.status == status] for status in WORDS}
    return {status: names for status, names in titles.items() if names}


def steps_text(found: VerificationRecord) -> str:
    """60 of 2,000 training steps computed again"""
    return f"{count(found.replayed_steps)} of {count(found.total_steps)} training steps computed again"
