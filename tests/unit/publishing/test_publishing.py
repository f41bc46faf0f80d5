"""The model card, and what a push may take along."""

import hashlib
import json
import shlex
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from made_up_run import write_made_up_run
from openddpm.cli.options import parse_train_config
from openddpm.config import config_differences, recorded_config
from openddpm.errors import UserError
from openddpm.publishing.selection import Commit, left_over, manifest_of, select
from openddpm.record.files import file_sha256
from openddpm.record.kept import PublishedWeights, milestone_name
from openddpm.record.manifest import ManifestCheck, check_manifest, read_manifest, write_manifest
from openddpm.record.public import WEIGHTS_FILE, WEIGHTS_FILES, last_part, published_names
from openddpm.record.reader import read_checkpoint_rows, read_run_folder
from openddpm.record.schema import RunRecord, Verdict
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


def test_a_push_takes_the_allowed_files_alone(tmp_path: Path) -> None:
    """Of all that may lie in a run folder, the contract's public files are chosen for the upload, and no others."""
    run = write_made_up_run(tmp_path / "run", steps=11, rows=2, previews=1, findings=[])
    for name in {*OURS, *STRANGERS} - {"run.json", "data.json", "baselines.json"}:
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".jsonl" and not path.exists():
            path.write_bytes(b"{}")
    (first,) = select_with_weights(run)
    assert sorted(first.content) == sorted(OURS)


def select_with_weights(run: Path, choice: PublishedWeights | None = None) -> list[Commit]:
    """Return what would be pushed of a made-up run, its weights noted as those of its last checkpoint."""
    rows = [json.loads(line) for line in (run / "checkpoints.jsonl").read_text("utf-8").splitlines()]
    rows[-1]["exported_sha256"] = file_sha256(run / WEIGHTS_FILE)
    (run / "checkpoints.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return select(run, "me/model", choice)


def test_a_record_without_weights_leaves_those_of_its_run(tmp_path: Path) -> None:
    """Weights in the repository stay if they are of a checkpoint of this run; those of another run go with it."""
    run = write_made_up_run(tmp_path / "run", steps=11, rows=2, previews=1)
    own = json.loads((run / "checkpoints.jsonl").read_text("utf-8").splitlines()[-1])["exported_sha256"]
    there = {
        "run.json": None,
        "manifest.json": None,
        **dict.fromkeys(WEIGHTS_FILES),
        "samples/step-00000099-ema.png": None,
    }
    commits = select(run, "me/model", None)
    assert left_over(run, commits, {**there, WEIGHTS_FILE: own}) == ["samples/step-00000099-ema.png"]
    assert {*WEIGHTS_FILES} < {*left_over(run, commits, {**there, WEIGHTS_FILE: "0" * 64})}


def with_manifest(run: Path) -> Path:
    """Return a run folder after its manifest is written."""
    write_manifest(run, published_names(run, read_checkpoint_rows(run), None))
    return run


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", ""),
        ("run.json", None),
        ("evaluations.jsonl", None),
        ("verdict.json", '{"code": "learning", "sentence": "", "evidence": [], "step": 1, "images_seen": 32}'),
        ("samples/step-00000011-ema.png", "another picture"),
        ("unet/config.json", "{}"),
    ],
    ids=lambda value: "" if value is None else value[:20],
)
def test_a_changed_record_is_not_pushed(name: str, content: str | None, tmp_path: Path) -> None:
    """A file of the record that was edited, removed or added after the run is named, and nothing is sent or written."""
    run = write_made_up_run(tmp_path / "run", steps=11, rows=2, previews=1)
    (run / "unet").mkdir()
    (run / "unet" / "config.json").write_text('{"sample_size": 16}', "utf-8")
    with_manifest(run)
    if content is not None:
        (run / name).write_text(content, "utf-8")
    elif name == "run.json":
        (run / name).write_text((run / name).read_text("utf-8").replace('"seed": 0', '"seed": 1'), "utf-8")
    else:
        (run / name).unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"was changed after the run ended.*: '{name}'\n"):
        select(run, "me/model", None)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    (run / "manifest.json").unlink()
    assert select(run, "me/model", None)


