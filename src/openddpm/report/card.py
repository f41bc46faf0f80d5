"""The model card: README.md of a run folder, with the curves and the samples in it."""

from importlib import resources
from pathlib import Path

from jinja2 import Environment

from openddpm.analysis.noise_checks import PIPELINE_STEPS
from openddpm.analysis.verdict import judge
from openddpm.record.files import write_atomically
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.record.schema import exported_weights

CURVES_FILE = "curves.png"


def write_card(folder: Path, run: RunFolder | None = None) -> Path:
    """Write README.md and curves.png of a run folder from its record alone; return the path of the card.

    Args:
        run: that record, if it has been read already.
    """
    from openddpm.report.curves import curves_png  # matplotlib, whose import would delay every run

    run = run or read_run_folder(folder)
    write_atomically(folder / CURVES_FILE, curves_png(run))
    template = resources.files("openddpm.report").joinpath("templates/card.md.j2").read_text("utf-8")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701 - Markdown
    environment.filters["plain"] = _plain
    scores = {row.weights: row for row in run.evaluations}
    shipped = scores.get(exported_weights(scores))
    preview = run.previews[-1] if run.previews else None
    num_timesteps = run.run.config.get("num_train_timesteps", 1000)  # the default, if the record has none
    card = environment.from_string(template).render(
        run=run.run,
        scores=scores,
        skill=None if shipped is None else shipped.skill if run.run.dataset.num_heldout else shipped.train_skill,
        preview=preview,
        curves=CURVES_FILE,
        num_steps=num_timesteps if num_timesteps % PIPELINE_STEPS else PIPELINE_STEPS,  # DDIMPipeline is correct in it
        verdict=judge(run.run, run.metrics, run.evaluations, run.baselines, run.samples),
    )
    write_atomically(folder / "README.md", card + "\n")
    return folder / "README.md"


def _plain(text: object) -> str:
    """Return `text` on one line, with Markdown, HTML, YAML and control characters made harmless."""
    line = "".join(character for character in " ".join(str(text).split()) if character.isprintable())
    escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_~[]|#!" else character for character in escaped)
