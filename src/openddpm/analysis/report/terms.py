"""What the words on the page mean, a sentence each."""

TERMS: dict[str, tuple[str, str]] = {
    "step": ("step", "One update of the weights, made from one batch of training images."),
    "images": ("images", "Training images the model has learned from so far, repeats included."),
    "epoch": ("epoch", "One pass through the whole training set."),
    "parameters": ("parameters", "The numbers inside the model that training adjusts."),
    "preview": ("preview", "Pictures that the model of that step makes out of noise, always the same noise."),
    "ema": (
        "EMA weights",
        "A running average of the weights over the last steps (exponential moving average); "
        "it usually makes the better pictures.",
    ),
    "raw": ("raw weights", "The weights as the optimizer left them at that step, without any averaging."),
    "training_data": (
        "training data",
        "Some of the images that the model learns from: what its own pictures should come to look like.",
    ),
    "train_loss": (
        "training loss",
        "Mean squared error of the predicted noise on the images just trained on; "
        "it jumps about, as noise levels are drawn at random.",
    ),
    "heldout_loss": (
        "held-out loss",
        "The same error on images the model never trains on, always with the same noise: "
        "the curve to trust; lower is better.",
    ),
    "fixed_train_loss": (
        "fixed training images",
        "Measured just like the held-out loss, but on training images: "
        "falling far below the held-out loss means learning by heart.",
    ),
    "smoothing": (
        "smoothing",
        "The thick line is a running mean of the thin one; more smoothing looks further back.",
    ),
    "log_scale": ("log scale", "Equal distances are equal factors, so small progress late in training stays visible."),
    "learning_rate": ("learning rate", "How far one step moves the weights."),
    "grad_norm": (
        "gradient norm",
        "Length of the gradient before clipping: how hard a step pulls at the weights; sudden peaks mean trouble.",
    ),
    "images_per_second": ("images per second", "How fast the run goes through training images."),
    "ema_decay": (
        "EMA decay",
        "The share of the running average that is kept at each step; nearer to 1, it averages over more steps.",
    ),
    "detail": ("detail", "Loss at little noise (signal-to-noise ratio of 10 or more), where fine texture is decided."),
    "shape": ("shape", "Loss at medium noise (signal-to-noise ratio from 0.1 to 10), where parts are decided."),
    "layout": (
        "layout",
        "Loss at strong noise (signal-to-noise ratio below 0.1), where colours and composition are decided.",
    ),
    "resumption": ("resumption", "A return to an earlier checkpoint, from which training went on."),
    "refused": ("refused", "The image could not be used and is not part of the data set."),
    "converted": (
        "converted",
        "The image was changed to fit, for example by putting a background behind transparent pixels.",
    ),
}
