"""A stage's graph as a TensorRT network: parsed, compared with its contract, and asked what its attentions hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from x2sam_rt.errors import EngineError
from x2sam_rt.model.stage_contract import StageContract, TensorSpec
from x2sam_rt.runtime.engines.tensorrt_build import SizeRange
from x2sam_rt.runtime.engines.tensorrt_library import LIBRARY, MESSAGES, VERSION, trt

_DTYPES = {
    "float32": trt.DataType.FLOAT,
    "bfloat16": trt.DataType.BF16,
    "bool": trt.DataType.BOOL,
    "int64": trt.DataType.INT64,
}


@dataclass(frozen=True, eq=False)
class Network:
    """A network with what must live as long: the parser owns its weights."""

    contract: StageContract
    builder: trt.Builder
    definition: trt.INetworkDefinition
    parser: trt.OnnxParser


@dataclass(frozen=True)
class Scores:
    """One attention. num_bytes: its scores, all queries by all keys, were they held."""

    layer: str
    num_bytes: int


def parse_network(path: Path, contract: StageContract) -> Network:
    """path: an ONNX file. Raises EngineError that lists every refused node with its operator and the parser's words,
    or every tensor that differs from the stage's contract."""
    MESSAGES.clear()
    builder = trt.Builder(MESSAGES)
    # Every tensor keeps the type the graph gives it. TensorRT from 11 on knows nothing else.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition = builder.create_network(flags)
    parser = trt.OnnxParser(definition, MESSAGES)
    parsed = parser.parse_from_file(str(path))
    problems = [_described(parser.get_error(index)) for index in range(parser.num_errors)]
    if problems or not parsed:
        reasons = "; ".join(problems) or MESSAGES.errors
        raise EngineError(f"Stage {contract.name}: {LIBRARY} {VERSION} cannot parse its graph: {reasons}.")
    _check_contract(definition, contract)
    return Network(contract, builder, definition, parser)


def _described(error: trt.ParserError) -> str:
    return f"node {error.node_name() or '(unnamed)'}, operator {error.node_operator() or '?'}: {error.desc().strip()}"


def _check_contract(definition: trt.INetworkDefinition, contract: StageContract) -> None:
    inputs = [definition.get_input(index) for index in range(definition.num_inputs)]
    outputs = [definition.get_output(index) for index in range(definition.num_outputs)]
    differences = [
        *_differences("input", contract.inputs, inputs),
        *_differences("output", contract.outputs, outputs),
    ]
    if differences:
        raise EngineError(f"Stage {contract.name}: its network differs from its contract: {'; '.join(differences)}.")


def _differences(kind: str, wanted: tuple[TensorSpec, ...], found: list[trt.ITensor]) -> Iterator[str]:
    names = [tensor.name for tensor in found]
    if names != [tensor.name for tensor in wanted]:
        yield f"found {kind}s {names}, wanted {[tensor.name for tensor in wanted]}"
        return
    for spec, tensor in zip(wanted, found, strict=True):
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in spec.shape)
        found_shape, dtype = _sizes(tensor.shape), _DTYPES[spec.dtype]
        if found_shape != shape or tensor.dtype != dtype:
            yield f"{kind} {spec.name}: found {tensor.dtype.name} {found_shape}, wanted {dtype.name} {shape}"


def _sizes(shape: trt.Dims) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in range(len(shape)))


def attention_scores(network: Network, sizes: Mapping[str, SizeRange]) -> list[Scores]:
    """What every attention's scores would take at the largest sizes, in the network's order."""
    definition = network.definition
    inputs = [definition.get_input(index) for index in range(definition.num_inputs)]
    largest = {name: size.most for name, size in sizes.items()}
    varying = [_sizes(tensor.shape) for tensor in inputs]
    for tensor, wanted in zip(inputs, network.contract.inputs, strict=True):
        tensor.shape = trt.Dims(wanted.sized(largest))
    scores = [_scores(layer) for layer in attention_layers(network)]
    for tensor, shape in zip(inputs, varying, strict=True):
        tensor.shape = trt.Dims(shape)
    return scores


def attention_layers(network: Network) -> Iterator[trt.IAttentionInputLayer]:
    layers = (network.definition.get_layer(index) for index in range(network.definition.num_layers))
    for layer in layers:
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # The bindings hand out every layer as its base class and have it cast by hand.
            layer.__class__ = trt.IAttentionInputLayer
            assert isinstance(layer, trt.IAttentionInputLayer)
            yield layer


def _scores(layer: trt.IAttentionInputLayer) -> Scores:
    query, key = layer.get_input(0), layer.get_input(1)
    batch, heads, queries, _ = _sizes(query.shape)
    return Scores(layer.name, batch * heads * queries * key.shape[2] * query.dtype.itemsize)


def layers_by_precision(network: Network) -> dict[str, int]:
    """How many layers give floating numbers of which type: what is asked of the builder."""
    layers = (network.definition.get_layer(index) for index in range(network.definition.num_layers))
    types = Counter(layer.get_output(0).dtype for layer in layers if layer.num_outputs)
    return {name: types[dtype] for dtype, name in _FLOATS.items() if types[dtype]}


_FLOATS = {trt.DataType.FLOAT: "fp32", trt.DataType.BF16: "bf16"}
