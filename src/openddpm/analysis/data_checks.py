"""What can be said of the images of a planned run."""

from collections.abc import Iterator

from openddpm.analysis.finding import Finding
from openddpm.record.schema import DataRecord, RunRecord

FEW_IMAGES = 200  # assumed: a hundred images are learned by heart (Kadkhodaie et al., 2024)
MEMORISING_EPOCHS = 300  # assumed, with the next: DDPM's CIFAR-10 (2048 epochs, 0.2 weights a value) learned to
MEMORISING_WEIGHTS_PER_VALUE = 10  # generalise; weights counted against all pixel values of the training images
FEW_HELDOUT = 48  # assumed: the standard error of a mean over fewer hides most of what training gains late
DUPLICATE_SHARE = 0.02  # assumed
UPSCALED_SHARE = 0.25  # assumed
DARK_MAX = 16  # 12-bit images in 16-bit files end at 4095 / 257 = 15.9, masks and floats at 1
LOW_CONTRAST_STD = 12.75  # assumed: a tenth of the range on either side of gray; photographs have 50 to 80


def check_images(run: RunRecord, epochs: float) -> Iterator[Finding]:
    """Check how many images there are, for a run that goes through them `epochs` times."""
    dataset, num_weights = run.dataset, run.model.num_parameters
    weights_per_value = num_weights / (dataset.num_train * dataset.channels * dataset.resolution**2)
    learns_by_heart = epochs >= MEMORISING_EPOCHS and weights_per_value >= MEMORISING_WEIGHTS_PER_VALUE
    if dataset.num_train < FEW_IMAGES or learns_by_heart:
        yield Finding(
            "memorising",
            "warning",
            f"{dataset.num_train:,} training images, each seen {epochs:,.0f} times, for {num_weights:,} weights "
            f"({num_weights / dataset.num_train:,.0f} an image)",
            "So few images can be learned by heart: samples would be copies of them, and the training loss looks fine.",
            "Bring more images, take a smaller --model or fewer steps; let the held-out loss decide when to stop.",
        )
    if dataset.num_heldout < FEW_HELDOUT:
        yield Finding(
            "heldout",
            "note" if dataset.num_heldout else "warning",
            f"{dataset.num_heldout or 'no'} held-out images",
            "Only images that are never trained on tell learning from learning by heart, and few of them tell it "
            "vaguely.",
            f"Hold out {FEW_HELDOUT} or more, if there are enough: --heldout_images N.",
        )


def check_pixels(run: RunRecord, data: DataRecord) -> Iterator[Finding]:
    """Check what decoding met: duplicates, changes, brightness."""
    if data.num_duplicates:
        share = data.num_duplicates / data.num_images
        yield Finding(
            "duplicates",
            "warning" if share > DUPLICATE_SHARE else "note",
            f"{data.num_duplicates:,} of {data.num_images:,} images ({share:.1%}) are exact duplicates of others",
            "They are trained on more often than the rest, and a held-out image whose twin is trained on flatters the "
            "held-out loss.",
            "Remove them; data.json lists them.",
        )
    changed = [reason for reason in ("alpha composited", "16 bits scaled to 8") if data.counts.get(reason)]
    if changed:
        counted = ", ".join(f"{reason}: {data.counts[reason]:,}" for reason in changed)
        yield Finding(
            "converted",
            "note",
            f"images changed on the way in: {counted}",
            f"Transparent pixels become the background, {run.config['background']}; the model learns what it is shown.",
            "Look at samples/training-data.png; choose another --background if these look wrong.",
        )
    upscaled = data.counts.get("upscaled", 0)
    if upscaled > UPSCALED_SHARE * data.num_images:
        yield Finding(
            "upscaled",
            "warning",
            f"{upscaled:,} of {data.num_images:,} images are smaller than {run.dataset.resolution} pixels and were "
            "enlarged",
            "The model learns their blur, and pays for pixels that hold nothing.",
            "Take a lower --resolution, or larger images.",
        )
    yield from _brightness(data)


def _brightness(data: DataRecord) -> Iterator[Finding]:
    if data.pixel_max is None or data.pixel_min is None or data.pixel_mean is None or data.pixel_std is None:
        return
    values = f"pixel values from {data.pixel_min} to {data.pixel_max} of 0 to 255, mean {data.pixel_mean:.0f}, "
    values += f"standard deviation {data.pixel_std:.1f}"
    if data.pixel_min == data.pixel_max:
        yield Finding(
            "brightness",
            "fault",
            f"every pixel of every image is {data.pixel_min}",
            "There is nothing to learn.",
            "Check how the images were written, and --background if they are transparent.",
        )
    elif data.pixel_max <= DARK_MAX:
        yield Finding(
            "brightness",
            "fault",
            f"nearly black images: {values}",
            "They were probably written in another range, such as 0 to 1 or 12 bits; next to the noise they vanish.",
            "Write them again with values from 0 to 255.",
        )
    elif data.pixel_std < LOW_CONTRAST_STD:
        yield Finding(
            "brightness",
            "warning",
            f"hardly any contrast: {values}",
            "The noise schedule expects images that fill their range; faint ones drown at the first noise levels.",
            "Stretch their contrast, if it carries no meaning.",
        )
