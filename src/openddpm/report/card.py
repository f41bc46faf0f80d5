"""The model card: README.md of a run folder, with the curves and the samples in it, and metadata for the Hub."""

import re
from collections.abc import Collection
from importlib import resources
from pathlib import Path

from jinja2 import Environment

from openddpm.analysis.noise_checks import PIPELINE_STEPS
from openddpm.analysis.text import listed, utc_text
from openddpm.analysis.verdict import judge
from openddpm.analysis.verification import WORDS, conclusion, titles_by_status
from openddpm.names import one_line
from openddpm.record.files import write_atomically
from openddpm.record.kept import list_milestones
from openddpm.record.public import published
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.record.schema import EvaluationRow, RunRecord, exported_weights
from openddpm.record.verification import VerificationRecord, read_verification
from openddpm.record.writer import VERIFICATION_PAGE
from openddpm.report.reproduce import how_to_reproduce

CURVES_FILE = "curves.png"
TASK = "unconditional-image-generation"
DATA_LICENSES = {"avatars-16": "cc0-1.0", "digits-8": "cc-by-4.0"}  # of built-in data; see data/builtin/LICENSE.md


def write_card(
    folder: Path,
    run: RunFolder | None = None,
    repository: str | None = None,
    milestones: Collection[int] | None = None,
) -> Path:
    """Write README.md and curves.png of a run folder from its record alone; return the path of the card.

    Args:
        run: that record, if it has been read already.
        repository: where the run is on the Hub; None for that of its options, if they name the account.
        milestones: steps whose weights are beside the card; None for those that are in `folder`.
    """
    from openddpm.report.curves import curves_png  # matplotlib, whose import would delay every run

    run = run or read_run_folder(folder)
    data_license = _data_license(run.run)
    run = published(run)
    named = str(run.run.config.get("hub_model_id") or "")
    repository = repository or (named if "/" in named else None)
    write_atomically(folder / CURVES_FILE, curves_png(run))
    template = resources.files("openddpm.report").joinpath("templates/card.md.j2").read_text("utf-8")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701 - Markdown
    environment.filters["plain"] = _plain
    scores = {row.weights: row for row in run.evaluations}
    shipped = scores.get(exported_weights(scores))
    kept = list_milestones(folder) if milestones is None else milestones
    seen = [row.images_seen for row in run.checkpoints if row.step in kept]
    preview = run.previews[-1] if run.previews else None
    num_timesteps = run.run.config.get("num_train_timesteps", 1000)  # the default, if the record has none
    verified = read_verification(folder, run.run.run_id)
    card = environment.from_string(template).render(
        run=run.run,
        metadata=_metadata(run.run, shipped, data_license),
        repository=repository and _code(repository),
        milestones=seen,
        reproduce=how_to_reproduce(run.run),
        scores=scores,
        skill=None if shipped is None else shipped.skill if run.run.dataset.num_heldout else shipped.train_skill,
        preview=preview,
        verification=verified and verification_text(verified),
        verification_page=VERIFICATION_PAGE if (folder / VERIFICATION_PAGE).is_file() else "",
        curves=CURVES_FILE,
        num_steps=num_timesteps if num_timesteps % PIPELINE_STEPS else PIPELINE_STEPS,  # DDIMPipeline is correct in it
        verdict=judge(run.run, run.metrics, run.evaluations, run.baselines, run.samples),
    )
    write_atomically(folder / "README.md", card + "\n")
    return folder / "README.md"


def _metadata(run: RunRecord, shipped: EvaluationRow | None, data_license: str | None) -> str:
    """Return the YAML at the head of the card: what it is, and how well it does on held-out images."""
    from huggingface_hub import EvalResult, ModelCardData

    name, source = (re.sub("-{3,}", "--", one_line(text)) or "run" for text in (run.name, run.dataset.source))
    scores: dict[str, tuple[str, float | None]] = {}
    if shipped is not None:
        scores = {"held-out loss": ("heldout_loss", shipped.heldout_loss), "held-out skill": ("skill", shipped.skill)}
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=source,
            dataset_name=source,
            dataset_revision=run.dataset.revision,
            metric_type=kind,
            metric_name=f"{words} of the exported weights",
            metric_value=value,
        )
        for words, (kind, value) in scores.items()
        if value is not None
    ]
    return ModelCardData(
        library_name="diffusers",
        license=data_license,
        pipeline_tag=TASK,
        tags=["diffusers", "openddpm", "ddpm", TASK],
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()


def verification_text(found: VerificationRecord) -> str:
    """Return what was checked of a run, by which rungs, when and where, as two sentences."""
    rungs = "; ".join(f"{WORDS[status]}: {listed(titles)}" for status, titles in titles_by_status(found).items())
    where = "" if found.environment is None else f" on {found.environment.device}"
    return f"{conclusion(found)} Checked by openddpm verify, {utc_text(found.time)}{where}: {rungs}."


def _data_license(run: RunRecord) -> str | None:
    """Return the license of built-in data; None for data whose license the record does not tell."""
    source = run.dataset.source
    is_built_in = run.config.get("dataset") == source and "dataset" not in run.user_supplied
    return DATA_LICENSES.get(source) if is_built_in else None


def _code(repository: str) -> str:
    """Return a repository's name as it stands in code: with the characters that such names have, and no others."""
    return re.sub(r"[^A-Za-z0-9/._-]", "", repository)


def _plain(text: object) -> str:
    """Return `text` on one line, with Markdown, HTML, YAML and control characters made harmless."""
    line = one_line(text)
    escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_~[]|#!" else character for character in escaped)
