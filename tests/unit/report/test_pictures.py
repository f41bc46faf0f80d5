import base64
from io import BytesIO
from pathlib import Path

from PIL import Image

from made_up_run import write_made_up_run
from openddpm.record.reader import read_run_folder
from openddpm.report.pictures import BUDGET_BYTES, MIN_FRAMES, Frame, embed_pictures, evenly, thin_to_budget


def image_of(uri: str) -> Image.Image:
    """Return the image in a data URI."""
    return Image.open(BytesIO(base64.b64decode(uri.split(",")[1])))


def test_evenly_keeps_both_ends() -> None:
    """A choice of items holds the first, the last and those at even distances between."""
    assert evenly(range(9), 3) == [0, 4, 8]
    assert evenly(range(3), 5) == [0, 1, 2]


def test_previews_that_fit_are_embedded_byte_for_byte(tmp_path: Path) -> None:
    """Where there is room every preview stands in the report exactly as in the run folder, with its held-out loss."""
    run = read_run_folder(write_made_up_run(tmp_path, previews=4))
    pictures = embed_pictures(run)
    assert [frame.label for frame in pictures.frames][-1] == "step 2,400 · 76,800 images · epoch 14.0"
    for frame, preview in zip(pictures.frames, run.previews, strict=True):
        content = base64.b64encode(preview.pictures["ema"].read_bytes()).decode()
        assert frame.pictures["ema"] == f"data:image/png;base64,{content}"
    loss = next(row.heldout_loss for row in run.evaluations if row.step == 2400 and row.weights == "raw")
    assert loss
    assert pictures.frames[-1].losses["raw"] == f"{loss:.3g}"


def test_large_previews_are_shrunk_before_the_film_gets_short(tmp_path: Path) -> None:
    """Images too large for the budget are made smaller, so that a dozen frames from the first to the last remain."""
    run = read_run_folder(write_made_up_run(tmp_path, steps=160, rows=3, previews=16, resolution=64))
    pictures = embed_pictures(run)
    labels = [frame.label for frame in pictures.frames]
    assert len(labels) >= MIN_FRAMES
    assert labels[0].startswith("step 10 ")
    assert labels[-1].startswith("step 160 ")
    images = [uri for frame in [*pictures.frames, pictures.frames[-1]] for uri in frame.pictures.values()]
    assert sum(map(len, images)) + len(pictures.training_data or "") <= BUDGET_BYTES
    assert image_of(images[0]).format == "JPEG"


def test_frames_over_the_budget_are_thinned_evenly() -> None:
    """Of frames that do not fit, the most that do are kept: the first, the last, and even steps between."""
    frames = [Frame(str(index), {"ema": "x" * 10}, {}) for index in range(9)]
    assert [frame.label for frame in thin_to_budget(frames, 60)] == ["0", "2", "4", "6", "8"]


def test_damaged_preview_is_left_out(tmp_path: Path) -> None:
    """A preview that is no whole PNG is left out, and the others stay."""
    run = read_run_folder(write_made_up_run(tmp_path, previews=3))
    first, second = run.previews[0].pictures, run.previews[1].pictures
    first["ema"].write_bytes(first["ema"].read_bytes()[:200])
    first["raw"].write_bytes(b"no picture")
    second["raw"].write_bytes(b"")
    frames = embed_pictures(run).frames
    assert len(frames) == 2
    assert frames[0].pictures.keys() == {"ema"}
