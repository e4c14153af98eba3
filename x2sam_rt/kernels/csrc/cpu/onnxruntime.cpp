// The kernels as operators of ONNX Runtime's CPU provider, domain "x2sam_rt". They run on ONNX Runtime's own threads.

#include <atomic>
#include <initializer_list>
#include <new>
#include <vector>

#include "kernels.h"
#include "ort_abi.h"

namespace x2sam {
namespace {

using namespace ort;

std::atomic<int64_t> calls{0};

// Carries a failure to the callback's edge, where it is handed to ONNX Runtime.
struct Failure {
  Status* status;
};

void demand(Status* status) {
  if (status) throw Failure{status};
}

[[noreturn]] void fail(Table api, const char* message) {
  throw Failure{at<Status*(int, const char*)>(api, kCreateStatus)(kRuntimeException, message)};
}

struct Input {
  const float* data;
  std::vector<int64_t> size;

  // Compares with the wanted sizes; -1 fits anything.
  bool fits(std::initializer_list<int64_t> wanted) const {
    if (wanted.size() != size.size()) return false;
    size_t axis = 0;
    for (int64_t want : wanted) {
      if (want >= 0 && want != size[axis]) return false;
      ++axis;
    }
    return true;
  }
};

// A node of the graph: what its attribute holds, and the table to call ONNX Runtime with.
struct Kernel {
  Table api;
  std::vector<int64_t> attribute;
};

// One run of a node.
struct Call {
  const Kernel& kernel;
  Context* context;

  template <class Function>
  Function* api(Index index) const {
    return at<Function>(kernel.api, index);
  }

  template <class T>
  T* elements(Value* value) const {
    void* data = nullptr;
    demand(api<Status*(Value*, void**)>(kGetTensorMutableData)(value, &data));
    return static_cast<T*>(data);
  }

  std::vector<int64_t> sizes(const Value* value) const {
    Shape* shape = nullptr;
    size_t rank = 0;
    demand(api<Status*(const Value*, Shape**)>(kGetTensorTypeAndShape)(value, &shape));
    demand(api<Status*(const Shape*, size_t*)>(kGetDimensionsCount)(shape, &rank));
    std::vector<int64_t> result(rank);
    demand(api<Status*(const Shape*, int64_t*, size_t)>(kGetDimensions)(shape, result.data(), rank));
    api<void(Shape*)>(kReleaseTensorTypeAndShapeInfo)(shape);
    return result;
  }

  Input input(size_t index) const {
    const Value* value = nullptr;
    demand(api<Status*(const Context*, size_t, const Value**)>(kKernelContextGetInput)(context, index, &value));
    return {elements<float>(const_cast<Value*>(value)), sizes(value)};
  }

  template <class T>
  T* output(const std::vector<int64_t>& size) const {
    Value* value = nullptr;
    auto get = api<Status*(Context*, size_t, const int64_t*, size_t, Value**)>(kKernelContextGetOutput);
    demand(get(context, 0, size.data(), size.size(), &value));
    return elements<T>(value);
  }

  void expect(bool condition, const char* message) const {
    if (!condition) fail(kernel.api, message);
  }

  // The pool's size is not told; kernels only use the count to cut small inputs finely enough.
  Threads threads() const { return {run_tasks, const_cast<Call*>(this), 16}; }

