// cuBLAS's matrix products, column-major, in loops; arguments are checked as cuBLAS checks them.
#include "runtime.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <complex>
#include <cstring>

using Float2 = std::complex<float>;
using Double2 = std::complex<double>;

struct Handle {
  void* stream;
  int math_mode, pointer_mode;
};

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type { R_32F = 0, R_64F = 1, R_16F = 2, C_32F = 4, C_64F = 5, R_16BF = 14, TF32 = 100 };  // the last is ours
enum { FAST_TF32 = 77 };

struct Tf32 {
  float value;
};

static float wide(__half x) { return __half2float(x); }
static float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
static float wide(Tf32 x) {  // rounded to 10 bits of fraction
  unsigned int bits;
  memcpy(&bits, &x, 4);
  bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fffu;
  memcpy(&x, &bits, 4);
  return x.value;
}
template <class T> static T wide(T x) { return x; }
static void narrow(float x, __half* p) { *p = __float2half(x); }
static void narrow(float x, __nv_bfloat16* p) { *p = __float2bfloat16(x); }
static void narrow(float x, Tf32* p) { p->value = x; }
template <class T> static void narrow(T x, T* p) { *p = x; }
template <class T> static T conjugate(T x) { return x; }
static Float2 conjugate(Float2 x) { return std::conj(x); }
static Double2 conjugate(Double2 x) { return std::conj(x); }

// One operand: read as it stands (0), transposed (1) or conjugated too (2).
template <class T> struct Operand {
  int op;
  const T* data;
  long ld;
  auto operator()(int i, int j) const {
    auto x = wide(op ? data[j + i * ld] : data[i + j * ld]);
    return op == 2 ? conjugate(x) : x;
  }
};

template <class T, class C>
static void multiply(int m, int n, int k, C alpha, Operand<T> a, Operand<T> b, C beta, T* c, long ldc) {
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < m; ++i) {
      C sum = 0;
      for (int l = 0; l < k; ++l) sum += a(i, l) * b(l, j);
      sum *= alpha;
      if (beta != C(0)) sum += beta * wide(c[i + j * ldc]);
      narrow(sum, &c[i + j * ldc]);
    }
}

// cublasComputeType_t of a type: 32F, its TF32, 64F; CuPy passes the data's own type too.
static bool can_compute(int type, int compute) {
  switch (type) {
    case R_32F: return compute == 68 || compute == 77 || compute == R_32F;
    case R_64F: return compute == 70 || compute == R_64F;
    case C_32F: return compute == 68 || compute == 77 || compute == C_32F;
    case C_64F: return compute == 70 || compute == C_64F;
    case R_16F: case R_16BF: return compute == 68;
  }
  return false;
}

struct Gemm {
  int ta, tb, m, n, k;
  char alpha[16], beta[16];
  int lda, ldb, ldc;

  // Check the arguments and keep the factors, whose type is the one that is computed in.
  int prepare(int type, int type_b, int type_c, int compute, const void* a, const void* b) {
    if (type != type_b || type != type_c || !can_compute(type, compute))
      return refuse(NOT_SUPPORTED, "gemm of types %d, %d, %d computed in %d", type, type_b, type_c, compute);
    if (!is_valid())
      return refuse(INVALID_VALUE, "gemm of m %d, n %d, k %d with leading dimensions %d, %d, %d", m, n, k, lda, ldb, ldc);
    size_t size = type == C_64F ? 16 : type == R_64F || type == C_32F ? 8 : 4;
    memcpy(alpha, a, size);
    memcpy(beta, b, size);
    return SUCCESS;
  }
  bool is_valid() const {
    return m >= 0 && n >= 0 && k >= 0 && lda >= std::max(1, ta ? k : m) && ldb >= std::max(1, tb ? n : k) && ldc >= std::max(1, m);
  }
  template <class T, class C> void typed(const void* a, const void* b, void* c, long at, long bt, long ct) const {
    multiply<T, C>(m, n, k, *(C*)alpha, {ta, (const T*)a + at, lda}, {tb, (const T*)b + bt, ldb}, *(C*)beta, (T*)c + ct, ldc);
  }
  // at, bt, ct: where the matrices start, in elements.
  void run(int type, const void* a, const void* b, void* c, long at = 0, long bt = 0, long ct = 0) const {
    switch (type) {
      case R_32F: return typed<float, float>(a, b, c, at, bt, ct);
      case TF32: return typed<Tf32, float>(a, b, c, at, bt, ct);
      case R_64F: return typed<double, double>(a, b, c, at, bt, ct);
      case R_16F: return typed<__half, float>(a, b, c, at, bt, ct);
      case R_16BF: return typed<__nv_bfloat16, float>(a, b, c, at, bt, ct);
      case C_32F: return typed<Float2, Float2>(a, b, c, at, bt, ct);
      case C_64F: return typed<Double2, Double2>(a, b, c, at, bt, ct);
    }
  }
};

