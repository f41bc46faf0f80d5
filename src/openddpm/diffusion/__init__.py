"""The UNet, the forward process, and sampling. Knows nothing of data sets."""
