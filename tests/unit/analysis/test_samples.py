"""What samples that look like the training images, or do not, add to the verdict and the report."""

from pathlib import Path

import pytest

from made_up_run import made_up_samples, write_made_up_run
from openddpm.analysis.course import Course
from openddpm.analysis.samples import differences, level, samples_finding
from openddpm.analysis.verdict import judge
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.record.schema import Evidence, SamplesRow, SampleStatistic, StatisticName, Verdict
from openddpm.report.facts import verdict_badge
from report_page import page_of

STEPS = 2400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy run, far better than a linear filter at its end."""
    return write_made_up_run(tmp_path_factory.mktemp("runs") / "run", steps=STEPS)


@pytest.fixture
def run(folder: Path) -> RunFolder:
    """Its record."""
    return read_run_folder(folder)


def judged(run: RunFolder, *samples: SamplesRow) -> tuple[Verdict, Evidence | None]:
    """Return the verdict with these samples, and what it says of them."""
    verdict = judge(run.run, run.metrics, run.evaluations, run.baselines, samples)
    return verdict, next((one for one in verdict.evidence if one.name == "samples"), None)


def test_samples_like_the_data_are_good(run: RunFolder) -> None:
    """Where all statistics lie within chance the evidence is good, and the sentence the same as without samples."""
    verdict, samples = judged(run, *run.samples)
    assert samples is not None and samples.kind == "good"
    assert verdict.sentence == judged(run)[0].sentence
    assert verdict_badge(verdict).tone == "good"


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ({"brightness": 0.0}, ["darker (brightness 0.000 beside 0.700 \N{PLUS-MINUS SIGN} 0.013)"]),
        ({"brightness": 0.9}, ["brighter"]),
        ({"colour": 0.1, "contrast": 0.1}, ["grayer", "of weaker contrast"]),
        ({"fine": 0.3}, ["noisier (fine structure 0.300"]),
        ({"fine": 0.05}, ["blurrier"]),
    ],
)
def test_samples_unlike_the_data_belie_a_good_run(means: dict[str, float], words: list[str], run: RunFolder) -> None:
    """The evidence warns with the numbers, the sentence says what the samples are, and the badge is no good news."""
    verdict, samples = judged(run, made_up_samples(STEPS, "ema", **means))
    assert samples is not None and samples.kind == "warning"
    assert all(word in samples.text for word in words)
    assert "But its samples are" in verdict.sentence and words[0].split(" (")[0] in verdict.sentence
    assert (verdict.code, verdict_badge(verdict).tone) == ("finished", "warning")


def test_the_hint_at_the_solver_is_for_what_a_solver_spoils(run: RunFolder) -> None:
    """Brightness that is off points at how samples are drawn; noise, which wants more training, does not."""
    is_hinted = {}
    for name in ("brightness", "contrast", "colour", "medium", "fine"):
        _, samples = judged(run, made_up_samples(STEPS, "ema", **{name: 0.4}))
        is_hinted[name] = samples is not None and "noise schedule" in samples.text
    assert is_hinted == {"brightness": True, "contrast": True, "colour": True, "medium": False, "fine": False}


def test_a_difference_that_nobody_sees_is_none(run: RunFolder) -> None:
    """A sure difference that cannot be seen, of training images that hardly differ, is passed over; so is chance."""
    row = made_up_samples(STEPS, "ema")
    sure = row.statistics["brightness"].model_copy(update={"samples": 0.72, "low": 0.7, "high": 0.7, "error": 0.0})
    wide = row.statistics["colour"].model_copy(update={"samples": 0.5, "high": 0.51, "error": 0.06})
    row = row.model_copy(update={"statistics": {**row.statistics, "brightness": sure, "colour": wide}})
    _, samples = judged(run, row)
    assert samples is not None and samples.kind == "good"


def measured(name: StatisticName, samples: float, data: float, error: float = 0.01) -> SamplesRow:
    """Return the measurement of a statistic that is 0.4 to 0.6 in as many training images."""
    one = SampleStatistic(samples=samples, data=data, error=error, low=0.4, high=0.6)
    return made_up_samples(STEPS, "ema").model_copy(update={"statistics": {name: one}})


@pytest.mark.parametrize(
    ("name", "samples", "data", "word"),
    [
        ("brightness", 0.601, 0.57, "brighter"),
        ("brightness", 0.601, 0.572, None),
        ("brightness", 0.03, 0.0, "brighter"),  # just visible
        ("brightness", 0.6, 0.5, None),
        ("brightness", 0.4, 0.5, None),
        ("brightness", 0.399, 0.5, "darker"),
        ("contrast", 0.601, 0.5, "of stronger contrast"),
        ("contrast", 0.399, 0.5, "of weaker contrast"),
        ("colour", 0.601, 0.5, "more colourful"),
        ("colour", 0.399, 0.5, "grayer"),
        ("medium", 0.601, 0.5, "rougher"),
        ("medium", 0.601, 0.502, None),  # less than a fifth more
        ("medium", 0.0301, 0.02, "rougher"),
        ("medium", 0.0299, 0.02, None),  # less than a hundredth more
        ("medium", 0.399, 0.5, "smoother"),
        ("fine", 0.601, 0.5, "noisier"),
        ("fine", 0.601, 0.502, None),
        ("fine", 0.399, 0.5, "blurrier"),
    ],
)
def test_what_differs_visibly_has_a_word(name: StatisticName, samples: float, data: float, word: str | None) -> None:
    """Beyond any group of training images, and by 0.03, or of structure by a fifth and a hundredth."""
    found = differences(measured(name, samples, data))
    assert [one.word for one in found] == ([word] if word else [])
    called = {"medium": "medium structure", "fine": "fine structure"}.get(name, name)
    assert not found or f"{word} ({called} {samples:.3f} beside {data:.3f} " in found[0].text


def test_numbers_have_three_digits_until_they_are_huge() -> None:
    """From ten thousand on the power of ten is given."""
    assert [level(number) for number in (0.70312, -9999.0, 1e4, -1e4)] == ["0.703", "-9999.000", "1.0e+04", "-1.0e+04"]


@pytest.mark.parametrize(
    ("row", "kind", "text", "value"),
    [
        (
            measured("brightness", 0.42, 0.5),
            "good",
            "As far as 16 samples can show, brightness and sharpness are as in the data.",
            -8,
        ),
        (measured("fine", 0.5, 0.5, error=0.0), "good", None, 0),
        (measured("fine", 0.45, 0.5, error=0.0), "good", None, None),
        (
            measured("fine", 0.7, 0.5),
            "warning",
            "The samples of step 2,400 are noisier (fine structure 0.700 beside 0.500 \N{PLUS-MINUS SIGN} 0.010) than "
            "the training images; \N{PLUS-MINUS SIGN} is the standard error for 16 images.",
            20,
        ),
    ],
)
def test_the_evidence_is_in_standard_errors(
    row: SamplesRow, kind: str, text: str | None, value: float | None, run: RunFolder
) -> None:
    """Its value is by how many standard errors the statistic furthest off differs; none if there is no error."""
    near = row.statistics.copy()
    near["contrast"] = SampleStatistic(samples=0.51, data=0.5, error=0.01, low=0.4, high=0.6)
    if value == 0:
        near.pop("contrast")
    found = samples_finding(
        Course(run.run, run.metrics, run.evaluations, run.baselines), [row.model_copy(update={"statistics": near})]
    )
    assert found is not None and found.evidence.kind == kind
    assert text in (None, found.evidence.text)
    assert found.evidence.value == (None if value is None else pytest.approx(value))


def test_a_model_that_is_still_bad_is_not_accused(run: RunFolder) -> None:
    """Until the weights that drew the samples beat a linear filter, what is off is a note and not in the sentence."""
    early = next(row.step for row in run.evaluations if row.skill is not None and row.skill < 0)
    verdict, samples = judged(run, made_up_samples(early, "ema", brightness=0.1))
    assert samples is not None and samples.kind == "note" and "expected" in samples.text
    assert samples.value == pytest.approx((0.1 - 0.7) / 0.013)
    assert "samples" not in verdict.sentence


@pytest.mark.parametrize(("skills", "kind"), [([], "note"), ([-0.001], "note"), ([0.0], "warning")])
def test_the_skill_counts_that_the_weights_had(skills: list[float], kind: str, run: RunFolder) -> None:
    """It is that of the samples' own step; level with a linear filter is enough, and none is not."""
    row = run.evaluations[-1].model_copy(update={"weights": "ema"})
    evaluations = [row.model_copy(update={"skill": skill}) for skill in skills]
    samples = made_up_samples(row.step, "ema", brightness=0.1)
    found = samples_finding(Course(run.run, [], evaluations, run.baselines), [samples])
    assert found is not None and found.evidence.kind == kind


