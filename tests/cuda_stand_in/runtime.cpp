// The CUDA runtime and driver over host memory, as far as CuPy calls them.
//
// Streams run in order, so a call is done when it returns. Calls on a captured stream are recorded and replayed; those
// that a device refuses during capture are refused and spoil the capture.
#include "runtime.h"

#include <dlfcn.h>
#include <driver_types.h>
#include <time.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

// -- state -------------------------------------------------------------------------------------------------

struct Allocation {
  size_t bytes;
  int device;
};

struct Stream {
  unsigned flags;
};

struct Graph {
  std::vector<std::function<void()>> work;
};

static std::map<char*, Allocation> memory;  // by address
static std::mutex running;                  // kernels share threadIdx and the fibers
static Stream* captured = nullptr;          // the stream under capture
static Graph* recording = nullptr;          // its work so far
static bool spoiled = false;                // by a call that a device refuses during capture

extern "C" {
long counts[N_COUNTS];
int device_count = 2, current_device = 0, driver_version = 13000;
int fault = 0;                              // the error of every launch, copy and wait: a device that is gone
size_t memory_limit = size_t(4) << 30, memory_used = 0;
}

int refuse(int error, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "[cuda_stand_in] ");
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
  return error;
}

bool is_captured(const void* stream) { return captured && stream == captured; }

void record(std::function<void()> work) {
  recording->work.push_back(std::move(work));
  counts[CAPTURED]++;
}

// Do work on a stream: now, or at each launch of the graph.
static int enqueue(const void* stream, std::function<void()> work) {
  if (fault) return fault;
  if (is_captured(stream)) record(std::move(work));
  else work();
  return 0;
}

static const std::pair<char* const, Allocation>* allocation_of(const void* p) {
  auto next = memory.upper_bound((char*)p);
  if (next == memory.begin()) return nullptr;
  auto it = std::prev(next);
  return (char*)p < it->first + it->second.bytes ? &*it : nullptr;
}

bool is_device_memory(const void* p) { return allocation_of(p) != nullptr; }

static int spoil(const char* call) {
  spoiled = true;
  return refuse(cudaErrorStreamCaptureUnsupported, "%s during capture", call);
}

