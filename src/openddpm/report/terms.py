"""What the words on the page mean, a sentence each, and where more is written about them."""

from typing import NamedTuple

from openddpm.record.bands import BANDS

REPOSITORY_URL = ""
"""Public address of this repository's files, up to the folder docs/; while it has none, terms lead to the page's own
glossary."""


class Term(NamedTuple):
    """A word as the page writes it, its explanation, and its heading in docs/baselines.md if it has one."""

    name: str
    sentence: str
    heading: str = ""


def term_links() -> dict[str, str]:
    """Return where each term with a heading in docs/baselines.md leads to."""
    page = f"{REPOSITORY_URL}/docs/baselines.md"
    return {
        key: f"{page}#{term.heading}" if REPOSITORY_URL else f"#word-{key}"
        for key, term in TERMS.items()
        if term.heading
    }


TERMS: dict[str, Term] = {
    "verdict": Term(
        "verdict",
        "What the losses of this run say about whether it is working, worked out anew whenever the page is built.",
        "verdict",
    ),
    "forecast": Term(
        "forecast",
        "When progress will level off if it goes on along the curve so far: a range, not a promise.",
        "forecast",
    ),
    "skill": Term(
        "skill",
        "How much smaller the model's error is than a linear filter's, on the same images with the same noise: "
        "0 is no better, 1 would be no error at all.",
        "skill",
    ),
    "zero": Term(
        "knows nothing",
        "A denoiser that always answers that there is no noise: its loss is 1, and where every model begins.",
        "zero",
    ),
    "linear": Term(
        "linear filter",
        "The best denoiser that knows only the mean and the covariance of the training images; "
        "a model has learned something once it is better.",
        "linear",
    ),
    "memorizing": Term(
        "knows by heart",
        "A denoiser that knows every training image and nothing else, on those very images: "
        "a model that came close to it would only have learned them by heart.",
        "memorizing",
    ),
    "memorizing_heldout": Term(
        "by heart, on new images",
        "What knowing every training image by heart is worth on images that are not among them.",
        "memorizing",
    ),
    "snr": Term(
        "signal-to-noise ratio",
        "How strong the image is against the noise added to it: 10 is a grainy picture, 0.1 is nearly all noise.",
        "bands",
    ),
    "step": Term("step", "One update of the weights, made from one batch of training images."),
    "images": Term("images", "Training images the model has learned from so far, repeats included."),
    "epoch": Term("epoch", "One pass through the whole training set."),
    "parameters": Term("parameters", "The numbers inside the model that training adjusts."),
    "preview": Term("preview", "Pictures that the model of that step makes out of noise, always the same noise."),
    "ema": Term(
        "EMA weights",
        "A running average of the weights over the last steps (exponential moving average); "
        "it usually makes the better pictures.",
    ),
    "raw": Term("raw weights", "The weights as the optimizer left them at that step, without any averaging."),
    "training_data": Term(
        "training data",
        "Some of the images that the model learns from: what its own pictures should come to look like.",
    ),
    "train_loss": Term(
        "training loss",
        "Mean squared error of the predicted noise on the images just trained on; "
        "it jumps about, as noise levels are drawn at random.",
    ),
    "heldout_loss": Term(
        "held-out loss",
        "The same error on images the model never trains on, always with the same noise: "
        "the curve to trust; lower is better.",
    ),
    "fixed_train_loss": Term(
        "fixed training images",
        "Measured just like the held-out loss, but on training images: "
        "falling far below the held-out loss means memorization.",
    ),
    "smoothing": Term(
        "smoothing",
        "The thick line is a running mean of the thin one; more smoothing looks further back.",
    ),
    "log_scale": Term(
        "log scale", "Equal distances are equal factors, so small progress late in training stays visible."
    ),
    "learning_rate": Term("learning rate", "How far one step moves the weights."),
    "grad_norm": Term(
        "gradient norm",
        "Length of the gradient before clipping: how hard a step pulls at the weights; sudden peaks mean trouble.",
    ),
    "images_per_second": Term("images per second", "How fast the run goes through training images."),
    "ema_decay": Term(
        "EMA decay",
        "The share of the running average that is kept at each step; nearer to 1, it averages over more steps.",
    ),
    "detail": Term(
        "detail",
        f"Fine texture: loss at little noise (signal-to-noise ratio of {BANDS['detail'][0]:g} or more).",
        "bands",
    ),
    "shape": Term(
        "shape",
        "The parts of a picture: loss at medium noise (signal-to-noise ratio from "
        f"{BANDS['shape'][0]:g} to {BANDS['shape'][1]:g}).",
        "bands",
    ),
    "layout": Term(
        "layout",
        f"Colours and composition: loss at strong noise (signal-to-noise ratio below {BANDS['layout'][1]:g}).",
        "bands",
    ),
    "brightness": Term("brightness", "The mean of all pixels: 0 is black, 1 is white.", "samples"),
    "contrast": Term("contrast", "How far the pixels of an image lie from its mean brightness.", "samples"),
    "colour": Term(
        "colour", "The strongest colour channel less the weakest, mean over the pixels: 0 is gray.", "samples"
    ),
    "medium": Term("medium structure", "How strong patterns of 4 to 8 pixels are.", "samples"),
    "fine": Term(
        "fine structure", "How strong patterns of less than 4 pixels are: much is noise, little is blur.", "samples"
    ),
    "session": Term("session", "One start of the run: its beginning, or a resumption; maybe on another machine."),
    "resumption": Term("resumption", "A return to an earlier checkpoint, from which training went on."),
    "refused": Term("refused", "The image could not be used and is not part of the data set."),
    "converted": Term(
        "converted",
        "The image was changed to fit, for example by putting a background behind transparent pixels.",
    ),
    "left out": Term("left out", "The image is the same as an earlier one, and --duplicates drop leaves it out."),
    "kept": Term("kept", "The image went in as it is, but its like is in the data set already."),
}