def test_pages_and_previews_may_change_or_go(tmp_path: Path) -> None:
    """A page that was edited, since it is made anew, and a preview that was removed keep no run from being pushed."""
    run = write_made_up_run(tmp_path / "run", steps=11, rows=2, previews=1)
    write_card(run)
    with_manifest(run)
    (run / "README.md").write_text("mine", "utf-8")
    (run / "samples" / "step-00000011-ema.png").unlink()
    (first,) = select(run, "me/model", None)
    assert b"openddpm" in first.content["README.md"]  # type: ignore[operator]
    manifest = read_manifest(run)  # select wrote the card in the folder, too
    assert manifest is not None
    assert check_manifest(run, manifest) == ManifestCheck(["samples/step-00000011-ema.png"], [], [])


def test_the_manifest_of_a_push_lists_what_the_repository_has(tmp_path: Path) -> None:
    """It lists what is sent as it is sent, weights of this run that stay there, and neither strangers nor what goes."""
    run = write_made_up_run(tmp_path / "run", steps=11, rows=2, previews=1, config={"output_dir": "/home/me/run"})
    with_manifest(run)
    row = read_checkpoint_rows(run)[-1]
    commits = select(run, "me/model", "none")
    stay = {WEIGHTS_FILE: row.exported_sha256, milestone_name(row.step): row.exported_sha256}
    gone = {milestone_name(7): "7" * 64}
    there = {"run.json": None, "notes.md": None, "data/big.bin": "5" * 64, "unet/config.json": None, **stay, **gone}
    assert left_over(run, commits, there) == [*gone]
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "manifest.json").write_bytes(manifest_of(run, "me/model", commits, there, [*gone]))
    manifest = read_manifest(tmp_path / "copy")
    assert manifest is not None
    sent = {name: content for commit in commits for name, content in commit.content.items()}
    assert manifest == stay | {
        name: hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()
        for name, content in sent.items()
    }
    local = read_manifest(run)
    assert local is not None and local["run.json"] != manifest["run.json"]  # its paths are reduced
    assert local["metrics.jsonl"] == manifest["metrics.jsonl"]
    assert json.loads((tmp_path / "copy" / "manifest.json").read_text("utf-8"))["subject"][0]["name"] == "model"
    del there["run.json"]  # whatever is there, no run was pushed before
    (tmp_path / "copy" / "manifest.json").write_bytes(manifest_of(run, "me/model", commits, there, []))
    assert (read_manifest(tmp_path / "copy") or {}).keys() == {*sent}


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
    assert front_matter("\n".join(lines)).keys() == {"library_name", "pipeline_tag", "tags", "model-index"}


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
    heads = [ModelCard(page).data.to_dict() for page in pages]
    for index in (head["model-index"][0] for head in heads):
        assert len(index["results"]) == 1 and len(index["results"][0]["metrics"]) == 2
        assert index.pop("name") and index["results"][0].pop("dataset")
    assert heads[0] == heads[1]
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


