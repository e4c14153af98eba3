"""Errors a user can meet. Every message says what was found, what was wanted and what to do."""

from importlib.util import find_spec


class X2SamError(Exception):
    """Base of all errors of this package."""


class ConfigError(X2SamError):
    """A configuration that cannot describe a model, or has unknown or missing keys."""


class CheckpointError(X2SamError):
    """A checkpoint whose tensors do not fit the model, or that cannot be read safely."""


class BundleError(X2SamError):
    """An export folder that is incomplete, damaged, foreign or of another schema."""


class EngineError(X2SamError):
    """An engine that cannot be built, loaded or fed with the given tensors."""


class KernelUnavailable(X2SamError):
    """A kernel asked for by name that this installation or machine does not have."""


class FrameError(X2SamError):
    """A frame or image that cannot be segmented (shape, type or values)."""


class PromptError(X2SamError):
    """An instruction that cannot be asked: empty, ambiguous or outside the stream."""


class NoMasksError(PromptError):
    """The model answered in words only, without the token that masks are drawn for. text: what it said."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"The model's answer draws no masks: {text!r}. Ask for masks more plainly, or use the chat task."
        )
        self.text = text


class VideoError(X2SamError):
    """A video or image file that cannot be read or written."""


class SessionError(X2SamError):
    """A session used in a way its state does not allow, such as a step after close."""


class SnapshotError(X2SamError):
    """A saved session that is damaged, of another bundle or version, or says what no session can."""


class ProtocolError(X2SamError):
    """A message between a client and a server that is none, or that has no place where it came."""


class ServeError(X2SamError):
    """What a server refused or could not do. code: its name for programs ("busy", "unauthorized", "worker_lost", …)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class VerificationError(X2SamError):
    """Engines that disagree with the PyTorch model by more than their bounds."""


class DataError(X2SamError):
    """A labelled example, or a data set on disk, that cannot be learnt from or measured with."""


class TrainingError(X2SamError):
    """A training run that cannot start, go on or be resumed."""


class MissingExtra(X2SamError):
    """A package that only part of this one needs, and that is not installed."""


# Packages that pyproject.toml lists under each extra and that are imported here.
EXTRAS = {
    "plot": ("matplotlib",),
    "train": ("scipy", "matplotlib"),
    "captions": ("pycocoevalcap",),
    "vgd": ("scipy",),
    "quant": ("torchao",),
    "serve": ("fastapi", "uvicorn", "websockets", "httpx", "prometheus_client"),
    "ray": ("ray",),
}


def require_extra(extra: str) -> None:
    """Raises MissingExtra, with the command that installs it, unless all packages of an extra are there."""
    missing = [package for package in EXTRAS[extra] if find_spec(package) is None]
    if missing:
        raise MissingExtra(
            f"{', '.join(missing)} is not installed, which only part of x2sam-rt needs: "
            f'pip install "x2sam-rt[{extra}]".'
        )
