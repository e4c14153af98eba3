# Written by typings/make_stubs.py from tensorrt_rtx 1.7.1.116. Do not edit.
import collections.abc
import typing
import typing_extensions
import numpy

__version__: str

class DataType:
    BF16: typing.ClassVar[DataType]
    BOOL: typing.ClassVar[DataType]
    E8M0: typing.ClassVar[DataType]
    FLOAT: typing.ClassVar[DataType]
    FP4: typing.ClassVar[DataType]
    FP8: typing.ClassVar[DataType]
    HALF: typing.ClassVar[DataType]
    INT32: typing.ClassVar[DataType]
    INT4: typing.ClassVar[DataType]
    INT64: typing.ClassVar[DataType]
    INT8: typing.ClassVar[DataType]
    UINT8: typing.ClassVar[DataType]
    __members__: typing.ClassVar[dict[str, DataType]]

    def __eq__(self, other: typing.Any) -> bool:
        ...

    def __getstate__(self) -> int:
        ...

    def __hash__(self) -> int:
        ...

    def __index__(self) -> int:
        ...

    def __init__(self, value: typing.SupportsInt) -> None:
        ...

    def __int__(self) -> int:
        ...

    def __ne__(self, other: typing.Any) -> bool:
        ...

    def __repr__(self) -> str:
        ...

    def __setstate__(self, state: typing.SupportsInt) -> None:
        ...

    def __str__(self) -> str:
        ...

    @property
    def itemsize(self):
        ...

    @property
    def name(self) -> str:
        ...

    @property
    def value(self) -> int:
        ...

class Dims:
    MAX_DIMS: typing.ClassVar[int] = 8
    __hash__: typing.ClassVar[None] = None

    @typing.overload
    def __eq__(self, arg0: list) -> bool:
        ...

    @typing.overload
    def __eq__(self, arg0: tuple) -> bool:
        ...

    @typing.overload
    def __getitem__(self, arg0: typing.SupportsInt) -> int:
        ...

    @typing.overload
    def __getitem__(self, arg0: slice) -> tuple:
        ...

    @typing.overload
    def __init__(self) -> None:
        ...

    @typing.overload
    def __init__(self, shape: collections.abc.Sequence[typing.SupportsInt]) -> None:
        ...

    def __len__(self) -> int:
        ...

    def __repr__(self) -> str:
        ...

    @typing.overload
    def __setitem__(self, arg0: typing.SupportsInt, arg1: typing.SupportsInt) -> None:
        ...

    @typing.overload
    def __setitem__(self, arg0: slice, arg1: Dims) -> None:
        ...

    def __str__(self) -> str:
        ...

class IHostMemory:

    @staticmethod
    def __enter__(this):
        ...

    @staticmethod
    def __exit__(this, exc_type, exc_value, traceback):
        ...

    def __del__(self) -> None:
        ...

    @property
    def dtype(self) -> DataType:
        ...

    @property
    def nbytes(self) -> int:
        ...

    def __buffer__(self, flags: int) -> memoryview:
        ...

class IVersionedInterface:

    @property
    def api_language(self) -> typing.Any:
        ...

    @property
    def interface_info(self) -> typing.Any:
        ...

class LayerType:
    ACTIVATION: typing.ClassVar[LayerType]
    ASSERTION: typing.ClassVar[LayerType]
    ATTENTION_INPUT: typing.ClassVar[LayerType]
    ATTENTION_OUTPUT: typing.ClassVar[LayerType]
    CAST: typing.ClassVar[LayerType]
    CONCATENATION: typing.ClassVar[LayerType]
    CONDITION: typing.ClassVar[LayerType]
    CONDITIONAL_INPUT: typing.ClassVar[LayerType]
    CONDITIONAL_OUTPUT: typing.ClassVar[LayerType]
    CONSTANT: typing.ClassVar[LayerType]
    CONVOLUTION: typing.ClassVar[LayerType]
    CUMULATIVE: typing.ClassVar[LayerType]
    DECONVOLUTION: typing.ClassVar[LayerType]
    DEQUANTIZE: typing.ClassVar[LayerType]
    DIST_COLLECTIVE: typing.ClassVar[LayerType]
    DYNAMIC_QUANTIZE: typing.ClassVar[LayerType]
    EINSUM: typing.ClassVar[LayerType]
    ELEMENTWISE: typing.ClassVar[LayerType]
    FILL: typing.ClassVar[LayerType]
    GATHER: typing.ClassVar[LayerType]
    GRID_SAMPLE: typing.ClassVar[LayerType]
    IDENTITY: typing.ClassVar[LayerType]
    ITERATOR: typing.ClassVar[LayerType]
    KV_CACHE_UPDATE: typing.ClassVar[LayerType]
    LOOP_OUTPUT: typing.ClassVar[LayerType]
    LRN: typing.ClassVar[LayerType]
    MATRIX_MULTIPLY: typing.ClassVar[LayerType]
    MOE: typing.ClassVar[LayerType]
    NMS: typing.ClassVar[LayerType]
    NON_ZERO: typing.ClassVar[LayerType]
    NORMALIZATION: typing.ClassVar[LayerType]
    ONE_HOT: typing.ClassVar[LayerType]
    PADDING: typing.ClassVar[LayerType]
    PARAMETRIC_RELU: typing.ClassVar[LayerType]
    PLUGIN: typing.ClassVar[LayerType]
    PLUGIN_V2: typing.ClassVar[LayerType]
    PLUGIN_V3: typing.ClassVar[LayerType]
    POOLING: typing.ClassVar[LayerType]
    QUANTIZE: typing.ClassVar[LayerType]
    RAGGED_SOFTMAX: typing.ClassVar[LayerType]
    RECURRENCE: typing.ClassVar[LayerType]
    REDUCE: typing.ClassVar[LayerType]
    RESIZE: typing.ClassVar[LayerType]
    REVERSE_SEQUENCE: typing.ClassVar[LayerType]
    ROTARY_EMBEDDING: typing.ClassVar[LayerType]
    SCALE: typing.ClassVar[LayerType]
    SCATTER: typing.ClassVar[LayerType]
    SELECT: typing.ClassVar[LayerType]
    SHAPE: typing.ClassVar[LayerType]
    SHUFFLE: typing.ClassVar[LayerType]
    SLICE: typing.ClassVar[LayerType]
    SOFTMAX: typing.ClassVar[LayerType]
    SQUEEZE: typing.ClassVar[LayerType]
    TOPK: typing.ClassVar[LayerType]
    TRIP_LIMIT: typing.ClassVar[LayerType]
    UNARY: typing.ClassVar[LayerType]
    UNSQUEEZE: typing.ClassVar[LayerType]
    __members__: typing.ClassVar[dict[str, LayerType]]

    def __eq__(self, other: typing.Any) -> bool:
        ...

    def __getstate__(self) -> int:
        ...

    def __hash__(self) -> int:
        ...

    def __index__(self) -> int:
        ...

    def __init__(self, value: typing.SupportsInt) -> None:
        ...

    def __int__(self) -> int:
        ...

    def __ne__(self, other: typing.Any) -> bool:
        ...

    def __repr__(self) -> str:
        ...

    def __setstate__(self, state: typing.SupportsInt) -> None:
        ...

    def __str__(self) -> str:
        ...

    @property
    def name(self) -> str:
        ...

    @property
    def value(self) -> int:
        ...

