// Sixteen numbers at a time: vectors of the compiler's own kind, and the few functions of them that it does not bring along.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace mdistill {

constexpr int LANES = 16;

template <class real>
struct Vectors {
  typedef real V __attribute__((vector_size(LANES * sizeof(real))));
};
template <>
struct Vectors<float> {
  typedef float V __attribute__((vector_size(LANES * sizeof(float))));
  typedef int32_t I __attribute__((vector_size(LANES * sizeof(int32_t))));
};
template <>
struct Vectors<double> {
  typedef double V __attribute__((vector_size(LANES * sizeof(double))));
  typedef int64_t I __attribute__((vector_size(LANES * sizeof(int64_t))));
};

template <class real>
using Lanes = typename Vectors<real>::V;

constexpr int padded(int n) { return (n + LANES - 1) / LANES * LANES; }

template <class real>
inline Lanes<real> load(const real *from) {
  Lanes<real> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class real>
inline void store(real *to, Lanes<real> v) {
  std::memcpy(to, &v, sizeof v);
}
template <class real>
inline Lanes<real> every(real value) {
  return value - Lanes<real>{};
}
template <class real>
inline Lanes<real> larger(Lanes<real> a, Lanes<real> b) {
  return a > b ? a : b;
}
template <class real>
inline Lanes<real> smaller(Lanes<real> a, Lanes<real> b) {
  return a < b ? a : b;
}
template <class real>
inline real sum(Lanes<real> v) {
  real total = 0;
  for (int i = 0; i < LANES; ++i) total += v[i];
  return total;
}
template <class real>
inline Lanes<real> root(Lanes<real> v) {
  alignas(64) real x[LANES];
  store<real>(x, v);
  for (int i = 0; i < LANES; ++i) x[i] = std::sqrt(x[i]);
  return load<real>(x);
}

// sin and cos of |q| <= pi/2 by their Taylor polynomials: error below the rounding error of `real`.
template <class real>
inline void sine_cosine(Lanes<real> q, Lanes<real> &sine, Lanes<real> &cosine) {
  constexpr int last = sizeof(real) == 4 ? 12 : 24;
  const Lanes<real> square = q * q;
  Lanes<real> s = every<real>(0), c = every<real>(0);
  double factorial[last + 2] = {1.0};
  for (int n = 1; n <= last + 1; ++n) factorial[n] = factorial[n - 1] * n;
#pragma GCC unroll 16
  for (int n = last; n >= 0; n -= 2) {
    const double sign = n % 4 == 0 ? 1.0 : -1.0;
    c = c * square + real(sign / factorial[n]);
    s = s * square + real(sign / factorial[n + 1]);
  }
  sine = s * q;
  cosine = c;
}

// exp of numbers within the range of `real`, by 2^n times the Taylor polynomial of the rest.
template <class real>
inline Lanes<real> exponential(Lanes<real> x) {
  using I = typename Vectors<real>::I;
  constexpr bool single = sizeof(real) == 4;
  constexpr int degree = single ? 7 : 13, mantissa = single ? 23 : 52, bias = single ? 127 : 1023;
  constexpr real most = single ? real(85) : real(700), magic = single ? real(12582912.0) : real(6755399441055744.0);
  x = smaller<real>(larger<real>(x, every<real>(-most)), every<real>(most));
  const Lanes<real> turns = (x * real(1.4426950408889634) + magic) - magic;
  Lanes<real> rest = x - turns * (single ? real(0.693359375) : real(0.693147180369123816490));
  rest = rest - turns * (single ? real(-2.12194440e-4) : real(1.90821492927058770002e-10));
  double factorial = 1.0;
  for (int n = 2; n <= degree; ++n) factorial *= n;
  Lanes<real> value = every<real>(real(1.0 / factorial));
#pragma GCC unroll 16
  for (int n = degree; n >= 1; --n) {
    factorial /= n;
    value = value * rest + real(1.0 / factorial);
  }
  const I power = (__builtin_convertvector(turns, I) + bias) << mantissa;
  Lanes<real> scale;
  std::memcpy(&scale, &power, sizeof scale);
  return value * scale;
}

// Which numbers of two vectors go to the lower and to the upper one where blocks of S numbers change places.
template <int S>
struct Exchange {
  int32_t low[LANES], high[LANES];
  constexpr Exchange() : low(), high() {
    for (int j = 0; j < LANES; ++j) {
      low[j] = (j & S) ? LANES + j - S : j;
      high[j] = (j & S) ? LANES + j : j + S;
    }
  }
};

template <int S>
inline void exchange(Lanes<float> *x) {
  static constexpr Exchange<S> at;  // a constant: made up at run time it would cost more than the exchange
  typename Vectors<float>::I low, high;
  std::memcpy(&low, at.low, sizeof low), std::memcpy(&high, at.high, sizeof high);
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) {
    if (i & S) continue;
    const Lanes<float> a = x[i], b = x[i + S];
    x[i] = __builtin_shuffle(a, b, low);
    x[i + S] = __builtin_shuffle(a, b, high);
  }
}

// x[i][j] <- x[j][i] for 16 vectors of 16.
template <class real>
inline void transpose(Lanes<real> *x) {
  if constexpr (sizeof(real) == 4) {
    exchange<8>(x), exchange<4>(x), exchange<2>(x), exchange<1>(x);
  } else {
    alignas(64) real in[LANES][LANES], out[LANES][LANES];
    std::memcpy(in, x, sizeof in);
    for (int i = 0; i < LANES; ++i)
      for (int j = 0; j < LANES; ++j) out[j][i] = in[i][j];
    std::memcpy(static_cast<void *>(x), out, sizeof out);
  }
}

struct Free {
  void operator()(void *p) const { std::free(p); }
};

// An array aligned for vectors, filled with zeros.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t n) { resize(n); }
  void resize(size_t n) {
    const size_t bytes = (n * sizeof(T) + 127) / 128 * 128;
    data.reset(static_cast<T *>(std::aligned_alloc(128, std::max<size_t>(bytes, 128))));
    std::memset(static_cast<void *>(data.get()), 0, std::max<size_t>(bytes, 128));
    count = n;
  }
  T &operator[](size_t i) { return data.get()[i]; }
  const T &operator[](size_t i) const { return data.get()[i]; }
  T *begin() { return data.get(); }
  const T *begin() const { return data.get(); }
  size_t size() const { return count; }

 private:
  std::unique_ptr<T, Free> data;
  size_t count = 0;
};

}  // namespace mdistill