  static void run_tasks(const Threads& threads, size_t tasks, Threads::Task task, void* body) {
    const Call& call = *static_cast<const Call*>(threads.context);
    auto parallel = call.api<Status*(const Context*, Threads::Task, size_t, size_t, void*)>(kKernelContextParallelFor);
    demand(parallel(call.context, task, tasks, 0, body));
  }
};

constexpr const char* kNoMemory = "x2sam_rt: no memory for the kernel's work space";

void attend(const Call& call, const Input& query, const Input& key, const Input& value, const float* shift,
            int64_t slots, int64_t tokens) {
  const int64_t dim = query.size[1];
  call.expect(slots * tokens > 0, "x2sam_rt attention: there are no keys; give at least one slot with one token");
  call.expect(dim % 16 == 0, "x2sam_rt attention: dim must be a multiple of 16");
  const AttentionArgs args = {query.data,    key.data, value.data,   shift, call.output<float>(query.size),
                              query.size[0], slots,    tokens,       dim,   dim,
                              tokens * dim,  dim,      tokens * dim, dim,   dim};
  call.expect(kernels().attention(args, call.threads()), kNoMemory);
}

void self_attention(const Call& call) {
  const Input query = call.input(0), key = call.input(1), value = call.input(2);
  call.expect(query.fits({-1, -1}) && key.fits({-1, query.size[1]}) && value.fits({key.size[0], key.size[1]}),
              "x2sam_rt.SelfAttention: query must be (queries, dim), key and value (tokens, dim)");
  attend(call, query, key, value, nullptr, 1, key.size[0]);
}

void slot_attention(const Call& call) {
  const Input query = call.input(0), key = call.input(1), value = call.input(2), shift = call.input(3);
  call.expect(query.fits({-1, -1}) && key.fits({-1, -1, query.size[1]}) &&
                  value.fits({key.size[0], key.size[1], key.size[2]}) && shift.fits({key.size[0], key.size[2]}),
              "x2sam_rt.SlotAttention: query must be (queries, dim), key and value (slots, tokens, dim), "
              "key_shift (slots, dim)");
  attend(call, query, key, value, shift.data, key.size[0], key.size[1]);
}

void deformable_attention(const Call& call) {
  const Input value = call.input(0), locations = call.input(1), weights = call.input(2);
  const std::vector<int64_t>& shapes = call.kernel.attribute;
  int64_t tokens = 0;
  for (size_t level = 0; level + 1 < shapes.size(); level += 2) tokens += shapes[level] * shapes[level + 1];
  const int64_t levels = static_cast<int64_t>(shapes.size() / 2);
  call.expect(value.fits({-1, tokens, -1, -1}) && weights.fits({value.size[0], -1, value.size[2], levels, -1}) &&
                  locations.fits({value.size[0], weights.size[1], value.size[2], levels, weights.size[4], 2}),
              "x2sam_rt.DeformableAttention: value must be (batch, tokens of all levels, heads, head_dim), locations "
              "(batch, queries, heads, levels, points, 2), weights (batch, queries, heads, levels, points)");
  const int64_t heads = value.size[2], head_dim = value.size[3], queries = weights.size[1];
  float* out = call.output<float>({value.size[0], queries, heads * head_dim});
  const DeformableArgs args = {value.data,
                               shapes.data(),
                               locations.data,
                               weights.data,
                               out,
                               value.size[0],
                               tokens,
                               heads,
                               head_dim,
                               queries,
                               levels,
                               weights.size[4],
                               tokens * heads * head_dim,
                               heads * head_dim,
                               head_dim};
  call.expect(kernels().deformable(args, call.threads()), kNoMemory);
}

void mask_fusion(const Call& call) {
  const Input classes = call.input(0), masks = call.input(1);
  call.expect(
      masks.fits({-1, -1, -1}) && classes.fits({masks.size[0], -1}) && classes.size[1] > 1 && masks.size[0] > 0,
      "x2sam_rt.MaskFusion: class_logits must be (queries, conditions + 1), mask_logits (queries, height, width)");
  const int64_t pixels = masks.size[1] * masks.size[2];
  float* out = call.output<float>({masks.size[1], masks.size[2]});
  const MaskFusionArgs args = {classes.data, masks.data,      out,   masks.size[0], classes.size[1],
                               pixels,       classes.size[1], pixels};
  call.expect(kernels().mask_fusion(args, call.threads()), kNoMemory);
}

void attention_mask(const Call& call) {
  const Input masks = call.input(0);
  const std::vector<int64_t>& size = call.kernel.attribute;
  call.expect(masks.fits({-1, -1, -1}) && size.size() == 2,
              "x2sam_rt.AttentionMask: mask_logits must be (queries, height, width), size two numbers");
  const int64_t height = masks.size[1], width = masks.size[2];
  bool* out = call.output<bool>({masks.size[0], size[0] * size[1]});
  const AttentionMaskArgs args = {
      masks.data, reinterpret_cast<uint8_t*>(out), masks.size[0], height, width, size[0], size[1], height * width,
      width};
  call.expect(kernels().attention_mask(args, call.threads()), kNoMemory);
}

// What distinguishes one operator from another; the callbacks below read it from behind the CustomOp.
struct Operator : CustomOp {
  const char* title;
  size_t inputs;
  ElementType result;
  const char* attribute;  // null: none
};

const Operator& self(const CustomOp* op) { return *static_cast<const Operator*>(op); }

Status* create_kernel(const CustomOp* op, Table api, const Info* info, void** kernel) {
  std::vector<int64_t> attribute;
  if (const char* name = self(op).attribute) {
    auto get = at<Status*(const Info*, const char*, int64_t*, size_t*)>(api, kKernelInfoGetAttributeArrayInt64);
    size_t count = 0;
    if (Status* status = get(info, name, nullptr, &count)) return status;
    attribute.resize(count);
    if (Status* status = get(info, name, attribute.data(), &count)) return status;
  }
  *kernel = new Kernel{api, attribute};
  return nullptr;
}

template <void (*body)(const Call&)>
Status* compute(void* kernel, Context* context) {
  const Kernel& self = *static_cast<Kernel*>(kernel);
  try {
    body({self, context});
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return at<Status*(int, const char*)>(self.api, kCreateStatus)(kRuntimeException, kNoMemory);
  }
  ++calls;
  return nullptr;
}

template <void (*body)(const Call&)>
Operator make(const char* title, size_t inputs, ElementType result = ElementType::kFloat,
              const char* attribute = nullptr) {
  Operator op{};
  op.version = kCustomOpVersion;
  op.create_kernel = create_kernel;
  op.name = [](const CustomOp* op) { return self(op).title; };
  op.execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
  op.input_type = [](const CustomOp*, size_t) { return ElementType::kFloat; };
  op.input_count = [](const CustomOp* op) { return self(op).inputs; };
  op.output_type = [](const CustomOp* op, size_t) { return self(op).result; };
  op.output_count = [](const CustomOp*) -> size_t { return 1; };
  op.compute = compute<body>;
  op.destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  const auto zero = [](const CustomOp*, size_t) { return 0; };
  op.input_characteristic = op.output_characteristic = op.input_memory = zero;
  op.title = title;
  op.inputs = inputs;
  op.result = result;
  op.attribute = attribute;
  return op;
}

const Operator operators[] = {
    make<self_attention>("SelfAttention", 3),
    make<slot_attention>("SlotAttention", 4),
    make<deformable_attention>("DeformableAttention", 3, ElementType::kFloat, "spatial_shapes"),
    make<mask_fusion>("MaskFusion", 2),
    make<attention_mask>("AttentionMask", 1, ElementType::kBool, "size"),
};

}  // namespace
}  // namespace x2sam

