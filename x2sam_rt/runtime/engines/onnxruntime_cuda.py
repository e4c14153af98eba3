"""A stage's graph as ONNX Runtime can be held to on a GPU: every node of it has a name, and a node may stay on the CPU
only if it computes with sizes.

ONNX Runtime puts such nodes there on purpose: what they read is known to the host, and so is what they give (the shape
of a reshape). All others on the CPU would mean that data goes back and forth. The loops (Scan) that larger
attention goes through have kernels on CUDA: the host starts every turn, the data stays there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.inliner
import onnxruntime

from x2sam_rt.errors import EngineError

PROVIDER = "CUDAExecutionProvider"
_SIZES, _DATA = "sizes", "data"  # what nodes' names begin with
_OF_SHAPES = ("Shape", "Size")


def named_graph(path: Path) -> bytes:
    """The graph at `path` without functions, whose nodes would get names of ONNX Runtime's own. Weights that lie beside
    it stay there."""
    model = onnx.inliner.inline_local_functions(onnx.load(path, load_external_data=False))
    for _, node in _nodes(model.graph):
        if node.op_type == "CastLike":  # to the one type these graphs compute in; ONNX Runtime would make nodes of it
            node.CopyFrom(onnx.helper.make_node("Cast", node.input[:1], node.output, to=onnx.TensorProto.FLOAT))
    sizes = set(_size_nodes(model.graph, set(), set()))
    for number, (place, node) in enumerate(_nodes(model.graph)):
        node.name = f"{_SIZES if place in sizes else _DATA}/{number}/{node.op_type}"
    serialized: bytes = model.SerializeToString()
    return serialized


def check_placement(stage: str, session: onnxruntime.InferenceSession) -> None:
    """Raises EngineError unless every node of a session for a `named_graph` runs on the GPU, naming those that do not;
    but for those that compute with sizes."""
    elsewhere = [
        f"{node.op_type} {node.name!r} on {part.ep_name}"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
        if not node.name.startswith(f"{_SIZES}/")
    ]
    if elsewhere or session.get_providers()[0] != PROVIDER:
        found = "; ".join(elsewhere[:5]) or f"no {PROVIDER} in the session"
        raise EngineError(
            f"Stage {stage}: asked for {PROVIDER}, and {len(elsewhere)} nodes run elsewhere ({found}). Check that "
            "`nvidia-smi` works and that CUDA and cuDNN are those this onnxruntime-gpu was built for."
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Every node with its first output, by which it is known: names of outputs are given once in a graph."""
    for node in graph.node:
        yield node.output[0], node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _size_nodes(graph: onnx.GraphProto, sizes: set[str], constants: set[str]) -> Iterator[str]:
    """The first outputs of nodes that see nothing but shapes and constants. sizes, constants: tensors of the graphs
    around this one."""
    sizes, constants = set(sizes), constants | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        seen = {name for name in node.input if name}
        if node.op_type == "Constant":
            constants |= set(node.output)
        elif node.op_type in _OF_SHAPES or (not inner and seen & sizes and seen <= sizes | constants):
            sizes |= set(node.output)
            yield node.output[0]
        for body in inner:
            yield from _size_nodes(body, sizes, constants)