def test_the_card_has_the_scores_for_the_hub(tmp_path: Path) -> None:
    """The metadata has held-out loss and skill of the exported weights, on the data by name, and no others."""
    run = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1)
    shipped = read_run_folder(run).evaluations[-2]
    data = ModelCard(write_card(run).read_text("utf-8")).data
    assert [(result.dataset_name, result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("avatars-16", "heldout_loss", shipped.heldout_loss),
        ("avatars-16", "skill", shipped.skill),
    ]
    assert {result.task_type for result in data.eval_results} == {"unconditional-image-generation"}
    bare = write_made_up_run(tmp_path / "bare", steps=10, rows=2, evaluations=0, previews=1)
    assert "model-index" not in front_matter(write_card(bare).read_text("utf-8"))


@pytest.mark.parametrize(
    ("dataset", "revision", "license_"),
    [("avatars-16", None, "cc0-1.0"), ("/data/avatars-16", None, None), ("huggan/pokemon", "0" * 40, None)],
)
def test_the_license_of_data_is_never_guessed(
    dataset: str, revision: str | None, license_: str | None, tmp_path: Path
) -> None:
    """Built-in data has its license in the metadata; other data has none, whatever the folder's name."""
    run = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1, config={"dataset": dataset})
    record = json.loads((run / "run.json").read_text("utf-8"))
    record["dataset"].update(source=dataset, revision=revision)
    (run / "run.json").write_text(json.dumps(record), "utf-8")
    assert front_matter(write_card(run).read_text("utf-8")).get("license") == license_


def command_of(card: str) -> list[str]:
    """Return the words of the command that a card gives to repeat its run."""
    return shlex.split(card.split("## Reproduce\n\n```sh\n")[1].split("\n```\n")[0].replace("\\\n", " "))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"recipe": None, "dataset": "my  images", "pixel_range": (0, 4095), "seed": 7, "use_ema": False},
        {"dataset": "a'b `c` $d", "save_images_epochs": 3, "checkpointing_steps": 7, "output_dir": "runs/x"},
    ],
    ids=["recipe", "folder", "quotes"],
)
def test_the_command_of_the_card_repeats_the_run(config: dict[str, object], tmp_path: Path) -> None:
    """The card's command has every option that changes the numbers of the run, and both seeds."""
    run = read_run_folder(write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1, config=config)).run
    words = command_of(write_card(tmp_path / "run").read_text("utf-8"))
    assert words[:2] == ["openddpm", "train"]
    assert {"--seed", "--evaluation_seed"} <= set(words)
    assert not {"--output_dir", "--recipe", "--checkpointing_steps"} & set(words)
    again = parse_train_config(words[2:])
    assert config_differences(again, recorded_config(run.config)) == []
    assert again.dataset == run.config["dataset"]


def test_a_run_of_several_processes_says_so(tmp_path: Path) -> None:
    """The command starts as many processes as the run had; changes on the way are said to be missing."""
    folder = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    record["sessions"][-1]["num_processes"] = 2
    record["dataset"]["revision"] = "0" * 40
    record["resumptions"] = [{"step": 5, "time": "", "changes": ["seed: 1, but 0 in the run"]}]
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    card = write_card(folder).read_text("utf-8")
    assert command_of(card)[:6] == ["torchrun", "--nproc_per_node", "2", "-m", "openddpm", "train"]
    assert command_of(card)[-1] == "0" * 40
    assert "changed on its way" in card and "openddpm 0.1.0" in card


def test_the_card_names_its_repository(tmp_path: Path) -> None:
    """Where the repository is known, the commands name it; milestones are told of where they are beside the card."""
    run = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1)
    assert "openddpm compare YOUR-RUN USER/NAME\n" in write_card(run).read_text("utf-8")
    assert "--at" not in write_card(run).read_text("utf-8")
    (run / milestone_name(4)).parent.mkdir()
    (run / milestone_name(4)).touch()
    card = write_card(run, repository="me/model").read_text("utf-8")
    assert "openddpm compare YOUR-RUN me/model\n" in card and 'from_pretrained("me/model")' in card
    assert "`openddpm sample me/model --at IMAGES`" in card and "1 are kept, from 128 to 128 images" in card
    assert "--at" not in write_card(run, milestones=()).read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "reduced"),
    [
        ("/home/me/images", "images"),
        ("/home/me/images/", "images"),
        (r"C:\Users\me\images", "images"),
        ("C:/Users/me/images", "images"),
        (r"\\server\share\images", "images"),
        ("~/images", "images"),
        ("/", "/"),
        ("huggan/pokemon", "huggan/pokemon"),
        ("runs/mine", "runs/mine"),
        ("#ffcc00", "#ffcc00"),
        ("", ""),
    ],
)
def test_paths_are_reduced(text: str, reduced: str) -> None:
    """Absolute paths of any system lose all but their last part; relative paths and names on the Hub stay."""
    assert last_part(text) == reduced