// How often ONNX Runtime has run one of these operators in this process.
extern "C" __attribute__((visibility("default"))) int64_t x2sam_onnxruntime_calls() { return x2sam::calls; }

// ONNX Runtime looks this name up in the library.
extern "C" __attribute__((visibility("default"))) x2sam::ort::Status* RegisterCustomOps(
    x2sam::ort::SessionOptions* options, const x2sam::ort::ApiBase* base) {
  using namespace x2sam::ort;
  Table api = base->get_api(kApiVersion);
  if (!api) {
    auto create = at<Status*(int, const char*)>(base->get_api(1), kCreateStatus);
    return create(kRuntimeException, "x2sam_rt's operators need ONNX Runtime 1.17 or later; this one is older");
  }
  Domain* domain = nullptr;
  if (Status* status = at<Status*(const char*, Domain**)>(api, kCreateCustomOpDomain)("x2sam_rt", &domain))
    return status;
  for (const x2sam::Operator& op : x2sam::operators) {
    if (Status* status = at<Status*(Domain*, const CustomOp*)>(api, kCustomOpDomainAdd)(domain, &op)) return status;
  }
  // Never released: sessions made from these options use it as long as they live.
  return at<Status*(SessionOptions*, Domain*)>(api, kAddCustomOpDomain)(options, domain);
}
