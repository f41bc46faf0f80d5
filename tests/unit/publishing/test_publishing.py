"""The model card, and what a push may take along."""

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from markdown_it import MarkdownIt

from made_up_run import write_made_up_run
from openddpm.publishing.hub import _DEEPER_FILES, ALLOWED_FILES
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import Verdict
from openddpm.report.card import write_card

STRANGERS = [
    *("checkpoints/step-00000011/unet.safetensors", "checkpoints/step-00000011/optimizer.safetensors"),
    *("checkpoints/step-00000011/state.json", ".lock", ".run.json.7.tmp", "notes.txt", "token", ".env"),
    *("samples/ddim-50-seed-0/00000.png", "samples/step-1/a.png", "samples/holiday.png", "unet/backup/x.safetensors"),
    *("unet/.diffusion_pytorch_model.safetensors.tmp", "logs/events.out.tfevents.1", "other/README.md", "optimizer.pt"),
]
OURS = [
    *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    *(
        "scheduler/scheduler_config.json",
        "run.json",
        "metrics.jsonl",
        "evaluations.jsonl",
        "samples.jsonl",
        "checkpoints.jsonl",
    ),
    *("data.json", "baselines.json", "verdict.json", "report.html", "README.md", "curves.png"),
    *("samples/step-00000011-ema.png", "samples/step-00000011-raw.png", "samples/training-data.png"),
]


def test_a_push_takes_the_allowed_files_alone() -> None:
    """Of all that may lie in a run folder, the contract's public files pass the filter of the upload, and no others."""
    passed = filter_repo_objects(OURS + STRANGERS, allow_patterns=list(ALLOWED_FILES), ignore_patterns=[_DEEPER_FILES])
    assert list(passed) == OURS


def front_matter(card: str) -> dict[str, object]:
    """Return the YAML at the head of a card."""
    head = card.split("---\n")[1]
    loaded = yaml.safe_load(head)
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a <b>run</b>", "# a &lt;b&gt;run&lt;/b&gt;"),
        ("![x](http://e.example)", r"# \!\[x\](http://e.example)"),
        ("line\n---\r\nlicense: mit", "# line --- license: mit"),
        ("`code` *bold* _it_ ~~no~~ | # &amp;", r"# \`code\` \*bold\* \_it\_ \~\~no\~\~ \| \# &amp;amp;"),
    ],
)
def test_markup_in_names_stays_text(name: str, shown: str, tmp_path: Path) -> None:
    """Markdown, HTML and YAML in the names of a run and of its data stay text in the card."""
    card = write_card(write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1, name=name, source=name))
    lines = card.read_text("utf-8").splitlines()
    assert shown in lines
    assert f"| data | {shown.removeprefix('# ')}, " in "\n".join(lines)
    assert front_matter("\n".join(lines)).keys() == {"library_name", "pipeline_tag", "tags"}


HOSTILE_NAMES = [
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!-- ]]> -->", "a | b | c", "**a** `b` <b>c</b>"),
    *("[x](javascript:alert(1))", "![x](http://e.example/x.png)", "<javascript:alert(1)>", "# x", "```\n# x\n```"),
    *(
        "x\n---\nlicense: mit\n---\n",
        "\"'{{ 7 * 7 }}",
        "\u2028---\u2028license: mit",
        "[x]: javascript:alert(1)",
        "\x1b[31mx",
    ),
]


def elements(card: str) -> list[str]:
    """Return what a Markdown renderer makes of a card, but for its text: tags, addresses and raw HTML."""
    body = card.split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)
    inline = [child for token in tokens for child in token.children or []]
    return [
        " ".join([token.type, token.tag, str(token.attrs), token.content * token.type.startswith("html")])
        for token in (*tokens, *inline)
        if token.type != "text"
    ]


@pytest.mark.parametrize("hostile", HOSTILE_NAMES)
def test_names_cannot_break_out_of_the_card(hostile: str, tmp_path: Path) -> None:
    """Whatever the run, its data and its device are called, the card has the elements and front matter of any other."""
    pages = []
    for name in ("plain", hostile):
        folder = write_made_up_run(tmp_path / str(len(pages)), steps=10, rows=2, previews=1, name=name, source=name)
        record = json.loads((folder / "run.json").read_text("utf-8"))
        record["sessions"][-1]["environment"]["device"] = name
        (folder / "run.json").write_text(json.dumps(record), "utf-8")
        pages.append(write_card(folder).read_text("utf-8"))
    assert elements(pages[0]) == elements(pages[1])
    assert ModelCard(pages[0]).data.to_dict() == ModelCard(pages[1]).data.to_dict()
    assert pages[1].replace("\n", "").isprintable()


def test_the_card_shows_samples_curves_and_scores(tmp_path: Path) -> None:
    """The card embeds the last samples and the curves, which lie beside it, and gives the last held-out losses."""
    folder = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=2)
    card = write_card(folder).read_text("utf-8")
    for picture in ("samples/step-00000010-ema.png", "curves.png"):
        assert f"]({picture})" in card
        assert (folder / picture).is_file()
    assert "held-out loss, ema weights" in card
    assert "held-out loss, raw weights" in card


@pytest.mark.parametrize(("num_timesteps", "num_steps"), [(1000, 50), (100, 50), (128, 128), (30, 30)])
def test_the_card_draws_in_a_number_of_steps_that_is_right(num_timesteps: int, num_steps: int, tmp_path: Path) -> None:
    """The code of the card takes steps that divide the timesteps: DDIMPipeline draws others too gray, or refuses."""
    config = {"num_train_timesteps": num_timesteps, "num_inference_steps": 10}
    folder = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1, config=config)
    assert f"num_inference_steps={num_steps})" in write_card(folder).read_text("utf-8")


def test_the_card_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    """A run without previews and evaluations has a card too."""
    folder = write_made_up_run(tmp_path / "run", steps=0, rows=0, previews=0, status="running")
    card = write_card(folder).read_text("utf-8")
    assert "| status | running at step 0 of 1 |" in card
    assert "held-out loss," not in card


def test_the_card_gives_verdict_and_skill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card says the verdict's sentence, markup in it as text, and the skill of the weights that are uploaded."""
    words = {"code": "learning", "sentence": "It *learns*.", "evidence": [], "step": 10, "images_seen": 320}
    verdict = Verdict.model_validate({**words, "skill": 0.9, "weights": "raw"})
    monkeypatch.setattr("openddpm.report.card.judge", lambda *record: verdict)
    for use_ema in (True, False):
        folder = write_made_up_run(tmp_path / f"ema-{use_ema}", previews=2, use_ema=use_ema)
        shipped = read_run_folder(folder).evaluations[-2 if use_ema else -1]
        assert shipped.weights == ("ema" if use_ema else "raw") and shipped.skill is not None
        line = next(line for line in write_card(folder).read_text("utf-8").splitlines() if "learns" in line)
        expected = rf"**It \*learns\*.** Held-out skill of the weights in this folder: {shipped.skill:.2f} (0 is"
        assert line.startswith(expected)
    bare = write_made_up_run(tmp_path / "bare", steps=10, rows=2, evaluations=0, previews=1)
    assert "skill" not in next(line for line in write_card(bare).read_text("utf-8").splitlines() if "learns" in line)
