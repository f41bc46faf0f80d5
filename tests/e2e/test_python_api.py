"""`openddpm.train` with objects of the caller's own."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from diffusers import DDIMPipeline, UNet2DModel
from PIL import Image

from openddpm import Observer, TrainConfig, TrainResult, UserError, resume, train
from openddpm.record.reader import Preview, read_run_record
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord, Verdict


@pytest.fixture
def own_options(options: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny run's options without a data set, for 3 steps in a folder of this test's own."""
    return {
        **options,
        "dataset": "",
        "max_train_steps": 3,
        "output_dir": str(tmp_path / "run"),
        "logging_dir": str(tmp_path / "logs"),
    }


@pytest.fixture(scope="module")
def pictures(workshop: Path) -> list[Image.Image]:
    """The images of the tiny run, in its order."""
    loaded = []
    for path in sorted((workshop / "images").glob("*.png")):
        with Image.open(path) as image:
            image.load()
            loaded.append(image)
    return loaded


@pytest.mark.parametrize("kind", ["datasets", "list"])
def test_own_images(kind: str, pictures: list[Image.Image], own_options: dict[str, Any]) -> None:
    """A datasets.Dataset and a list of Pillow images train as they are, to the same decoded images."""
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"picture": pictures, "label": list(range(len(pictures)))}
    own = datasets.Dataset.from_dict(columns, features=features) if kind == "datasets" else pictures
    result = train(TrainConfig(**own_options), dataset=own)
    run = read_run_record(result.folder)
    assert (result.status, run.status, run.dataset.num_images) == ("finished", "finished", len(pictures))
    assert run.dataset.source.startswith("user-supplied: ")
    folder_run = {**own_options, "dataset": str(Path(own_options["model"]).parent / "images")}
    again = train(TrainConfig(**{**folder_run, "output_dir": f"{result.folder}-2"}))
    assert read_run_record(again.folder).dataset.sha256 == run.dataset.sha256
    with pytest.raises(UserError, match="given from Python"):
        resume(result.folder)


def test_own_transform(pictures: list[Image.Image], own_options: dict[str, Any]) -> None:
    """A transform is given every micro-batch as uint8, and what it returns is trained on."""
    seen: list[tuple[torch.Size, torch.dtype]] = []

    def to_white(images: torch.Tensor) -> torch.Tensor:
        seen.append((images.shape, images.dtype))
        return torch.full_like(images, 255)

    losses: dict[str, list[float]] = {"white": [], "plain": []}

    class Losses(Observer):
        def __init__(self, name: str) -> None:
            self.name = name

        def logged(self, row: MetricsRow) -> None:
            losses[self.name].append(row.train_loss)

    config = TrainConfig(**own_options)
    train(config, dataset=pictures, transform=to_white, observers=[Losses("white")])
    config = TrainConfig(**{**own_options, "output_dir": own_options["output_dir"] + "-plain"})
    train(config, dataset=pictures, observers=[Losses("plain")])
    assert seen == [(torch.Size((4, 3, 8, 8)), torch.uint8)] * 3
    assert losses["white"] != losses["plain"]


def user_unet(sample_size: int) -> UNet2DModel:
    """Return a UNet smaller than that of the tiny run."""
    return UNet2DModel(
        sample_size=sample_size,
        layers_per_block=1,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )


def test_own_unet(pictures: list[Image.Image], own_options: dict[str, Any]) -> None:
    """The caller's UNet is the one that is trained, and the run folder's pipeline has its shape."""
    unet = user_unet(8)
    before = {name: value.detach().clone() for name, value in unet.named_parameters()}
    result = train(TrainConfig(**own_options), dataset=pictures, unet=unet)
    assert any((value != before[name]).any() for name, value in unet.named_parameters())
    exported = DDIMPipeline.from_pretrained(result.folder).unet
    assert exported.config["block_out_channels"] == [4, 8]


def test_a_unet_that_does_not_fit(pictures: list[Image.Image], own_options: dict[str, Any]) -> None:
    """A UNet of another size than the images is refused with both sizes, and no run is begun."""
    with pytest.raises(UserError, match=r"\(16, 3, 3\).*\(8, 3, 3\)"):
        train(TrainConfig(**own_options), dataset=pictures, unet=user_unet(16))
    assert not (Path(own_options["output_dir"]) / "run.json").exists()


def test_a_frozen_unet_is_refused(pictures: list[Image.Image], own_options: dict[str, Any]) -> None:
    """A UNet without a weight to train is told at the start, with what to do."""
    with pytest.raises(UserError, match="frozen") as refusal:
        train(TrainConfig(**own_options), dataset=pictures, unet=user_unet(8).requires_grad_(False))
    assert "requires_grad_" in refusal.value.hint


class Diary(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def started(self, run: RunRecord, folder: Path) -> None:
        self.entries.append(f"started {run.status} {run.progress.step}")

    def logged(self, row: MetricsRow) -> None:
        self.entries.append(f"logged {row.step}")

    def evaluated(self, row: EvaluationRow) -> None:
        self.entries.append(f"evaluated {row.step} {row.weights}")

    def previewed(self, preview: Preview) -> None:
        assert preview.pictures["ema"].is_file()
        self.entries.append(f"previewed {preview.step}")

    def judged(self, verdict: Verdict) -> None:
        self.entries.append(f"judged {verdict.step}")

    def record_grown(self) -> None:
        self.entries.append("record grown")

    def ended(self, run: RunRecord) -> None:
        self.entries.append(f"ended {run.status} {run.progress.step}")


def test_observers_are_told_in_order(pictures: list[Image.Image], own_options: dict[str, Any]) -> None:
    """Observers hear of start, logged lines, evaluations, previews, verdicts and end, in the order of what happens."""
    diary = Diary()
    result = train(TrainConfig(**{**own_options, "max_train_steps": 7}), dataset=pictures, observers=[diary])
    assert result == TrainResult(Path(own_options["output_dir"]), "finished")
    assert diary.entries == [
        "started running 0",
        *("logged 2", "logged 4", "logged 6"),
        *("evaluated 6 ema", "evaluated 6 raw", "previewed 6", "judged 6", "record grown"),
        *("logged 7", "evaluated 7 ema", "evaluated 7 raw", "previewed 7", "judged 7", "record grown"),
        "judged 7",
        "ended finished 7",
    ]


def test_an_observer_that_fails_at_the_start(pictures: list[Image.Image], own_options: dict[str, Any]) -> None:
    """The error of an observer reaches the caller as it is, and the record says that the run failed."""

    class Failing(Observer):
        def started(self, run: RunRecord, folder: Path) -> None:
            raise ZeroDivisionError("of the observer")

    with pytest.raises(ZeroDivisionError, match="of the observer"):
        train(TrainConfig(**own_options), dataset=pictures, observers=[Failing()])
    assert read_run_record(Path(own_options["output_dir"])).status == "failed"
