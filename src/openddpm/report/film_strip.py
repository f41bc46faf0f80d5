"""A run's previews side by side, as one picture."""

from PIL import Image, ImageDraw, ImageFont

from openddpm.analysis.text import number_of
from openddpm.record.reader import RunFolder, log_spaced
from openddpm.report.series import images_at_steps

FRAMES = 6
FRAME_PIXELS, GAP_PIXELS, LABEL_PIXELS = 260, 8, 30


def film_strip(run: RunFolder) -> Image.Image:
    """Return up to 6 previews of a run that has any, evenly on a logarithmic scale, the images seen below each."""
    pictures = {preview.step: preview.shown for preview in run.previews}
    steps = log_spaced(pictures, FRAMES)
    frames = [Image.open(pictures[step]) for step in steps]
    mode = "L" if all(frame.mode == "L" for frame in frames) else "RGB"
    width = len(frames) * (FRAME_PIXELS + GAP_PIXELS) - GAP_PIXELS
    strip = Image.new(mode, (width, FRAME_PIXELS + LABEL_PIXELS), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=16)
    for index, (frame, images) in enumerate(zip(frames, images_at_steps(run, steps), strict=True)):
        left = index * (FRAME_PIXELS + GAP_PIXELS)
        shrunk = frame.convert(mode).resize((FRAME_PIXELS, FRAME_PIXELS), Image.Resampling.BOX)
        strip.paste(shrunk, (left, 0))
        draw.text((left, FRAME_PIXELS + 6), number_of(images, "image"), fill="#555", font=font)
    return strip