def test_a_published_record_has_no_paths(tmp_path: Path) -> None:
    """Options, data, weights, changes and failures are published without folders of the machine, and are valid."""
    secret = "/home/secret/place"
    config = {name: f"{secret}/{name}" for name in ("dataset", "model", "init_from", "cache_dir", "output_dir")}
    config |= {"logging_dir": r"C:\secret\logs", "recipe": None}
    folder = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1, findings=[], config=dict(config))
    record = json.loads((folder / "run.json").read_text("utf-8"))
    record["config"] |= {"resume_from_checkpoint": f"{secret}/step-00000001", "unknown": [{"a": secret}]}
    record["dataset"]["source"] = f"{secret}/images"
    record["model"]["init_from"] = {"source": f"{secret}/run", "revision": None, "sha256": "0", "resolution": 8}
    changes = [f"model: '{secret}/b.json', but \"{secret}/it's.json\" in the run"]
    record["resumptions"] = [{"step": 5, "time": "", "changes": changes, "skipped_checkpoints": [f"x: '{secret}/x'"]}]
    record["failure_text"] = f"the loss of '{secret}/1.png'"
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    data = json.loads((folder / "data.json").read_text("utf-8"))
    data["images"] = [{"path": f"{secret}/1.png", "reason": "r", "action": "refused"}]
    data["most_cut"] = [{"path": f"{secret}/2.png", "share": 0.5}]
    data["left_out"] = [{"reason": ".txt", "count": 1, "examples": [f"{secret}/a.txt"]}]
    data["near_duplicates"] = [{"heldout": f"{secret}/3.png", "train": f"{secret}/4.png", "how": "mirrored"}]
    (folder / "data.json").write_text(json.dumps(data), "utf-8")
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_text(json.dumps({"_name_or_path": f"{secret}/run/unet", "act_fn": "silu"}))
    (first,) = select(folder, "me/model", None)
    texts = {name: content for name, content in first.content.items() if isinstance(content, bytes)}
    assert {"run.json", "data.json", "report.html", "README.md"} <= texts.keys()
    assert [name for name, content in texts.items() if b"secret" in content] == []
    public = RunRecord.model_validate_json(texts["run.json"])
    assert (public.config["dataset"], public.config["logging_dir"]) == ("dataset", "logs")
    assert public.resumptions[0].changes == ["model: 'b.json', but \"it's.json\" in the run"]
    assert json.loads(texts["unet/config.json"]) == {"_name_or_path": "unet", "act_fn": "silu"}
    assert secret in (folder / "run.json").read_text("utf-8")


def test_weights_that_are_not_those_of_the_record_are_not_pushed(tmp_path: Path) -> None:
    """Exported weights, milestones and checkpoints that differ from checkpoints.jsonl are refused before anything."""
    run = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1, config={"keep_every": 4})
    for choice in ("milestones", "kept"):
        with pytest.raises(UserError, match="has no"):
            select(run, "me/model", choice)  # type: ignore[arg-type]
    (run / "unet").mkdir()
    (run / WEIGHTS_FILE).write_bytes(b"damaged")
    with pytest.raises(UserError, match="has not the weights of any checkpoint"):
        select(run, "me/model", "none")
    assert len(select_with_weights(run)) == 1
    (run / milestone_name(4)).parent.mkdir()
    (run / milestone_name(4)).write_bytes(b"damaged")
    (run / "checkpoints" / "step-00000004").mkdir(parents=True)
    for choice in (None, "milestones", "kept"):
        with pytest.raises(UserError, match=r"step-00000004.* is missing or differs from its sha256"):
            select(run, "me/model", choice)  # type: ignore[arg-type]
    assert len(select(run, "me/model", "none")) == 1
