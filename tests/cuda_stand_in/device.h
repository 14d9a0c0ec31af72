// What NVRTC has built in, for g++: included before every text of kernels.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector_functions.h>
#include <vector_types.h>
#undef __shared__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __device__
#undef __global__
#undef __host__
#undef __constant__
#define __device__
#define __host__
#define __global__ __attribute__((visibility("default")))
#define __shared__ static __attribute__((section("stand_in_shared")))
#define __constant__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#ifdef STAND_IN_HALF
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif
#define FN static inline

// -- the threads of a block (blocks.cpp) -------------------------------------------------------------------

extern "C" {
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
extern char dynamic_shared[];
extern __attribute__((weak, visibility("hidden"))) char __start_stand_in_shared[], __stop_stand_in_shared[];
void stand_in_syncthreads();
void stand_in_syncwarp(unsigned mask);
void stand_in_shuffle(unsigned mask, void* value, size_t size, int lane);
int stand_in_lane();
double stand_in_special(int which, double x);
}
static const int warpSize = 32;

FN void __syncthreads() { stand_in_syncthreads(); }
FN void __syncwarp(unsigned mask = ~0u) { stand_in_syncwarp(mask); }
FN void __threadfence() {}
FN void __threadfence_block() {}
FN unsigned __activemask() { return ~0u; }
template <class T> FN T shuffled(unsigned mask, T x, int lane) {
  stand_in_shuffle(mask, &x, sizeof(T), lane);
  return x;
}
// A lane outside the segment of `width` lanes: the own value.
template <class T> FN T __shfl_xor_sync(unsigned mask, T x, int lanes, int = 32) { return shuffled(mask, x, stand_in_lane() ^ lanes); }
template <class T> FN T __shfl_up_sync(unsigned mask, T x, int by, int width = 32) {
  int lane = stand_in_lane();
  return shuffled(mask, x, lane % width >= by ? lane - by : lane);
}
template <class T> FN T __shfl_down_sync(unsigned mask, T x, int by, int width = 32) {
  int lane = stand_in_lane();
  return shuffled(mask, x, lane % width + by < width ? lane + by : lane);
}
template <class T> FN T __shfl_sync(unsigned mask, T x, int from, int width = 32) {
  return shuffled(mask, x, stand_in_lane() / width * width + from % width);
}
FN unsigned __ballot_sync(unsigned mask, int x) {
  unsigned bits = x ? 1u << stand_in_lane() : 0;
  for (int lanes = 1; lanes < 32; lanes *= 2) bits |= __shfl_xor_sync(mask, bits, lanes);
  return bits;
}
FN int __any_sync(unsigned mask, int x) { return __ballot_sync(mask, x) != 0; }
FN int __all_sync(unsigned mask, int x) { return !__any_sync(mask, !x); }

// -- mathematics -------------------------------------------------------------------------------------------

using std::abs; using std::acos; using std::acosh; using std::asin; using std::asinh; using std::atan; using std::atan2;
using std::atanh; using std::cbrt; using std::ceil; using std::copysign; using std::cos; using std::cosh; using std::erf;
using std::erfc; using std::exp; using std::exp2; using std::expm1; using std::fabs; using std::fdim; using std::floor;
using std::fma; using std::fmax; using std::fmin; using std::fmod; using std::frexp; using std::hypot; using std::ilogb;
using std::isfinite; using std::isinf; using std::isnan; using std::ldexp; using std::lgamma; using std::llrint;
using std::log; using std::log10; using std::log1p; using std::log2; using std::logb; using std::lround; using std::modf;
using std::nearbyint; using std::nextafter; using std::pow; using std::remainder; using std::rint; using std::round;
using std::scalbn; using std::signbit; using std::sin; using std::sinh; using std::sqrt; using std::tan; using std::tanh;
using std::tgamma; using std::trunc;

template <class A, class B> using Common = std::common_type_t<std::enable_if_t<std::is_arithmetic_v<A>, A>, std::enable_if_t<std::is_arithmetic_v<B>, B>>;
template <class A, class B, class T = Common<A, B>> FN T max(A a, B b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmax((T)a, (T)b);
  else return (T)a > (T)b ? (T)a : (T)b;
}
template <class A, class B, class T = Common<A, B>> FN T min(A a, B b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmin((T)a, (T)b);
  else return (T)a < (T)b ? (T)a : (T)b;
}
FN unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)a * b >> 64; }
FN double rsqrt(double a) { return 1 / std::sqrt(a); }
FN float rsqrt(float a) { return 1 / std::sqrt(a); }
FN float rsqrtf(float a) { return 1 / std::sqrt(a); }
FN double rcbrt(double a) { return 1 / std::cbrt(a); }
FN float rcbrtf(float a) { return 1 / std::cbrt(a); }
FN float exp10(float a) { return exp10f(a); }
FN double sinpi(double a) { return std::sin(M_PI * a); }
FN double cospi(double a) { return std::cos(M_PI * a); }
FN float sinpif(float a) { return std::sin(M_PI * a); }
FN float cospif(float a) { return std::cos(M_PI * a); }
FN float __fdividef(float a, float b) { return a / b; }
#define __expf expf
#define __logf logf
#define __sinf sinf
#define __cosf cosf
#define __powf powf

