"""The UNet, the forward process, and sampling. Independent of data sets."""