extern "C" {

// -- errors, versions, devices -----------------------------------------------------------------------------

static const struct { int code; const char* name; const char* text; } ERRORS[] = {
    {1, "cudaErrorInvalidValue", "invalid argument"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {46, "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"},
    {35, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {719, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {801, "cudaErrorNotSupported", "operation not supported"},
    {900, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {901, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
    {906, "cudaErrorStreamCaptureImplicit", "operation would make the legacy stream depend on a capturing blocking stream"},
};

const char* cudaGetErrorName(int e) {
  for (auto& x : ERRORS) if (x.code == e) return x.name;
  return "cudaErrorUnknown";
}
const char* cudaGetErrorString(int e) {
  for (auto& x : ERRORS) if (x.code == e) return x.text;
  return "unknown error";
}
int cuGetErrorName(int e, const char** s) { *s = cudaGetErrorName(e); return 0; }
int cuGetErrorString(int e, const char** s) { *s = cudaGetErrorString(e); return 0; }
int cudaGetLastError() { return 0; }
int cudaPeekAtLastError() { return 0; }
int cudaDriverGetVersion(int* v) { *v = driver_version; return 0; }
int cudaRuntimeGetVersion(int* v) { *v = 13000; return 0; }
int cuDriverGetVersion(int* v) { *v = driver_version; return 0; }
int cuInit(unsigned) { return 0; }

int cudaGetDeviceCount(int* n) {
  *n = 0;
  if (driver_version < 13000) return 35;  // that of no driver is 0
  *n = device_count;
  return device_count ? 0 : 100;
}
int cudaGetDevice(int* d) { *d = current_device; return 0; }
int cudaSetDevice(int d) {
  if (d < 0 || d >= device_count) return 101;
  current_device = d;
  return 0;
}
int cudaDeviceSynchronize() {
  counts[WAITS]++;
  return captured ? spoil("cudaDeviceSynchronize") : fault;
}

// An H100's. Attributes that are not listed are capabilities, and there.
static const struct { int attribute, value; } ATTRIBUTES[] = {
    {cudaDevAttrComputeCapabilityMajor, 9}, {cudaDevAttrComputeCapabilityMinor, 0},
    {cudaDevAttrMultiProcessorCount, 132}, {cudaDevAttrWarpSize, 32},
    {cudaDevAttrMaxThreadsPerBlock, 1024}, {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
    {cudaDevAttrMaxBlockDimX, 1024}, {cudaDevAttrMaxBlockDimY, 1024}, {cudaDevAttrMaxBlockDimZ, 64},
    {cudaDevAttrMaxGridDimX, 2147483647}, {cudaDevAttrMaxGridDimY, 65535}, {cudaDevAttrMaxGridDimZ, 65535},
    {cudaDevAttrMaxSharedMemoryPerBlock, SHARED_LIMIT}, {cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448},
    {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472},
    {cudaDevAttrMaxRegistersPerBlock, 65536}, {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
    {cudaDevAttrL2CacheSize, 50 << 20}, {cudaDevAttrGlobalMemoryBusWidth, 5120},
    {cudaDevAttrMemoryClockRate, 2619000}, {cudaDevAttrClockRate, 1980000},
    {cudaDevAttrMaxBlocksPerMultiprocessor, 32},
};

int cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = 1;
  for (auto& x : ATTRIBUTES) if (x.attribute == attribute) *value = x.value;
  return 0;
}
int cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  strcpy(p->name, "stand-in for an H100");
  p->major = 9;
  p->totalGlobalMem = memory_limit;
  p->multiProcessorCount = 132;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->sharedMemPerBlock = SHARED_LIMIT;
  p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = 65536;
  p->l2CacheSize = 50 << 20;
  p->memoryBusWidth = 5120;
  return 0;
}
int cudaDeviceGetPCIBusId(char* text, int n, int d) { snprintf(text, n, "0000:0%d:00.0", d); return 0; }
int cudaDeviceCanAccessPeer(int* can, int, int) { *can = 1; return 0; }
int cudaDeviceEnablePeerAccess(int, unsigned) { return 0; }
int cudaDeviceGetLimit(size_t* value, int) { *value = 0; return 0; }
int cudaDeviceSetLimit(int, size_t) { return 0; }
int cudaProfilerStart() { return 0; }
int cudaProfilerStop() { return 0; }

// -- memory ------------------------------------------------------------------------------------------------

// New memory holds garbage, as on a device.
int cudaMalloc(void** p, size_t n) {
  counts[ALLOCATIONS]++;
  if (fault) return fault;
  size_t bytes = std::max<size_t>((n + 511) / 512 * 512, 512);
  *p = memory_used + bytes > memory_limit ? nullptr : aligned_alloc(512, bytes);
  if (!*p) return 2;
  memset(*p, 0xA5, std::min<size_t>(bytes, 4 << 20));
  memory[(char*)*p] = {bytes, current_device};
  memory_used += bytes;
  return 0;
}
int cudaMallocManaged(void** p, size_t n, unsigned) { return cudaMalloc(p, n); }
int cudaFree(void* p) {
  if (!p) return 0;
  auto it = memory.find((char*)p);
  if (it == memory.end()) return refuse(1, "cudaFree of memory that is not the device's");
  memory_used -= it->second.bytes;
  memory.erase(it);
  free(p);
  return 0;
}
int cudaHostAlloc(void** p, size_t n, unsigned) { *p = aligned_alloc(512, (n + 1023) / 512 * 512); return *p ? 0 : 2; }
int cudaFreeHost(void* p) { free(p); return 0; }
int cudaHostRegister(void*, size_t, unsigned) { return 0; }
int cudaHostUnregister(void*) { return 0; }
int cudaMemGetInfo(size_t* left, size_t* total) { *total = memory_limit; *left = memory_limit - memory_used; return 0; }
int cudaPointerGetAttributes(cudaPointerAttributes* out, const void* p) {
  auto found = allocation_of(p);
  *out = {};
  out->type = found ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  out->device = found ? found->second.device : 0;
  out->devicePointer = (void*)p;
  return 0;
}

static int direction(const void* to, const void* from) {
  bool a = is_device_memory(to), b = is_device_memory(from);
  return a == b ? COPIES_ON_DEVICE : a ? COPIES_IN : COPIES_OUT;
}
int cudaMemcpy(void* to, const void* from, size_t n, int) {
  int kind = direction(to, from);
  counts[kind]++;
  if (kind == COPIES_OUT) counts[WAITS]++;
  if (captured) return spoil("cudaMemcpy");
  return enqueue(nullptr, [=] { memmove(to, from, n); });
}
int cudaMemcpyAsync(void* to, const void* from, size_t n, int, void* stream) {
  counts[direction(to, from)]++;
  return enqueue(stream, [=] { memmove(to, from, n); });
}
int cudaMemcpyPeer(void* to, int, const void* from, int, size_t n) { return cudaMemcpyAsync(to, from, n, 0, nullptr); }
int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t n, void* stream) {
  return cudaMemcpyAsync(to, from, n, 0, stream);
}
int cudaMemsetAsync(void* to, int value, size_t n, void* stream) {
  counts[FILLS]++;
  return enqueue(stream, [=] { memset(to, value, n); });
}
int cudaMemset(void* to, int value, size_t n) { return cudaMemsetAsync(to, value, n, nullptr); }

// -- streams, capture, graphs ------------------------------------------------------------------------------

static bool is_default(const void* stream) { return (size_t)stream < 3; }  // null, legacy, per thread

int cudaStreamCreateWithPriority(void** stream, unsigned flags, int) { *stream = new Stream{flags}; return 0; }
int cudaStreamCreateWithFlags(void** stream, unsigned flags) { *stream = new Stream{flags}; return 0; }
int cudaStreamCreate(void** stream) { *stream = new Stream{0}; return 0; }
int cudaStreamDestroy(void* stream) { delete (Stream*)stream; return 0; }
int cudaStreamGetFlags(void* stream, unsigned* flags) { *flags = is_default(stream) ? 0 : ((Stream*)stream)->flags; return 0; }
int cudaStreamGetPriority(void*, int* priority) { *priority = 0; return 0; }
int cudaStreamSynchronize(void* stream) {
  counts[WAITS]++;
  return is_captured(stream) ? spoil("cudaStreamSynchronize") : fault;
}
int cudaStreamQuery(void* stream) { return is_captured(stream) ? spoil("cudaStreamQuery") : fault; }
int cudaStreamWaitEvent(void*, void*, unsigned) { return 0; }

int cudaStreamBeginCapture(void* stream, int) {
  if (is_default(stream)) return refuse(900, "the default stream cannot be captured");
  if (captured) return refuse(900, "another stream is being captured");
  captured = (Stream*)stream;
  recording = new Graph;
  spoiled = false;
  return 0;
}
int cudaStreamEndCapture(void* stream, void** graph) {
  if (!is_captured(stream)) return 901;
  *graph = spoiled ? nullptr : recording;
  if (spoiled) delete recording;
  captured = nullptr;
  recording = nullptr;
  return spoiled ? 901 : 0;
}
int cudaStreamIsCapturing(void* stream, int* status) {
  *status = is_captured(stream);
  bool blocking = captured && !(captured->flags & cudaStreamNonBlocking);
  return is_default(stream) && blocking ? cudaErrorStreamCaptureImplicit : 0;
}
// A graph and what is instantiated from it share the recorded work; both live on.
int cudaGraphInstantiate(void** executable, void* graph, unsigned long long) { *executable = graph; return 0; }
int cudaGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) { *executable = graph; return 0; }
int cudaGraphUpload(void*, void*) { return 0; }
int cudaGraphDestroy(void*) { return 0; }
int cudaGraphExecDestroy(void*) { return 0; }
int cudaGraphLaunch(void* graph, void*) {
  counts[GRAPH_LAUNCHES]++;
  if (fault) return fault;
  for (auto& work : ((Graph*)graph)->work) work();
  return 0;
}

// -- events ------------------------------------------------------------------------------------------------

int cudaEventCreateWithFlags(void** event, unsigned) { *event = new double(0); return 0; }
int cudaEventCreate(void** event) { return cudaEventCreateWithFlags(event, 0); }
int cudaEventDestroy(void* event) { delete (double*)event; return 0; }
int cudaEventRecord(void* event, void*) {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *(double*)event = now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
  return 0;
}
int cudaEventSynchronize(void*) { counts[WAITS]++; return fault; }
int cudaEventQuery(void*) { return 0; }
int cudaEventElapsedTime(float* ms, void* from, void* to) { *ms = *(double*)to - *(double*)from; return 0; }

// -- modules and launches ----------------------------------------------------------------------------------

int cuDevicePrimaryCtxRelease(int) { return 0; }
int cuCtxGetCurrent(void** context) { *context = (void*)8; return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuCtxGetDevice(int* d) { *d = current_device; return 0; }

// A module is the library that its text was compiled to; its "image" is the library's path.
int cuModuleLoadData(void** module, const char* path) {
  *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  return *module ? 0 : refuse(200, "%s", dlerror());
}
int cuModuleLoad(void** module, const char* path) { return cuModuleLoadData(module, path); }
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = dlsym(module, (std::string(name) + "__kernel").c_str());
  return *function ? 0 : refuse(500, "there is no kernel %s", name);
}
int cuModuleGetGlobal(void** p, size_t* n, void* module, const char* name) {
  *p = dlsym(module, name);
  *n = 0;
  return *p ? 0 : 500;
}

int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** arguments, void**) {
  auto kernel = (const Kernel*)function;
  counts[LAUNCHES]++;
  if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024 || bz > 64 || gy > 65535 || gz > 65535)
    return refuse(1, "%s: a grid of (%u, %u, %u) blocks of (%u, %u, %u) threads", kernel->name, gx, gy, gz, bx, by, bz);
  if (shared > SHARED_LIMIT) return refuse(1, "%s: %u bytes of shared memory, of %d", kernel->name, shared, SHARED_LIMIT);
  std::vector<std::vector<char>> held;  // arguments are read at the launch, not when the graph runs
  for (unsigned i = 0; i < kernel->count; ++i) {
    auto p = (char*)arguments[i];
    held.emplace_back(p, p + kernel->sizes[i]);
  }
  int status = 0;
  int* failed = is_captured(stream) ? nullptr : &status;
  int error = enqueue(stream, [=]() mutable {
    std::vector<void*> values;
    for (auto& x : held) values.push_back(x.data());
    std::lock_guard<std::mutex> lock(running);
    if (!run_blocks(kernel, values.data(), {gx, gy, gz}, {bx, by, bz}, shared)) {
      refuse(719, "%s: some threads wait at a barrier that others do not reach", kernel->name);
      if (failed) *failed = 719;
      else fault = 719;
    }
  });
  return error ? error : status;
}
int cuLaunchCooperativeKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                              unsigned shared, void* stream, void** arguments) {
  return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, arguments, nullptr);
}
int cuFuncGetAttribute(int* value, int attribute, void*) { *value = attribute == 0 ? 1024 : 0; return 0; }
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void*, int, size_t) { *n = 2; return 0; }
int cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void*, void*, size_t, int) { *grid = 132; *block = 256; return 0; }
}
