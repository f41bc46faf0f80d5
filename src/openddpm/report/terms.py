"""The terms on the page, each explained in a sentence, with a link to more."""

from typing import NamedTuple

from openddpm.record.bands import BANDS

REPOSITORY_URL = ""
"""Public address of this repository's files, without docs/; while it is empty, terms link to the page's glossary."""


class Term(NamedTuple):
    """A term as the page writes it, its explanation, and its heading in docs/baselines.md if it has one."""

    name: str
    sentence: str
    heading: str = ""


def term_links() -> dict[str, str]:
    """Return the link of each term with a heading in docs/baselines.md."""
    page = f"{REPOSITORY_URL}/docs/baselines.md"
    return {
        key: f"{page}#{term.heading}" if REPOSITORY_URL else f"#word-{key}"
        for key, term in TERMS.items()
        if term.heading
    }


TERMS: dict[str, Term] = {
    "verdict": Term(
        "verdict",
        "What the losses of this run say about whether it is working, computed again whenever the page is built.",
        "verdict",
    ),
    "forecast": Term(
        "forecast",
        "When progress will level off if it continues along the curve so far: a range, not a promise.",
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
        "A denoiser that always predicts that there is no noise: its loss is 1, about where every model begins.",
        "zero",
    ),
    "linear": Term(
        "linear filter",
        "The best denoiser that knows only the mean and the covariance of the training images; "
        "a model has learned something once it is better.",
        "linear",
    ),
    "reference_band": Term(
        "other seeds",
        "Where the held-out loss of 95 % of all runs stays from beginning to end, if they differ from the reference in "
        "their seed alone.",
    ),
    "memorizing": Term(
        "memorizes",
        "A denoiser that knows every training image and nothing else, measured on those images: "
        "a model that comes close to it has only memorized them.",
        "memorizing",
    ),
    "memorizing_heldout": Term(
        "memorizes, on new images",
        "The loss of the denoiser that knows every training image, on images that are not among them.",
        "memorizing",
    ),
    "snr": Term(
        "signal-to-noise ratio",
        "How strong the image is against the noise added to it: 10 is a grainy picture, 0.1 is nearly all noise.",
        "bands",
    ),
    "step": Term("step", "One update of the weights, made from one batch of training images."),
    "images": Term("images", "Training images the model has learned from so far, repetitions included."),
    "epoch": Term("epoch", "One pass through the whole training set."),
    "parameters": Term("parameters", "The numbers inside the model that training adjusts."),
    "preview": Term("preview", "Pictures that the model makes at that step, always from the same noise."),
    "ema": Term(
        "EMA weights",
        "A running average of the weights over the last steps (exponential moving average); "
        "it usually makes better pictures.",
    ),
    "raw": Term("raw weights", "The weights of the optimizer at that step, without averaging."),
    "training_data": Term(
        "training data",
        "Some of the images that the model learns from, and that its pictures should become like.",
    ),
    "train_loss": Term(
        "training loss",
        "Mean squared error of the predicted noise on the images just trained on; "
        "it varies much, as noise levels are drawn at random.",
    ),
    "heldout_loss": Term(
        "held-out loss",
        "The same error on images that are never trained on, always with the same noise: "
        "the curve to trust; lower is better.",
    ),
    "fixed_train_loss": Term(
        "fixed training images",
        "Measured just like the held-out loss, but on training images: "
        "falling far below the held-out loss means memorization.",
    ),
    "smoothing": Term(
        "smoothing",
        "The thick line is a moving average of the thin one; more smoothing averages over more steps.",
    ),
    "log_scale": Term(
        "log scale", "Equal distances are equal ratios, so small progress late in training stays visible."
    ),
    "learning_rate": Term("learning rate", "The size of a step of the weights."),
    "grad_norm": Term(
        "gradient norm",
        "Length of the gradient before clipping; sudden peaks are a warning.",
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
    "contrast": Term("contrast", "How far the pixels of an image are from its mean brightness.", "samples"),
    "colour": Term(
        "colour", "The strongest colour channel minus the weakest, mean over the pixels: 0 is gray.", "samples"
    ),
    "medium": Term("medium structure", "How strong patterns of 4 to 8 pixels are.", "samples"),
    "fine": Term(
        "fine structure", "How strong patterns of less than 4 pixels are: much is noise, little is blur.", "samples"
    ),
    "session": Term("session", "One start of the run: its beginning or a resumption, maybe on another machine."),
    "resumption": Term("resumption", "A return to an earlier checkpoint, from which training continued."),
    "refused": Term("refused", "The image could not be used and is not part of the data set."),
    "converted": Term(
        "converted",
        "The image was changed, for example by adding a background behind transparent pixels.",
    ),
    "left out": Term("left out", "The image is the same as an earlier one, and --duplicates drop leaves it out."),
    "kept": Term("kept", "The image is the same as an earlier one, and is used all the same."),
}