class ITensor:
    name: str
    shape: Dims

    def get_dimension_name(self, index: typing.SupportsInt) -> str:
        ...

    def set_dimension_name(self, index: typing.SupportsInt, name: str) -> None:
        ...

    @property
    def allowed_formats(self) -> int:
        ...

    @allowed_formats.setter
    def allowed_formats(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def dtype(self) -> DataType:
        ...

    @property
    def is_execution_tensor(self) -> bool:
        ...

    @property
    def is_network_input(self) -> bool:
        ...

    @property
    def is_network_output(self) -> bool:
        ...

    @property
    def is_shape_tensor(self) -> bool:
        ...

class ILayer:
    metadata: str
    name: str

    def get_input(self, index: typing.SupportsInt) -> ITensor:
        ...

    def get_output(self, index: typing.SupportsInt) -> ITensor:
        ...

    def get_output_type(self, index: typing.SupportsInt) -> DataType:
        ...

    def set_input(self, index: typing.SupportsInt, tensor: ITensor) -> None:
        ...

    @property
    def num_inputs(self) -> int:
        ...

    @property
    def num_outputs(self) -> int:
        ...

    @property
    def num_ranks(self) -> int:
        ...

    @num_ranks.setter
    def num_ranks(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def type(self) -> LayerType:
        ...

class IAttention:
    causal: bool
    causal_kind: typing.Any
    decomposable: bool
    key_value_form: typing.Any
    key_value_lengths: ITensor
    mask: ITensor
    metadata: str
    name: str
    norm_op: typing.Any
    normalization_quantize_scale: ITensor
    normalization_quantize_to_type: DataType
    query_form: typing.Any
    query_lengths: ITensor

    def get_input(self, index: typing.SupportsInt) -> ITensor:
        ...

    def get_output(self, index: typing.SupportsInt) -> ITensor:
        ...

    def set_input(self, index: typing.SupportsInt, tensor: ITensor) -> bool:
        ...

    @property
    def num_inputs(self) -> int:
        ...

    @property
    def num_outputs(self) -> int:
        ...

    @property
    def num_ranks(self) -> int:
        ...

    @num_ranks.setter
    def num_ranks(self, arg1: typing.SupportsInt) -> None:
        ...

class IAttentionInputLayer(typing.Any):
    pass

class INetworkDefinition:
    error_recorder: ...
    name: str

    @staticmethod
    def __enter__(this):
        ...

    @staticmethod
    def __exit__(this, exc_type, exc_value, traceback):
        ...

    def __del__(self) -> None:
        ...

    def __getitem__(self, arg0: typing.SupportsInt) -> ILayer:
        ...

    def __len__(self) -> int:
        ...

    def add_activation(self, input: ITensor, type: typing.Any) -> typing.Any:
        ...

    def add_assertion(self, condition: ITensor, message: str) -> typing.Any:
        ...

    def add_attention(self, query: ITensor, key: ITensor, value: ITensor, norm_op: typing.Any, causal: bool) -> IAttention:
        ...

    def add_attention_v2(self, query: ITensor, key: ITensor, value: ITensor, norm_op: typing.Any, causal_kind: typing.Any) -> IAttention:
        ...

    def add_cast(self, input: ITensor, to_type: DataType) -> typing.Any:
        ...

    def add_concatenation(self, inputs: collections.abc.Sequence[ITensor]) -> typing.Any:
        ...

    def add_constant(self, shape: Dims, weights: typing.Any) -> typing.Any:
        ...

    def add_convolution_nd(self, input: ITensor, num_output_maps: typing.SupportsInt, kernel_shape: Dims, kernel: typing.Any, bias: typing.Any=None) -> typing.Any:
        ...

    def add_cumulative(self, input: ITensor, axis: ITensor, op: typing.Any, exclusive: bool, reverse: bool) -> typing.Any:
        ...

    def add_deconvolution_nd(self, input: ITensor, num_output_maps: typing.SupportsInt, kernel_shape: Dims, kernel: typing.Any, bias: typing.Any=None) -> typing.Any:
        ...

    def add_dequantize(self, input: ITensor, scale: ITensor, output_type: DataType) -> typing.Any:
        ...

    def add_dist_collective(self, input: ITensor, dist_collective_op: typing.Any, reduce_op: typing.Any, root: typing.Any, groups: typing.Any) -> typing.Any:
        ...

    def add_dynamic_quantize(self, input: ITensor, axis: typing.SupportsInt, block_size: typing.SupportsInt, output_type: DataType, scale_type: DataType) -> typing.Any:
        ...

    def add_dynamic_quantize_v2(self, input: ITensor, block_shape: Dims, output_type: DataType, scale_type: DataType) -> typing.Any:
        ...

    def add_einsum(self, inputs: collections.abc.Sequence[ITensor], equation: str) -> typing.Any:
        ...

    def add_elementwise(self, input1: ITensor, input2: ITensor, op: typing.Any) -> typing.Any:
        ...

    def add_fill(self, shape: Dims, op: typing.Any, output_type: DataType=...) -> typing.Any:
        ...

    def add_gather(self, input: ITensor, indices: ITensor, axis: typing.SupportsInt) -> typing.Any:
        ...

    def add_gather_v2(self, input: ITensor, indices: ITensor, mode: typing.Any) -> typing.Any:
        ...

    def add_grid_sample(self, input: ITensor, grid: ITensor) -> typing.Any:
        ...

    def add_identity(self, input: ITensor) -> typing.Any:
        ...

    def add_if_conditional(self) -> typing.Any:
        ...

    def add_input(self, name: str, dtype: DataType, shape: Dims) -> ITensor:
        ...

    def add_kv_cache_update(self, cache: ITensor, update: ITensor, write_indices: ITensor, cache_mode: typing.Any) -> typing.Any:
        ...

    def add_loop(self) -> typing.Any:
        ...

    def add_lrn(self, input: ITensor, window: typing.SupportsInt, alpha: typing.SupportsFloat, beta: typing.SupportsFloat, k: typing.SupportsFloat) -> typing.Any:
        ...

    def add_matrix_multiply(self, input0: ITensor, op0: typing.Any, input1: ITensor, op1: typing.Any) -> typing.Any:
        ...

    def add_moe(self, hidden_states: ITensor, selected_experts_for_tokens: ITensor, scores_for_selected_experts: ITensor) -> typing.Any:
        ...

    @typing.overload
    def add_nms(self, boxes: ITensor, scores: ITensor, max_output_boxes_per_class: ITensor) -> typing.Any:
        ...

    @typing.overload
    def add_nms(self, boxes: ITensor, scores: ITensor, max_output_boxes_per_class: ITensor, indices_type: DataType) -> typing.Any:
        ...

    @typing.overload
    def add_non_zero(self, input: ITensor) -> typing.Any:
        ...

    @typing.overload
    def add_non_zero(self, input: ITensor, indices_type: DataType) -> typing.Any:
        ...

    def add_normalization(self, input: ITensor, scale: ITensor, bias: ITensor, axesMask: typing.SupportsInt) -> typing.Any:
        ...

    def add_normalization_v2(self, input: ITensor, scale: ITensor, bias: ITensor, axesMask: typing.SupportsInt) -> typing.Any:
        ...

    def add_one_hot(self, indices: ITensor, values: ITensor, depth: ITensor, axis: typing.SupportsInt) -> typing.Any:
        ...

    def add_padding_nd(self, input: ITensor, pre_padding: Dims, post_padding: Dims) -> typing.Any:
        ...

    def add_parametric_relu(self, input: ITensor, slopes: ITensor) -> typing.Any:
        ...

    def add_pooling_nd(self, input: ITensor, type: typing.Any, window_size: Dims) -> typing.Any:
        ...

    def add_quantize(self, input: ITensor, scale: ITensor, output_type: DataType) -> typing.Any:
        ...

    def add_ragged_softmax(self, input: ITensor, bounds: ITensor) -> typing.Any:
        ...

    def add_reduce(self, input: ITensor, op: typing.Any, axes: typing.SupportsInt, keep_dims: bool) -> typing.Any:
        ...

    def add_resize(self, input: ITensor) -> typing.Any:
        ...

    def add_reverse_sequence(self, input: ITensor, sequence_lens: ITensor) -> typing.Any:
        ...

    def add_rotary_embedding(self, input: ITensor, cos_cache: ITensor, sin_cache: ITensor, interleaved: bool, rotary_embedding_dim: typing.SupportsInt) -> typing.Any:
        ...

    def add_scale(self, input: ITensor, mode: typing.Any, shift: typing.Any=None, scale: typing.Any=None, power: typing.Any=None) -> typing.Any:
        ...

    def add_scale_nd(self, *args: typing.Any) -> typing.Any:
        ...

    def add_scatter(self, data: ITensor, indices: ITensor, updates: ITensor, mode: typing.Any) -> typing.Any:
        ...

    def add_select(self, condition: ITensor, then_input: ITensor, else_input: ITensor) -> typing.Any:
        ...

    def add_shape(self, input: ITensor) -> typing.Any:
        ...

    def add_shuffle(self, input: ITensor) -> typing.Any:
        ...

    def add_slice(self, input: ITensor, start: Dims, shape: Dims, stride: Dims) -> typing.Any:
        ...

    def add_softmax(self, input: ITensor) -> typing.Any:
        ...

    def add_squeeze(self, input: ITensor, axes: ITensor=None) -> typing.Any:
        ...

    @typing.overload
    def add_topk(self, input: ITensor, op: typing.Any, k: typing.SupportsInt, axes: typing.SupportsInt) -> typing.Any:
        ...

    @typing.overload
    def add_topk(self, input: ITensor, op: typing.Any, k: typing.SupportsInt, axes: typing.SupportsInt, indices_type: DataType) -> typing.Any:
        ...

    def add_unary(self, input: ITensor, op: typing.Any) -> typing.Any:
        ...

    def add_unsqueeze(self, input: ITensor, axes: ITensor) -> typing.Any:
        ...

    def are_weights_marked_refittable(self, name: str) -> bool:
        ...

    def get_flag(self, flag: ...) -> bool:
        ...

    def get_input(self, index: typing.SupportsInt) -> ITensor:
        ...

    def get_layer(self, index: typing.SupportsInt) -> ILayer:
        ...

    def get_output(self, index: typing.SupportsInt) -> ITensor:
        ...

    def is_debug_tensor(self, tensor: ITensor) -> bool:
        ...

    def mark_debug(self, tensor: ITensor) -> bool:
        ...

    def mark_output(self, tensor: ITensor) -> None:
        ...

    def mark_output_for_shapes(self, tensor: ITensor) -> bool:
        ...

    def mark_unfused_tensors_as_debug_tensors(self) -> bool:
        ...

    def mark_weights_refittable(self, name: str) -> bool:
        ...

    def remove_tensor(self, tensor: ITensor) -> None:
        ...

    def set_weights_name(self, weights: typing.Any, name: str) -> bool:
        ...

    def unmark_debug(self, tensor: ITensor) -> bool:
        ...

    def unmark_output(self, tensor: ITensor) -> None:
        ...

    def unmark_output_for_shapes(self, tensor: ITensor) -> bool:
        ...

    def unmark_unfused_tensors_as_debug_tensors(self) -> bool:
        ...

    def unmark_weights_refittable(self, name: str) -> bool:
        ...

    @property
    def builder(self) -> ...:
        ...

    @property
    def flags(self) -> int:
        ...

    @property
    def num_inputs(self) -> int:
        ...

    @property
    def num_layers(self) -> int:
        ...

    @property
    def num_outputs(self) -> int:
        ...

class ILogger:

    class Severity:
        ERROR: typing.ClassVar[ILogger.Severity]
        INFO: typing.ClassVar[ILogger.Severity]
        INTERNAL_ERROR: typing.ClassVar[ILogger.Severity]
        VERBOSE: typing.ClassVar[ILogger.Severity]
        WARNING: typing.ClassVar[ILogger.Severity]
        __members__: typing.ClassVar[dict[str, ILogger.Severity]]

        def __eq__(self, other: typing.Any) -> bool:
            ...

        def __ge__(self, other: typing.Any) -> bool:
            ...

        def __getstate__(self) -> int:
            ...

        def __gt__(self, other: typing.Any) -> bool:
            ...

        def __hash__(self) -> int:
            ...

        def __index__(self) -> int:
            ...

        def __init__(self, value: typing.SupportsInt) -> None:
            ...

        def __int__(self) -> int:
            ...

        def __le__(self, other: typing.Any) -> bool:
            ...

        def __lt__(self, other: typing.Any) -> bool:
            ...

        def __ne__(self, other: typing.Any) -> bool:
            ...

        def __repr__(self) -> str:
            ...

        def __setstate__(self, state: typing.SupportsInt) -> None:
            ...

        def __str__(self) -> str:
            ...

        @property
        def name(self) -> str:
            ...

        @property
        def value(self) -> int:
            ...
    ERROR: typing.ClassVar[ILogger.Severity]
    INFO: typing.ClassVar[ILogger.Severity]
    INTERNAL_ERROR: typing.ClassVar[ILogger.Severity]
    VERBOSE: typing.ClassVar[ILogger.Severity]
    WARNING: typing.ClassVar[ILogger.Severity]

    @staticmethod
    def __enter__(this):
        ...

    @staticmethod
    def __exit__(this, exc_type, exc_value, traceback):
        ...

    def __init__(self) -> None:
        ...

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        ...

class IOptimizationProfile:

    def __bool__(self) -> bool:
        ...

    def __nonzero__(self) -> bool:
        ...

    def get_shape(self, input: str) -> list[Dims]:
        ...

    def get_shape_input(self, input: str) -> list[list[int]]:
        ...

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        ...

    def set_shape_input(self, input: str, min: collections.abc.Sequence[typing.SupportsInt], opt: collections.abc.Sequence[typing.SupportsInt], max: collections.abc.Sequence[typing.SupportsInt]) -> None:
        ...

    @property
    def extra_memory_target(self) -> float:
        ...

    @extra_memory_target.setter
    def extra_memory_target(self, arg1: typing.SupportsFloat) -> bool:
        ...

    @property
    def profile_stream(self) -> int:
        ...

    @profile_stream.setter
    def profile_stream(self, arg1: typing.SupportsInt) -> None:
        ...

class IProgressMonitor:

    def __init__(self) -> None:
        ...

    def phase_finish(self, phase_name: str) -> None:
        ...

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: typing.SupportsInt) -> None:
        ...

    def step_complete(self, phase_name: str, step: typing.SupportsInt) -> bool:
        ...

class ExecutionContextAllocationStrategy:
    ON_PROFILE_CHANGE: typing.ClassVar[ExecutionContextAllocationStrategy]
    STATIC: typing.ClassVar[ExecutionContextAllocationStrategy]
    USER_MANAGED: typing.ClassVar[ExecutionContextAllocationStrategy]
    __members__: typing.ClassVar[dict[str, ExecutionContextAllocationStrategy]]

    def __eq__(self, other: typing.Any) -> bool:
        ...

    def __ge__(self, other: typing.Any) -> bool:
        ...

    def __getstate__(self) -> int:
        ...

    def __gt__(self, other: typing.Any) -> bool:
        ...

    def __hash__(self) -> int:
        ...

    def __index__(self) -> int:
        ...

    def __init__(self, value: typing.SupportsInt) -> None:
        ...

    def __int__(self) -> int:
        ...

    def __le__(self, other: typing.Any) -> bool:
        ...

    def __lt__(self, other: typing.Any) -> bool:
        ...

    def __ne__(self, other: typing.Any) -> bool:
        ...

    def __repr__(self) -> str:
        ...

    def __setstate__(self, state: typing.SupportsInt) -> None:
        ...

    def __str__(self) -> str:
        ...

    @property
    def name(self) -> str:
        ...

    @property
    def value(self) -> int:
        ...

class CudaGraphStrategy:
    DISABLED: typing.ClassVar[CudaGraphStrategy]
    WHOLE_GRAPH_CAPTURE: typing.ClassVar[CudaGraphStrategy]
    __members__: typing.ClassVar[dict[str, CudaGraphStrategy]]

    def __eq__(self, other: typing.Any) -> bool:
        ...

    def __ge__(self, other: typing.Any) -> bool:
        ...

    def __getstate__(self) -> int:
        ...

    def __gt__(self, other: typing.Any) -> bool:
        ...

    def __hash__(self) -> int:
        ...

    def __index__(self) -> int:
        ...

    def __init__(self, value: typing.SupportsInt) -> None:
        ...

    def __int__(self) -> int:
        ...

    def __le__(self, other: typing.Any) -> bool:
        ...

    def __lt__(self, other: typing.Any) -> bool:
        ...

    def __ne__(self, other: typing.Any) -> bool:
        ...

    def __repr__(self) -> str:
        ...

    def __setstate__(self, state: typing.SupportsInt) -> None:
        ...

    def __str__(self) -> str:
        ...

    @property
    def name(self) -> str:
        ...

    @property
    def value(self) -> int:
        ...

class IRuntimeConfig:
    cuda_graph_strategy: CudaGraphStrategy
    dynamic_shapes_kernel_specialization_strategy: typing.Any

    def create_runtime_cache(self) -> ...:
        ...

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        ...

    def get_runtime_cache(self) -> ...:
        ...

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy=...) -> None:
        ...

    def set_runtime_cache(self, cache: ...=None) -> bool:
        ...

