"""What torchao says when it is imported, held back until its weights are wanted.

transformers imports torchao wherever that is installed. It then warns of kernels that are not for this machine, and
PyTorch of torchao's older ways: nothing to a bundle with whole weights, and everything to one with rounded ones.
"""

from __future__ import annotations

import logging


class HeldWarnings(logging.Filter):
    """A filter for the loggers that speak of torchao; all else passes."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[logging.LogRecord] = []
        self._released = False

    def filter(self, record: logging.LogRecord) -> bool:
        if self._released or not _is_about_torchao(record):
            return True
        self._held.append(record)
        return False

    def release(self) -> None:
        """Says what was held back; from now on nothing is."""
        held, self._held, self._released = self._held, [], True
        for record in held:
            logging.getLogger(record.name).handle(record)


def _is_about_torchao(record: logging.LogRecord) -> bool:
    """By its logger, or by the class that PyTorch's warning is about."""
    classes = record.args if isinstance(record.args, tuple) else ()
    return record.name == "torchao" or any(getattr(one, "__module__", "").startswith("torchao.") for one in classes)


TORCHAO_WARNINGS = HeldWarnings()
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).addFilter(TORCHAO_WARNINGS)
