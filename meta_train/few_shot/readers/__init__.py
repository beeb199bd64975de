"""Networks that read the training set: sequences of images, each followed by its class."""
