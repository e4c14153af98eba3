"""An engine that spoils what it computes."""

from __future__ import annotations

from x2sam_rt.model.stage_contract import Tensors
from x2sam_rt.runtime.engines.engine import BoundStage, Engine


class Spoiling:
    """An engine whose output holds one value that is no number."""

    def __init__(self, engine: Engine, output: str, value: float) -> None:
        self.contract, self.device, self.recordable = engine.contract, engine.device, engine.recordable
        self._engine, self._output, self._value = engine, output, value

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        run = self._engine.bind(inputs, outputs)

        def spoilt() -> None:
            run()
            outputs[self._output].view(-1)[-1:].fill_(self._value)

        return spoilt

    def close(self) -> None:
        self._engine.close()
