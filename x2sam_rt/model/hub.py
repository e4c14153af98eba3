"""Base models by folder or by hub name."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from x2sam_rt.errors import CheckpointError

# Weights, configurations and the tokenizer: nothing that could be run.
_FILES = ["*.safetensors", "*.json", "merges.txt", "vocab.json"]


def base_folder(name: str) -> Path:
    """A local folder as it is; anything else is taken as a hub name and downloaded (once; cached by the hub client).

    Raises CheckpointError when it is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name!r} is neither a folder here nor a model the hub could deliver ({type(error).__name__}: {error}). "
            "Give the folder of the base model, or check the name and the network."
        ) from error