def test_the_newest_samples_of_the_better_weights_count(run: RunFolder) -> None:
    """Older samples and those of the worse weights are passed over; these are taken where there are no others."""
    dark, right = made_up_samples(STEPS, "raw", brightness=0.1), made_up_samples(STEPS, "ema")
    older = made_up_samples(STEPS - 1, "ema", brightness=0.1)
    kinds = [judged(run, *rows)[1] for rows in ([older, dark, right], [right, dark, older], [dark])]
    assert [one.kind for one in kinds if one is not None] == ["good", "good", "warning"]


def test_a_transform_is_no_fault_of_the_samples(run: RunFolder) -> None:
    """Training images are measured without a caller's transform, which may well brighten them: a note, no warning."""
    own = run.run.model_copy(update={"user_supplied": ["transform"]})
    verdict = judge(own, run.metrics, run.evaluations, run.baselines, [made_up_samples(STEPS, "ema", brightness=0.1)])
    assert [one.kind for one in verdict.evidence if one.name == "samples"] == ["note"]
    assert "samples" not in verdict.sentence


def test_a_record_without_samples_has_none_in_its_verdict(run: RunFolder) -> None:
    """A record of an older openddpm is judged as it was."""
    assert judged(run)[1] is None


def test_the_report_sets_samples_beside_the_data(folder: Path, tmp_path: Path) -> None:
    """A table near the previews has a row a statistic and says in a word what is off; without samples there is none."""
    text = " ".join(page_of(folder).text.split())
    assert "Beside the training images" in text and "fine structure" in text and "alike" in text
    dark = write_made_up_run(tmp_path / "dark", steps=STEPS)
    (dark / "samples.jsonl").write_text(made_up_samples(STEPS, "ema", brightness=0.1).model_dump_json() + "\n")
    text = " ".join(page_of(dark).text.split())
    assert "brightnessdarker0.1000.7000.650 to 0.750" in text and "But its samples are darker" in text
    (dark / "samples.jsonl").unlink()
    assert "Beside the training images" not in page_of(dark).text