class IRuntimeCache:

    def deserialize(self, blob: typing_extensions.Buffer) -> bool:
        ...

    def reset(self) -> bool:
        ...

    def serialize(self) -> IHostMemory:
        ...

class IExecutionContext:
    debug_sync: bool
    enqueue_emits_profile: bool
    error_recorder: typing.Any
    name: str
    nvtx_verbosity: ...
    profiler: typing.Any
    temporary_allocator: ...
    unfused_tensors_debug_state: bool

    @staticmethod
    def __enter__(this):
        ...

    @staticmethod
    def __exit__(this, exc_type, exc_value, traceback):
        ...

    def __del__(self) -> None:
        ...

    def execute_async_v3(self, stream_handle: typing.SupportsInt) -> bool:
        ...

    def execute_v2(self, bindings: collections.abc.Sequence[typing.SupportsInt]) -> bool:
        ...

    def get_debug_listener(self) -> typing.Any:
        ...

    def get_debug_state(self, name: str) -> bool:
        ...

    def get_input_consumed_event(self) -> int:
        ...

    def get_max_output_size(self, name: str) -> int:
        ...

    def get_output_allocator(self, name: str) -> typing.Any:
        ...

    def get_runtime_config(self) -> IRuntimeConfig:
        ...

    def get_tensor_address(self, name: str) -> int:
        ...

    def get_tensor_shape(self, name: str) -> Dims:
        ...

    def get_tensor_strides(self, name: str) -> Dims:
        ...

    def infer_shapes(self) -> list[str]:
        ...

    def is_stream_capturable(self, stream: typing.SupportsInt) -> bool:
        ...

    def report_to_profiler(self) -> bool:
        ...

    def set_all_tensors_debug_state(self, flag: bool) -> bool:
        ...

    def set_aux_streams(self, aux_streams: collections.abc.Sequence[typing.SupportsInt]) -> None:
        ...

    def set_communicator(self, communicator: typing_extensions.CapsuleType) -> bool:
        ...

    def set_debug_listener(self, listener: typing.Any) -> bool:
        ...

    def set_device_memory(self, memory: typing.SupportsInt, size: typing.SupportsInt) -> None:
        ...

    def set_input_consumed_event(self, event: typing.SupportsInt) -> bool:
        ...

    @typing.overload
    def set_input_shape(self, name: str, shape: tuple) -> bool:
        ...

    @typing.overload
    def set_input_shape(self, name: str, shape: list) -> bool:
        ...

    @typing.overload
    def set_input_shape(self, name: str, shape: Dims) -> bool:
        ...

    def set_optimization_profile_async(self, profile_index: typing.SupportsInt, stream_handle: typing.SupportsInt) -> bool:
        ...

    def set_output_allocator(self, name: str, output_allocator: typing.Any) -> bool:
        ...

    def set_tensor_address(self, name: str, memory: typing.SupportsInt) -> bool:
        ...

    def set_tensor_debug_state(self, name: str, flag: bool) -> bool:
        ...

    def update_device_memory_size_for_shapes(self) -> int:
        ...

    @property
    def active_optimization_profile(self) -> int:
        ...

    @property
    def all_binding_shapes_specified(self) -> bool:
        ...

    @property
    def engine(self) -> ...:
        ...

    @property
    def persistent_cache_limit(self) -> int:
        ...

    @persistent_cache_limit.setter
    def persistent_cache_limit(self, arg1: typing.SupportsInt) -> None:
        ...

