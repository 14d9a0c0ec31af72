// Shared by the parts of the stand-in's library and by the host code of kernels.
#pragma once
#include <cstddef>
#include <functional>

enum Count { LAUNCHES, COPIES_IN, COPIES_OUT, COPIES_ON_DEVICE, WAITS, GRAPH_LAUNCHES, ALLOCATIONS, GEMMS, FILLS, CAPTURED, N_COUNTS };
enum { SHARED_LIMIT = 48 << 10 };  // bytes a block, as ptxas has it

struct Dim { unsigned x, y, z; };

// What a compiled text says of one of its kernels (STAND_IN_KERNEL in device.h makes it).
struct Kernel {
  const char* name;
  void (*call)(void** arguments);  // one thread
  unsigned count;
  const unsigned* sizes;  // of the arguments, in bytes
  bool barriers;          // its threads wait for each other
  bool loops;             // one thread does the work of all (a grid-stride loop)
  char *shared, *shared_end;  // static shared memory of all kernels of the text
};

extern "C" long counts[N_COUNTS];

int refuse(int error, const char* format, ...);
bool is_captured(const void* stream);
bool is_device_memory(const void* p);
void record(std::function<void()> work);
// shared: bytes of dynamic shared memory. False where some threads wait at a barrier that others do not reach.
bool run_blocks(const Kernel* kernel, void** arguments, Dim grid, Dim block, size_t shared);
