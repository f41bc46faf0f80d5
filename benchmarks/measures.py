"""What the plain loop can be told to do better, or worse, by name. Imports no torch."""

MEASURES = {
    "workers": "images decoded by four processes beside",
    "decoded-once": "images decoded once and kept as bytes on the device",
    "device-noise": "noise made on the device",
    "no-waits": "no wait for the device at every step",
    "fused-adamw": "fused AdamW",
    "foreach-ema": "the average of the weights updated by a few calls",
    "half-previews": "previews by half the steps",
    "tf32": "matrix products in TF32, cuDNN's algorithms tried out",
    "bf16": "forward and backward pass in bfloat16",
    "compile": "the UNet compiled, channels last",
}
BUGS = {
    "adam-epsilon": "Adam's epsilon 1e-3",
    "ema-copied-back": "averaged weights copied over those in training at every preview",
    "random-reset": "random numbers reset at every preview",
}