class LayerInformationFormat:
    JSON: typing.ClassVar[LayerInformationFormat]
    ONELINE: typing.ClassVar[LayerInformationFormat]
    __members__: typing.ClassVar[dict[str, LayerInformationFormat]]

    def __eq__(self, other: typing.Any) -> bool:
        ...

    def __getstate__(self) -> int:
        ...

    def __hash__(self) -> int:
        ...

    def __index__(self) -> int:
        ...

    def __init__(self, value: typing.SupportsInt) -> None:
        ...

    def __int__(self) -> int:
        ...

    def __ne__(self, other: typing.Any) -> bool:
        ...

    def __repr__(self) -> str:
        ...

    def __setstate__(self, state: typing.SupportsInt) -> None:
        ...

    def __str__(self) -> str:
        ...

    @property
    def name(self) -> str:
        ...

    @property
    def value(self) -> int:
        ...

class EngineInspector:
    error_recorder: typing.Any
    execution_context: IExecutionContext

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        ...

    def get_layer_information(self, layer_index: typing.SupportsInt, format: LayerInformationFormat) -> str:
        ...

class ICudaEngine:
    error_recorder: typing.Any

    @staticmethod
    def __enter__(this):
        ...

    @staticmethod
    def __exit__(this, exc_type, exc_value, traceback):
        ...

    def __del__(self) -> None:
        ...

    def __getitem__(self, arg0: typing.SupportsInt) -> str:
        ...

    def create_engine_inspector(self) -> EngineInspector:
        ...

    @typing.overload
    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy=...) -> IExecutionContext:
        ...

    @typing.overload
    def create_execution_context(self, runtime_config: IRuntimeConfig=None) -> IExecutionContext:
        ...

    def create_runtime_config(self) -> IRuntimeConfig:
        ...

    def create_serialization_config(self) -> typing.Any:
        ...

    def create_weights_manager(self) -> typing.Any:
        ...

    def get_aliased_input_tensor(self, name: str) -> str:
        ...

    def get_device_memory_size_for_profile_v2(self, profile_index: typing.SupportsInt) -> int:
        ...

    def get_engine_stat(self, stat: typing.Any=...) -> int:
        ...

    @typing.overload
    def get_tensor_bytes_per_component(self, name: str) -> int:
        ...

    @typing.overload
    def get_tensor_bytes_per_component(self, name: str, profile_index: typing.SupportsInt) -> int:
        ...

    @typing.overload
    def get_tensor_components_per_element(self, name: str) -> int:
        ...

    @typing.overload
    def get_tensor_components_per_element(self, name: str, profile_index: typing.SupportsInt) -> int:
        ...

    def get_tensor_dtype(self, name: str) -> DataType:
        ...

    @typing.overload
    def get_tensor_format(self, name: str) -> typing.Any:
        ...

    @typing.overload
    def get_tensor_format(self, name: str, profile_index: typing.SupportsInt) -> typing.Any:
        ...

    @typing.overload
    def get_tensor_format_desc(self, name: str) -> str:
        ...

    @typing.overload
    def get_tensor_format_desc(self, name: str, profile_index: typing.SupportsInt) -> str:
        ...

    def get_tensor_location(self, name: str) -> typing.Any:
        ...

    def get_tensor_mode(self, name: str) -> typing.Any:
        ...

    def get_tensor_name(self, index: typing.SupportsInt) -> str:
        ...

    def get_tensor_profile_shape(self, name: str, profile_index: typing.SupportsInt) -> list[Dims]:
        ...

    def get_tensor_profile_values(self, name: typing.SupportsInt, profile_index: str) -> list[list[int]]:
        ...

    def get_tensor_shape(self, name: str) -> Dims:
        ...

    @typing.overload
    def get_tensor_vectorized_dim(self, name: str) -> int:
        ...

    @typing.overload
    def get_tensor_vectorized_dim(self, name: str, profile_index: typing.SupportsInt) -> int:
        ...

    def get_weight_streaming_automatic_budget(self) -> int:
        ...

    def is_debug_tensor(self, name: str) -> bool:
        ...

    def is_shape_inference_io(self, name: str) -> bool:
        ...

    def load_weights(self, blob: typing_extensions.Buffer) -> bool:
        ...

    def load_weights_async(self, stream_reader: ..., stream: typing.SupportsInt) -> bool:
        ...

    def serialize(self) -> IHostMemory:
        ...

    def serialize_with_config(self, arg0: typing.Any) -> IHostMemory:
        ...

    def unload_weights(self) -> bool:
        ...

    @property
    def device_memory_size_v2(self) -> int:
        ...

    @property
    def engine_capability(self) -> typing.Any:
        ...

    @property
    def hardware_compatibility_level(self) -> ...:
        ...

    @property
    def name(self) -> str:
        ...

    @property
    def num_aux_streams(self) -> int:
        ...

    @property
    def num_io_tensors(self) -> int:
        ...

    @property
    def num_layers(self) -> int:
        ...

    @property
    def num_optimization_profiles(self) -> int:
        ...

    @property
    def profiling_verbosity(self) -> ...:
        ...

    @property
    def refittable(self) -> bool:
        ...

    @property
    def streamable_weights_size(self) -> int:
        ...

    @property
    def tactic_sources(self) -> int:
        ...

    @property
    def weight_streaming_budget_v2(self) -> int:
        ...

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, arg1: typing.SupportsInt) -> bool:
        ...

    @property
    def weight_streaming_scratch_memory_size(self) -> int:
        ...

    @property
    def weights_loaded(self) -> bool:
        ...

