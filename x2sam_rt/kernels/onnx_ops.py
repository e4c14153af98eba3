"""The kernels in ONNX: one node of the domain "x2sam_rt" per call, with a body of standard operators.

Any ONNX runtime runs such a model through the bodies. ONNX Runtime on a CPU runs our C++ kernels instead when
`cpu.register_with_onnxruntime` was called on its session options: an operator with a registered kernel is not replaced
by its body.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx
import torch
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention
from onnxscript.values import Op, Opset

from x2sam_rt.errors import EngineError
from x2sam_rt.kernels import deformable_attention as _deformable
from x2sam_rt.kernels import mask_fusion as _masks
from x2sam_rt.kernels import memory_attention as _memory
from x2sam_rt.kernels.onnx_bodies import CALLS, body

__all__ = ["add_function_bodies", "attention_in_pieces", "translation_table"]

DOMAIN = "x2sam_rt"
VERSION = 1
SCORES_AT_ONCE = 2**26  # bytes
MIN_OPSET = 20  # GridSample as the bodies use it


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export(..., dynamo=True, custom_translation_table=…)`: each operation becomes one node."""
    self_attention = _operator("SelfAttention", "query key value")
    slot_attention = _operator("SlotAttention", "query key value key_shift")
    deformable = _operator("DeformableAttention", "value locations weights", attribute="spatial_shapes")
    mask_fusion = _operator("MaskFusion", "class_logits mask_logits")
    attention_mask = _operator("AttentionMask", "mask_logits", attribute="size", result="tensor(bool)")
    kernels = torch.ops.x2sam_rt
    return {  # every function gets the torch operation's arguments, the backend's name last
        kernels.self_attention.default: lambda query, key, value, _: self_attention(query, key, value),
        kernels.slot_attention.default: lambda query, key, value, shift, _: slot_attention(query, key, value, shift),
        kernels.deformable_attention.default: lambda value, shapes, locations, weights, _: deformable(
            value, locations, weights, spatial_shapes=list(shapes)
        ),
        kernels.mask_fusion.default: lambda classes, masks, _: mask_fusion(classes, masks),
        kernels.attention_mask.default: lambda masks, size, _: attention_mask(masks, size=list(size)),
    }


def attention_in_pieces() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For the exporter, beside `translation_table`: attention whose scores would be large, or are of a size not known
    yet, becomes a node of ours, whose body goes through heads and queries piece by piece."""
    plain, masked = _operator("Attention", "query key value"), _masked_operator()

    def translate(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        other = is_causal or enable_gqa or len(query.shape) != 4
        other |= scale is not None and not math.isclose(scale, query.shape[-1] ** -0.5)
        # With a mask, for one batch and known sizes only: no other is large here.
        other |= attn_mask is not None and (query.shape[0] != 1 or _scores_bytes(query, key) is None)
        if other or (_scores_bytes(query, key) or SCORES_AT_ONCE + 1) <= SCORES_AT_ONCE:
            return aten_scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
            )
        return plain(query, key, value) if attn_mask is None else masked(query, key, value, attn_mask)

    return {torch.ops.aten.scaled_dot_product_attention.default: translate}


def _scores_bytes(query: Any, key: Any) -> int | None:
    """Of all heads' scores in float32; None when they depend on a size that varies."""
    sizes = (*query.shape[:3], key.shape[2])
    return 4 * math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None


def _masked_operator() -> Op:
    parameter = onnx.defs.OpSchema.FormalParameter
    inputs = [parameter(name, "tensor(float)") for name in ("query", "key", "value")]
    schema = onnx.defs.OpSchema(
        "MaskedAttention",
        DOMAIN,
        VERSION,
        inputs=[*inputs, parameter("allowed", "tensor(bool)")],
        outputs=[parameter("out", "tensor(float)")],
    )
    return Op(Opset(DOMAIN, VERSION), "MaskedAttention", schema)


def _operator(name: str, inputs: str, *, attribute: str | None = None, result: str = "tensor(float)") -> Op:
    """An operator of this domain for the exporter: float32 inputs, at most one attribute (a list of integers)."""
    parameter, kinds = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.AttrType
    schema = onnx.defs.OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[parameter(input_name, "tensor(float)") for input_name in inputs.split()],
        outputs=[parameter("out", result)],
        attributes=[onnx.defs.OpSchema.Attribute(attribute, kinds.INTS)] if attribute else [],
    )
    return Op(Opset(DOMAIN, VERSION), name, schema)


def add_function_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """Gives every operation of this domain that the model uses its body. Changes and returns `model`.

    Raises EngineError when the model's opset is below 20, or when its deformable attentions differ in their levels.
    """
    used = {node.op_type for node in nodes_of(model) if node.domain == DOMAIN}
    if not used:
        return model
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        raise EngineError(f"the kernels' ONNX bodies need opset {MIN_OPSET}, the model has {opset}; export it anew")
    present = {function.name for function in model.functions if function.domain == DOMAIN}
    levels = levels_of(model)
    wanted = {*used, *(callee for caller in used for callee in CALLS.get(caller, ()))}
    for name in sorted(wanted - present):
        model.functions.append(body(name, opset, levels))
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    return model


def levels_of(model: onnx.ModelProto) -> int:
    """Levels of the model's deformable attentions (0: it has none): a body is written for one number of levels."""
    nodes = (node for node in nodes_of(model) if node.op_type == "DeformableAttention")
    attributes = (attribute for node in nodes for attribute in node.attribute)
    sizes = {len(attribute.ints) // 2 for attribute in attributes if attribute.name == "spatial_shapes"}
    if len(sizes) > 1:
        raise EngineError(f"deformable attentions of one model must have the same levels, got {sorted(sizes)}")
    return sizes.pop() if sizes else 0


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model: of its graph, of graphs within nodes, and of its functions."""
    yield from _walk(model.graph.node)
    for function in model.functions:
        yield from _walk(function.node)


def _walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _walk(graph.node)


# Importing the operations is what registers them with torch.
_REGISTERED = (_deformable, _masks, _memory)