// SPECIAL(name, n): the n-th function of special() in libraries.py, which knows what the C library has not.
#define SPECIAL(name, n)                                       \
  FN double name(double x) { return stand_in_special(n, x); }  \
  FN float name(float x) { return stand_in_special(n, x); }    \
  FN float name##f(float x) { return stand_in_special(n, x); }
SPECIAL(erfinv, 0) SPECIAL(erfcinv, 1) SPECIAL(normcdf, 2) SPECIAL(normcdfinv, 3) SPECIAL(erfcx, 4)
SPECIAL(cyl_bessel_i0, 5) SPECIAL(cyl_bessel_i1, 6)

// -- bits --------------------------------------------------------------------------------------------------

template <class B, class A> FN B bits(A a) {
  static_assert(sizeof(A) == sizeof(B));
  B b;
  memcpy(&b, &a, sizeof(B));
  return b;
}
FN float __int_as_float(int a) { return bits<float>(a); }
FN float __uint_as_float(unsigned a) { return bits<float>(a); }
FN int __float_as_int(float a) { return bits<int>(a); }
FN unsigned __float_as_uint(float a) { return bits<unsigned>(a); }
FN double __longlong_as_double(long long a) { return bits<double>(a); }
FN long long __double_as_longlong(double a) { return bits<long long>(a); }
FN int __double2hiint(double a) { return (int)(bits<long long>(a) >> 32); }
FN int __double2loint(double a) { return (int)bits<long long>(a); }
FN double __hiloint2double(int hi, int lo) { return bits<double>(((long long)hi << 32) | (unsigned)lo); }
FN int __popc(unsigned a) { return __builtin_popcount(a); }
FN int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
FN int __clz(unsigned a) { return a ? __builtin_clz(a) : 32; }
FN int __ffs(unsigned a) { return __builtin_ffs(a); }
template <class T> FN T __ldg(const T* p) { return *p; }

// -- atomics: one thread runs at a time ----------------------------------------------------------------------

#define ATOMIC(name, T, expression) FN T name(T* p, T b) { T a = *p; *p = (T)(expression); return a; }
#define ATOMIC_INTEGERS(name, expression) \
  ATOMIC(name, int, expression) ATOMIC(name, unsigned, expression) ATOMIC(name, unsigned long long, expression)
ATOMIC_INTEGERS(atomicAdd, a + b) ATOMIC(atomicAdd, float, a + b) ATOMIC(atomicAdd, double, a + b)
ATOMIC(atomicSub, int, a - b) ATOMIC(atomicSub, unsigned, a - b)
ATOMIC_INTEGERS(atomicMax, a > b ? a : b) ATOMIC(atomicMax, long long, a > b ? a : b)
ATOMIC_INTEGERS(atomicMin, a < b ? a : b) ATOMIC(atomicMin, long long, a < b ? a : b)
ATOMIC_INTEGERS(atomicAnd, a & b) ATOMIC_INTEGERS(atomicOr, a | b) ATOMIC_INTEGERS(atomicXor, a ^ b)
template <class T> FN T atomicExch(T* p, T b) { T a = *p; *p = b; return a; }
template <class T> FN T atomicCAS(T* p, T expected, T b) {
  T a = *p;
  if (a == expected) *p = b;
  return a;
}

// -- what tapegrad's kernels have in PTX (compiler.py leaves out the lines of assembly) --------------------------

extern "C" {
float tg_h2f(unsigned short b);
unsigned short tg_f2h(float a);
unsigned short tg_d2h(double a);
}

// -- the list of kernels of a text, for the launcher -----------------------------------------------------------

struct Kernel {  // as in runtime.h
  const char* name;
  void (*call)(void** arguments);
  unsigned count;
  const unsigned* sizes;
  bool barriers, loops;
  char *shared, *shared_end;
};
template <auto kernel> struct Caller;
template <class... A, void (*kernel)(A...)> struct Caller<kernel> {
  template <size_t... I> static void apply(void** p, std::index_sequence<I...>) { kernel(*(std::remove_const_t<A>*)p[I]...); }
  static void call(void** p) { apply(p, std::index_sequence_for<A...>{}); }
  static constexpr unsigned sizes[] = {sizeof(A)..., 0};
  static constexpr unsigned count = sizeof...(A);
};
#define STAND_IN_KERNEL(id, kernel, barriers, loops)                                                                     \
  extern "C" __attribute__((visibility("default"))) Kernel id##__kernel;                                                 \
  Kernel id##__kernel = {#id, Caller<&kernel>::call, Caller<&kernel>::count, Caller<&kernel>::sizes, barriers, loops,    \
                         __start_stand_in_shared, __stop_stand_in_shared};