class ComputeCapability:
    CURRENT: typing.ClassVar[ComputeCapability]
    NONE: typing.ClassVar[ComputeCapability]
    SM120: typing.ClassVar[ComputeCapability]
    SM121: typing.ClassVar[ComputeCapability]
    SM75: typing.ClassVar[ComputeCapability]
    SM80: typing.ClassVar[ComputeCapability]
    SM86: typing.ClassVar[ComputeCapability]
    SM89: typing.ClassVar[ComputeCapability]
    __members__: typing.ClassVar[dict[str, ComputeCapability]]

    def __eq__(self, other: typing.Any) -> bool:
        ...

    def __getstate__(self) -> int:
        ...

    def __hash__(self) -> int:
        ...

    def __index__(self) -> int:
        ...

    def __init__(self, value: typing.SupportsInt) -> None:
        ...

    def __int__(self) -> int:
        ...

    def __ne__(self, other: typing.Any) -> bool:
        ...

    def __repr__(self) -> str:
        ...

    def __setstate__(self, state: typing.SupportsInt) -> None:
        ...

    def __str__(self) -> str:
        ...

    @property
    def name(self) -> str:
        ...

    @property
    def value(self) -> int:
        ...

class ProfilingVerbosity:
    DETAILED: typing.ClassVar[ProfilingVerbosity]
    LAYER_NAMES_ONLY: typing.ClassVar[ProfilingVerbosity]
    NONE: typing.ClassVar[ProfilingVerbosity]
    __members__: typing.ClassVar[dict[str, ProfilingVerbosity]]

    def __eq__(self, other: typing.Any) -> bool:
        ...

    def __getstate__(self) -> int:
        ...

    def __hash__(self) -> int:
        ...

    def __index__(self) -> int:
        ...

    def __init__(self, value: typing.SupportsInt) -> None:
        ...

    def __int__(self) -> int:
        ...

    def __ne__(self, other: typing.Any) -> bool:
        ...

    def __repr__(self) -> str:
        ...

    def __setstate__(self, state: typing.SupportsInt) -> None:
        ...

    def __str__(self) -> str:
        ...

    @property
    def name(self) -> str:
        ...

    @property
    def value(self) -> int:
        ...

