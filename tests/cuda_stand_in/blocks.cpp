// Blocks of threads, one after another. The threads of a block that wait for each other are fibers: each runs until
// it reaches a barrier, and goes on when all that the barrier waits for are there.
#include "runtime.h"

#include <algorithm>
#include <cstring>
#include <memory>

enum State { READY, AT_WARP_BARRIER, AT_BLOCK_BARRIER, DONE };

struct Fiber {
  void* stack_pointer;
  std::unique_ptr<char[]> stack;
  State state;
  unsigned mask;  // lanes that a warp's barrier waits for
  int turn;       // which half of `exchange` the next shuffle uses
};

static const int MAX_THREADS = 1024, WARP = 32, STACK = 128 << 10;
static Fiber fibers[MAX_THREADS];
static void* scheduler;
static int current, threads;
static char exchange[2][MAX_THREADS][16];
static const Kernel* kernel;
static void** arguments;

extern "C" {
Dim threadIdx, blockIdx, blockDim, gridDim;
alignas(128) char dynamic_shared[SHARED_LIMIT];
}

// Save the registers that a call preserves and the stack pointer; go on with another stack.
__attribute__((naked, noinline)) static void switch_stack(void**, void*) {
  asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15; movq %rsp, (%rdi);"
      "movq %rsi, %rsp; popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}

static void select(int thread) {
  unsigned t = current = thread;
  threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
}

static void leave(State state) {
  Fiber& mine = fibers[current];
  mine.state = state;
  switch_stack(&mine.stack_pointer, scheduler);
}

static void fiber_body() {
  kernel->call(arguments);
  leave(DONE);
}

static void prepare(Fiber& f) {
  if (!f.stack) f.stack.reset(new char[STACK]);
  auto top = (void**)(((size_t)f.stack.get() + STACK) & ~(size_t)15) - 2;
  *--top = nullptr;
  *--top = (void*)fiber_body;
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.stack_pointer = top;
  f.state = READY;
  f.turn = 0;
}

// Run the threads of a warp until none can go on alone.
static void run_warp(int begin, int end) {
  for (bool moved = true; moved;) {
    moved = false;
    for (int t = begin; t < end; ++t) {
      if (fibers[t].state != READY) continue;
      select(t);
      switch_stack(&scheduler, fibers[t].stack_pointer);
      moved = true;
    }
    unsigned away = 0;
    for (int t = begin; t < end; ++t)
      if (fibers[t].state != AT_WARP_BARRIER && fibers[t].state != DONE) away |= 1u << (t - begin);
    for (int t = begin; t < end; ++t)
      if (fibers[t].state == AT_WARP_BARRIER && !(fibers[t].mask & away)) fibers[t].state = READY, moved = true;
  }
}

static bool run_block() {
  for (int t = 0; t < threads; ++t) prepare(fibers[t]);
  for (;;) {
    for (int t = 0; t < threads; t += WARP) run_warp(t, std::min(t + WARP, threads));
    int done = 0, waiting = 0;
    for (int t = 0; t < threads; ++t) done += fibers[t].state == DONE, waiting += fibers[t].state == AT_BLOCK_BARRIER;
    if (done == threads) return true;
    if (done + waiting < threads) return false;
    for (int t = 0; t < threads; ++t)
      if (fibers[t].state == AT_BLOCK_BARRIER) fibers[t].state = READY;
  }
}

bool run_blocks(const Kernel* k, void** values, Dim grid, Dim block, size_t shared) {
  kernel = k;
  arguments = values;
  if (k->loops) grid = block = {1, 1, 1};
  gridDim = grid;
  blockDim = block;
  threads = block.x * block.y * block.z;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        if (!k->barriers) {
          for (int t = 0; t < threads; ++t) select(t), k->call(values);
          continue;
        }
        memset(k->shared, 0xA5, k->shared_end - k->shared);  // garbage, as on a device
        memset(dynamic_shared, 0xA5, shared);
        if (!run_block()) return false;
      }
  return true;
}

extern "C" {
void stand_in_syncthreads() { leave(AT_BLOCK_BARRIER); }
void stand_in_syncwarp(unsigned mask) {
  fibers[current].mask = mask;
  leave(AT_WARP_BARRIER);
}
int stand_in_lane() { return current % WARP; }

// Give a lane's value and take that of another. Turns use two buffers, so that one barrier a shuffle is enough.
void stand_in_shuffle(unsigned mask, void* value, size_t size, int lane) {
  auto& buffer = exchange[fibers[current].turn ^= 1];
  int from = current / WARP * WARP + lane;
  memcpy(buffer[current], value, size);
  stand_in_syncwarp(mask);
  if (from < threads) memcpy(value, buffer[from], size);
}
}
