// The part of CUDA's runtime and driver that the library calls, on a device that somebody else plays: launches and
// tensor maps are handed to callbacks. Counts its calls, knows several devices, and refuses what CUDA would refuse.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <map>
#include <string>
#include <utility>

namespace {

struct Size3 {
  unsigned x, y, z;
};
struct Launch {
  Size3 grid, block;
  size_t shared;
  void* stream;
};
using LaunchCallback = int (*)(const char* kernel, int device, Size3 grid, Size3 block, size_t shared,
                               void** arguments);
using MapCallback = int (*)(int type, unsigned rank, void* address, const uint64_t* sizes, const uint64_t* strides,
                            const uint32_t* box, int swizzle);

constexpr int kInvalidValue = 1, kInvalidConfiguration = 9, kInvalidDevice = 101;
constexpr int kDevices = 2, kSharedLimitAttribute = 8;
constexpr size_t kSharedWithoutAsking = 48 << 10, kSharedAtMost = 227 << 10;

LaunchCallback launch_callback;
MapCallback map_callback;
Launch next_launch;
int current_device, last_error, driver_version = 13000;
std::map<const void*, const char*> kernels;
std::map<std::pair<int, const void*>, size_t> shared_limits;
std::map<std::string, int> calls;

int encode(void* map, int type, unsigned rank, void* address, const uint64_t* sizes, const uint64_t* strides,
           const uint32_t* box, const uint32_t*, int interleave, int swizzle, int, int) {
  bool fits = reinterpret_cast<uintptr_t>(map) % 64 == 0 && reinterpret_cast<uintptr_t>(address) % 16 == 0;
  fits &= address != nullptr && interleave == 0;
  for (unsigned i = 0; i < rank; ++i) {
    fits &= sizes[i] > 0 && sizes[i] <= uint64_t{1} << 32 && box[i] > 0 && box[i] <= 256;
    if (i + 1 < rank) fits &= strides[i] % 16 == 0 && strides[i] < uint64_t{1} << 40;
  }
  if (!fits) return kInvalidValue;
  const int64_t number = map_callback(type, rank, address, sizes, strides, box, swizzle);
  memset(map, 0, 128);
  memcpy(map, &number, sizeof number);
  return number < 0 ? kInvalidValue : 0;
}

}  // namespace

extern "C" {

void emulator_callbacks(LaunchCallback launch, MapCallback map) {
  launch_callback = launch;
  map_callback = map;
}
int emulator_calls(const char* function) { return calls[function]; }
int emulator_device() { return current_device; }
void emulator_set_driver(int version) { driver_version = version; }

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* kernel, int, void*, void*, void*, void*,
                            int*) {
  kernels[host] = kernel;
}
int __cudaGetKernel(const void** kernel, const void* host) {
  *kernel = host;
  return 0;
}
unsigned __cudaPushCallConfiguration(Size3 grid, Size3 block, size_t shared, void* stream) {
  next_launch = {grid, block, shared, stream};
  return 0;
}
int __cudaPopCallConfiguration(Size3* grid, Size3* block, size_t* shared, void* stream) {
  *grid = next_launch.grid;
  *block = next_launch.block;
  *shared = next_launch.shared;
  *static_cast<void**>(stream) = next_launch.stream;
  return 0;
}
int __cudaLaunchKernel(const void* host, Size3 grid, Size3 block, void** arguments, size_t shared, void*) {
  ++calls["launch"];
  const auto limit = shared_limits.find({current_device, host});
  const size_t allowed = limit == shared_limits.end() ? kSharedWithoutAsking : limit->second;
  const bool fits = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.y < 65536 && grid.z < 65536;
  if (!fits || block.x * block.y * block.z > 1024) return last_error = kInvalidConfiguration;
  if (shared > allowed) return last_error = kInvalidValue;
  return last_error = launch_callback(kernels[host], current_device, grid, block, shared, arguments);
}
int cudaLaunchKernel(const void* host, Size3 grid, Size3 block, void** arguments, size_t shared, void* stream) {
  return __cudaLaunchKernel(host, grid, block, arguments, shared, stream);
}
int cudaFuncSetAttribute(const void* host, int attribute, int value) {
  ++calls["cudaFuncSetAttribute"];
  if (attribute != kSharedLimitAttribute || value < 0 || static_cast<size_t>(value) > kSharedAtMost)
    return kInvalidValue;
  shared_limits[{current_device, host}] = value;
  return 0;
}
int cudaGetDevice(int* device) {
  *device = current_device;
  return 0;
}
int cudaSetDevice(int device) {
  ++calls["cudaSetDevice"];
  if (device < 0 || device >= kDevices) return kInvalidDevice;
  current_device = device;
  return 0;
}
int cudaGetLastError() {
  const int error = last_error;
  last_error = 0;
  return error;
}
const char* cudaGetErrorString(int error) { return error == 0 ? "no error" : "an error of the emulated runtime"; }
int cudaDriverGetVersion(int* version) {
  *version = driver_version;
  return 0;
}
int cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return 0;
}
int cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long, int* found) {
  ++calls["cudaGetDriverEntryPointByVersion"];
  *function = reinterpret_cast<void*>(&encode);
  *found = 0;
  return 0;
}

}  // extern "C"
