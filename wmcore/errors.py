"""The exception for mistakes that the caller can put right."""


class WatermarkError(ValueError):
    """A setting, key file, model name or input that cannot be used.

    The message is one sentence: the parameter, the value received, the limit and the remedy. It
    never contains key material.
    """


def reason(error: BaseException) -> str:
    """What a foreign error says, on one line of at most 200 characters, to be told in a message of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def shown(value: object) -> str:
    """A caller's value on one line of at most 100 characters, for a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a class of the caller's, or a number of thousands of digits
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 100 else f"{text[:97]}..."
