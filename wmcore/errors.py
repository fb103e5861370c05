"""The exception for mistakes that the caller can put right."""


class WatermarkError(ValueError):
    """A setting, key file, model name or input that cannot be used.

    The message is one sentence: the parameter, the value received, the limit and the remedy. It
    never contains key material.
    """