class ITimingCache:

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        ...

    def query(self, key: typing.Any) -> typing.Any:
        ...

    def queryKeys(self) -> list[typing.Any]:
        ...

    def reset(self) -> bool:
        ...

    def serialize(self) -> IHostMemory:
        ...

    def update(self, key: typing.Any, value: typing.Any) -> bool:
        ...

class IBuilderConfig:
    build_route: str
    default_device_type: typing.Any
    engine_capability: typing.Any
    hardware_compatibility_level: typing.Any
    profiling_verbosity: ProfilingVerbosity
    progress_monitor: IProgressMonitor
    runtime_platform: typing.Any
    tiling_optimization_level: typing.Any

    @staticmethod
    def __enter__(this):
        ...

    @staticmethod
    def __exit__(this, exc_type, exc_value, traceback):
        ...

    def __del__(self) -> None:
        ...

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        ...

    def can_run_on_DLA(self, layer: ILayer) -> bool:
        ...

    def clear_flag(self, flag: typing.Any) -> None:
        ...

    def create_timing_cache(self, serialized_timing_cache: typing_extensions.Buffer) -> ITimingCache:
        ...

    def get_compute_capability(self, index: typing.SupportsInt) -> ComputeCapability:
        ...

    def get_device_type(self, layer: ILayer) -> typing.Any:
        ...

    def get_flag(self, flag: typing.Any) -> bool:
        ...

    def get_memory_pool_limit(self, pool: typing.Any) -> int:
        ...

    def get_preview_feature(self, feature: typing.Any) -> bool:
        ...

    def get_tactic_sources(self) -> int:
        ...

    def get_timing_cache(self) -> ITimingCache:
        ...

    def is_device_type_set(self, layer: ILayer) -> bool:
        ...

    def reset(self) -> None:
        ...

    def reset_device_type(self, layer: ILayer) -> None:
        ...

    def set_compute_capability(self, compute_capability: ComputeCapability, index: typing.SupportsInt) -> bool:
        ...

    def set_device_type(self, layer: ILayer, device_type: typing.Any) -> None:
        ...

    def set_flag(self, flag: typing.Any) -> None:
        ...

    def set_memory_pool_limit(self, pool: typing.Any, pool_size: typing.SupportsInt) -> None:
        ...

    def set_preview_feature(self, feature: typing.Any, enable: bool) -> None:
        ...

    def set_tactic_sources(self, tactic_sources: typing.SupportsInt) -> bool:
        ...

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        ...

    @property
    def DLA_core(self) -> int:
        ...

    @DLA_core.setter
    def DLA_core(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def all_build_routes(self) -> str:
        ...

    @property
    def avg_timing_iterations(self) -> int:
        ...

    @avg_timing_iterations.setter
    def avg_timing_iterations(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def builder_optimization_level(self) -> int:
        ...

    @builder_optimization_level.setter
    def builder_optimization_level(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def flags(self) -> int:
        ...

    @flags.setter
    def flags(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def l2_limit_for_tiling(self) -> int:
        ...

    @l2_limit_for_tiling.setter
    def l2_limit_for_tiling(self, arg1: typing.SupportsInt) -> bool:
        ...

    @property
    def max_aux_streams(self) -> int:
        ...

    @max_aux_streams.setter
    def max_aux_streams(self, arg1: typing.SupportsInt) -> bool:
        ...

    @property
    def max_num_tactics(self) -> int:
        ...

    @max_num_tactics.setter
    def max_num_tactics(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def num_compute_capabilities(self) -> int:
        ...

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def num_optimization_profiles(self) -> int:
        ...

    @property
    def plugins_to_serialize(self) -> list[str]:
        ...

    @plugins_to_serialize.setter
    def plugins_to_serialize(self, arg1: collections.abc.Sequence[str]) -> None:
        ...

    @property
    def profile_stream(self) -> int:
        ...

    @profile_stream.setter
    def profile_stream(self, arg1: typing.SupportsInt) -> None:
        ...

class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED: typing.ClassVar[NetworkDefinitionCreationFlag]
    __members__: typing.ClassVar[dict[str, NetworkDefinitionCreationFlag]]

    def __eq__(self, other: typing.Any) -> bool:
        ...

    def __ge__(self, other: typing.Any) -> bool:
        ...

    def __getstate__(self) -> int:
        ...

    def __gt__(self, other: typing.Any) -> bool:
        ...

    def __hash__(self) -> int:
        ...

    def __index__(self) -> int:
        ...

    def __init__(self, value: typing.SupportsInt) -> None:
        ...

    def __int__(self) -> int:
        ...

    def __le__(self, other: typing.Any) -> bool:
        ...

    def __lt__(self, other: typing.Any) -> bool:
        ...

    def __ne__(self, other: typing.Any) -> bool:
        ...

    def __repr__(self) -> str:
        ...

    def __setstate__(self, state: typing.SupportsInt) -> None:
        ...

    def __str__(self) -> str:
        ...

    @property
    def name(self) -> str:
        ...

    @property
    def value(self) -> int:
        ...

class Builder:
    error_recorder: typing.Any

    @staticmethod
    def __enter__(this):
        ...

    @staticmethod
    def __exit__(this, exc_type, exc_value, traceback):
        ...

    def __del__(self) -> None:
        ...

    def __init__(self, logger: ILogger) -> None:
        ...

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory:
        ...

    def build_serialized_network_to_stream(self, network: INetworkDefinition, config: IBuilderConfig, writer: typing.Any) -> bool:
        ...

    def create_builder_config(self) -> IBuilderConfig:
        ...

    def create_network(self, flags: typing.SupportsInt=0) -> INetworkDefinition:
        ...

    def create_optimization_profile(self) -> IOptimizationProfile:
        ...

    def get_plugin_registry(self) -> typing.Any:
        ...

    def is_network_supported(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        ...

    def reset(self) -> None:
        ...

    @property
    def logger(self) -> ILogger:
        ...

    @property
    def max_DLA_batch_size(self) -> int:
        ...

    @property
    def max_threads(self) -> int:
        ...

    @max_threads.setter
    def max_threads(self, arg1: typing.SupportsInt) -> bool:
        ...

    @property
    def num_DLA_cores(self) -> int:
        ...

class Runtime:
    dla_workspace_allocation_strategy: typing.Any
    engine_host_code_allowed: bool
    error_recorder: typing.Any
    temporary_directory: str

    @staticmethod
    def __enter__(this):
        ...

    @staticmethod
    def __exit__(this, exc_type, exc_value, traceback):
        ...

    def __del__(self) -> None:
        ...

    def __init__(self, logger: ILogger) -> None:
        ...

    @typing.overload
    def deserialize_cuda_engine(self, serialized_engine: typing_extensions.Buffer) -> ICudaEngine:
        ...

    @typing.overload
    def deserialize_cuda_engine(self, stream_reader_v2: typing.Any) -> ICudaEngine:
        ...

    def get_engine_validity(self, buffer: typing_extensions.Buffer) -> tuple:
        ...

    def get_plugin_registry(self) -> typing.Any:
        ...

    def load_runtime(self, path: str) -> Runtime:
        ...

    @property
    def DLA_core(self) -> int:
        ...

    @DLA_core.setter
    def DLA_core(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def defer_weights_loading(self) -> bool:
        ...

    @defer_weights_loading.setter
    def defer_weights_loading(self, arg1: bool) -> None:
        ...

    @property
    def engine_header_size(self) -> int:
        ...

    @property
    def logger(self) -> ILogger:
        ...

    @property
    def max_threads(self) -> int:
        ...

    @max_threads.setter
    def max_threads(self, arg1: typing.SupportsInt) -> bool:
        ...

    @property
    def num_DLA_cores(self) -> int:
        ...

    @property
    def tempfile_control_flags(self) -> int:
        ...

    @tempfile_control_flags.setter
    def tempfile_control_flags(self, arg1: typing.SupportsInt) -> None:
        ...

class OnnxParser:

    @staticmethod
    def __enter__(this):
        ...

    @staticmethod
    def __exit__(this, exc_type, exc_value, traceback):
        ...

    def __del__(self) -> None:
        ...

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        ...

    def clear_errors(self) -> None:
        ...

    def clear_flag(self, flag: ...) -> None:
        ...

    def get_error(self, index: typing.SupportsInt) -> ...:
        ...

    def get_flag(self, flag: ...) -> bool:
        ...

    def get_layer_output_tensor(self, name: str, i: typing.SupportsInt) -> ITensor:
        ...

    def get_subgraph_nodes(self, index: typing.SupportsInt) -> list:
        ...

    def get_used_vc_plugin_libraries(self) -> list[str]:
        ...

    def is_subgraph_supported(self, index: typing.SupportsInt) -> bool:
        ...

    def load_initializer(self, name: str, data: typing.SupportsInt, size: typing.SupportsInt) -> bool:
        ...

    def load_model_proto(self, model: typing_extensions.Buffer, path: str=None) -> bool:
        ...

    def parse(self, model: typing_extensions.Buffer, path: str=None) -> bool:
        ...

    def parse_from_file(self, model: str) -> bool:
        ...

    def parse_model_proto(self) -> bool:
        ...

    def set_builder_config(self, builder_config: IBuilderConfig) -> bool:
        ...

    def set_flag(self, flag: ...) -> None:
        ...

    def supports_model_v2(self, model: typing_extensions.Buffer, path: str=None) -> bool:
        ...

    def supports_operator(self, op_name: str) -> bool:
        ...

    @property
    def flags(self) -> int:
        ...

    @flags.setter
    def flags(self, arg1: typing.SupportsInt) -> None:
        ...

    @property
    def num_errors(self) -> int:
        ...

    @property
    def num_subgraphs(self) -> int:
        ...

class ParserError:

    def __repr__(self) -> str:
        ...

    def __str__(self) -> str:
        ...

    def code(self) -> typing.Any:
        ...

    def desc(self) -> str:
        ...

    def file(self) -> str:
        ...

    def func(self) -> str:
        ...

    def line(self) -> int:
        ...

    def local_function_stack(self) -> list[str]:
        ...

    def local_function_stack_size(self) -> int:
        ...

    def node(self) -> int:
        ...

    def node_name(self) -> str:
        ...

    def node_operator(self) -> str:
        ...