static int issue(void* handle, std::function<void()> work) {
  counts[GEMMS]++;
  if (is_captured(((Handle*)handle)->stream)) record(std::move(work));
  else work();
  return SUCCESS;
}

extern "C" {
int cublasCreate_v2(void** h) { *h = new Handle{}; return 0; }
int cublasDestroy_v2(void* h) { delete (Handle*)h; return 0; }
int cublasGetVersion_v2(void*, int* v) { *v = 130000; return 0; }
int cublasSetStream_v2(void* h, void* stream) { ((Handle*)h)->stream = stream; return 0; }
int cublasGetStream_v2(void* h, void** stream) { *stream = ((Handle*)h)->stream; return 0; }
int cublasSetWorkspace_v2(void*, void* p, size_t) { return (size_t)p % 256 ? INVALID_VALUE : SUCCESS; }
int cublasSetMathMode(void* h, int mode) { ((Handle*)h)->math_mode = mode; return 0; }
int cublasGetMathMode(void* h, int* mode) { *mode = ((Handle*)h)->math_mode; return 0; }
int cublasSetPointerMode_v2(void* h, int mode) { ((Handle*)h)->pointer_mode = mode; return 0; }
int cublasGetPointerMode_v2(void* h, int* mode) { *mode = ((Handle*)h)->pointer_mode; return 0; }

int cublasGemmStridedBatchedEx(void* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int type,
                               int lda, long long sa, const void* b, int type_b, int ldb, long long sb, const void* beta,
                               void* c, int type_c, int ldc, long long sc, int batch, int compute, int) {
  Gemm g{ta, tb, m, n, k, {}, {}, lda, ldb, ldc};
  if (int error = g.prepare(type, type_b, type_c, compute, alpha, beta)) return error;
  if (!is_device_memory(a) || !is_device_memory(b) || !is_device_memory(c))
    return refuse(INVALID_VALUE, "gemm on memory that is not the device's");
  if (compute == FAST_TF32 && type == R_32F) type = TF32;
  return issue(h, [=] { for (long i = 0; i < batch; ++i) g.run(type, a, b, c, i * sa, i * sb, i * sc); });
}
// Arrays of pointers, themselves on the device.
int cublasGemmBatchedEx(void* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* const* a, int type,
                        int lda, const void* const* b, int type_b, int ldb, const void* beta, void* const* c, int type_c,
                        int ldc, int batch, int compute, int) {
  Gemm g{ta, tb, m, n, k, {}, {}, lda, ldb, ldc};
  if (int error = g.prepare(type, type_b, type_c, compute, alpha, beta)) return error;
  if (!is_device_memory(a) || !is_device_memory(b) || !is_device_memory(c))
    return refuse(INVALID_VALUE, "gemm with arrays of pointers that are not in the device's memory");
  if (compute == FAST_TF32 && type == R_32F) type = TF32;
  return issue(h, [=] { for (int i = 0; i < batch; ++i) g.run(type, a[i], b[i], c[i]); });
}
int cublasGemmEx(void* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int type, int lda,
                 const void* b, int type_b, int ldb, const void* beta, void* c, int type_c, int ldc, int compute, int algorithm) {
  return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, type, lda, 0, b, type_b, ldb, 0, beta, c, type_c, ldc, 0,
                                    1, compute, algorithm);
}

#define GEMM(letter, T, type)                                                                                          \
  int cublas##letter##gemm_v2(void* h, int ta, int tb, int m, int n, int k, const T* alpha, const T* a, int lda,       \
                              const T* b, int ldb, const T* beta, T* c, int ldc) {                                     \
    Gemm g{ta, tb, m, n, k, {}, {}, lda, ldb, ldc};                                                                    \
    memcpy(g.alpha, alpha, sizeof(T));                                                                                 \
    memcpy(g.beta, beta, sizeof(T));                                                                                   \
    return g.is_valid() ? issue(h, [=] { g.run(type, a, b, c); }) : INVALID_VALUE;                                     \
  }                                                                                                                    \
  int cublas##letter##gemmBatched(void* h, int ta, int tb, int m, int n, int k, const T* alpha, const T* const* a,     \
                                  int lda, const T* const* b, int ldb, const T* beta, T* const* c, int ldc, int batch) { \
    Gemm g{ta, tb, m, n, k, {}, {}, lda, ldb, ldc};                                                                    \
    memcpy(g.alpha, alpha, sizeof(T));                                                                                 \
    memcpy(g.beta, beta, sizeof(T));                                                                                   \
    if (!g.is_valid()) return INVALID_VALUE;                                                                           \
    return issue(h, [=] { for (int i = 0; i < batch; ++i) g.run(type, a[i], b[i], c[i]); });                           \
  }
GEMM(S, float, R_32F)
GEMM(D, double, R_64F)
GEMM(C, Float2, C_32F)
GEMM(Z, Double2, C_64F)
}
