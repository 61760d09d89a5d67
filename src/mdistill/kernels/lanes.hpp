// Vectors as wide as a register of the processor that the code is compiled for, and the few functions of them that the compiler
// does not bring along. Nothing else in these headers knows an instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#ifdef __clang__
#define MDISTILL_UNROLL _Pragma("unroll")
#else
#define MDISTILL_UNROLL _Pragma("GCC unroll 64")
#endif

namespace mdistill {

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int REGISTER_BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int REGISTER_BYTES = 16, REGISTERS = 32;
#else
constexpr int REGISTER_BYTES = 16, REGISTERS = 16;
#endif

// V, I: numbers of a register. Row, Spot, Signed: four numbers, whatever the register.
template <class real>
struct Vectors;
template <>
struct Vectors<float> {
  typedef float Row __attribute__((vector_size(16)));
  typedef uint32_t Spot __attribute__((vector_size(16)));
  typedef int32_t Signed __attribute__((vector_size(16)));
  typedef float V __attribute__((vector_size(REGISTER_BYTES)));
  typedef int32_t I __attribute__((vector_size(REGISTER_BYTES)));
};
template <>
struct Vectors<double> {
  typedef double Row __attribute__((vector_size(32)));
  typedef uint64_t Spot __attribute__((vector_size(32)));
  typedef int64_t Signed __attribute__((vector_size(32)));
  typedef double V __attribute__((vector_size(REGISTER_BYTES)));
  typedef int64_t I __attribute__((vector_size(REGISTER_BYTES)));
};

template <class real>
using Lanes = typename Vectors<real>::V;
template <class real>
constexpr int LANES = REGISTER_BYTES / sizeof(real);

template <class real>
constexpr int padded(int n) {
  return (n + LANES<real> - 1) / LANES<real> * LANES<real>;
}

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
  for (int i = 0; i < LANES<real>; ++i) total += v[i];
  return total;
}
template <class real>
inline Lanes<real> root(Lanes<real> v) {
  alignas(REGISTER_BYTES) real x[LANES<real>];
  store<real>(x, v);
  for (int i = 0; i < LANES<real>; ++i) x[i] = std::sqrt(x[i]);
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
  MDISTILL_UNROLL
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
  constexpr int degree = single ? 7 : 13, mantissa = single ? 23 : 52;
  constexpr real most = single ? real(85) : real(700), magic = single ? real(12582912.0) : real(6755399441055744.0);
  x = smaller<real>(larger<real>(x, every<real>(-most)), every<real>(most));
  const Lanes<real> shifted = x * real(1.4426950408889634) + magic, turns = shifted - magic;
  Lanes<real> rest = x - turns * (single ? real(0.693359375) : real(0.693147180369123816490));
  rest = rest - turns * (single ? real(-2.12194440e-4) : real(1.90821492927058770002e-10));
  double factorial = 1.0;
  for (int n = 2; n <= degree; ++n) factorial *= n;
  Lanes<real> value = every<real>(real(1.0 / factorial));
  MDISTILL_UNROLL
  for (int n = degree; n >= 1; --n) {
    factorial /= n;
    value = value * rest + real(1.0 / factorial);
  }
  I power, whole;  // the last bits of `shifted` are the whole number; those of `value` get it added to their exponent
  std::memcpy(&whole, &shifted, sizeof whole), std::memcpy(&power, &value, sizeof power);
  power += whole << mantissa;
  std::memcpy(&value, &power, sizeof value);
  return value;
}

// Whole numbers, read with their sign, as numbers.
template <class real>
inline typename Vectors<real>::Row numbers_of(typename Vectors<real>::Spot spot) {
  return __builtin_convertvector((typename Vectors<real>::Signed)spot, typename Vectors<real>::Row);
}

// Numbers of two vectors by their place in both together.
template <class V, int... PLACE>
inline V pick(V a, V b, std::integer_sequence<int, PLACE...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, PLACE...);
#else
  typedef std::conditional_t<sizeof(a[0]) == 4, Vectors<float>, Vectors<double>> Kind;
  return __builtin_shuffle(a, b, typename Kind::I{PLACE...});
#endif
}

template <int N, class real, int... J>
inline Lanes<real> repeated_in(const real *from, std::integer_sequence<int, J...>) {
  if constexpr (N == 4) {
    typename Vectors<real>::Row row;
    std::memcpy(&row, from, sizeof row);
#if defined(__clang__)
    return __builtin_shufflevector(row, row, (J % 4)...);
#elif defined(__AVX512F__)
    if constexpr (sizeof(real) == 4)
      return __builtin_ia32_broadcastf32x4_512(row, Lanes<real>{}, -1);
    else
      return __builtin_ia32_broadcastf64x4_512(row, Lanes<real>{}, -1);
#endif
  }
  return Lanes<real>{from[J % N]...};
}

template <int N, int WHICH, class V, int... J>
inline V chosen(V v, std::integer_sequence<int, J...>) {
  return pick(v, v, std::integer_sequence<int, (J / N * N + WHICH)...>());
}

// The same N numbers over and over.
template <int N, class real>
inline Lanes<real> repeated(const real *from) {
  if constexpr (N == 1) {
    return every<real>(*from);
  } else if constexpr (N == LANES<real>) {
    return load(from);
  } else if constexpr (N * sizeof(real) == 8) {
    int64_t bits;
    std::memcpy(&bits, from, 8);
    const auto all = bits - Vectors<double>::I{};
    Lanes<real> v;
    std::memcpy(&v, &all, sizeof v);
    return v;
  } else {
    return repeated_in<N>(from, std::make_integer_sequence<int, LANES<real>>());
  }
}

// Number WHICH of each N numbers, in all of their places.
template <int N, int WHICH, class V>
inline V one_of(V v) {
  if constexpr (N == 1) return v;
  return chosen<N, WHICH>(v, std::make_integer_sequence<int, sizeof(V) / sizeof(v[0])>());
}

// What the lower or the upper one of two vectors becomes where blocks of S numbers change places.
template <int S, bool UPPER, int... J>
constexpr auto exchanged(std::integer_sequence<int, J...>) {
  constexpr int n = sizeof...(J);
  return std::integer_sequence<int, (UPPER ? (J & S ? n + J : J + S) : (J & S ? n + J - S : J))...>();
}

template <class real, int S>
inline void exchange(Lanes<real> *x) {
  if constexpr (S > 0) {
    using All = std::make_integer_sequence<int, LANES<real>>;
    MDISTILL_UNROLL
    for (int i = 0; i < LANES<real>; ++i) {
      if (i & S) continue;
      const Lanes<real> a = x[i], b = x[i + S];
      x[i] = pick(a, b, exchanged<S, false>(All()));
      x[i + S] = pick(a, b, exchanged<S, true>(All()));
    }
    exchange<real, S / 2>(x);
  }
}

// x[i][j] <- x[j][i] for as many vectors as each has numbers.
template <class real>
inline void transpose(Lanes<real> *x) {
  exchange<real, LANES<real> / 2>(x);
}

// Four vectors that hold 4 x 4 numbers in each quarter, eighth …: transposes all of these.
template <class real>
inline void four_by_four(Lanes<real> *v) {
  using All = std::make_integer_sequence<int, LANES<real>>;
  for (int i = 0; i < 2; ++i) {
    const Lanes<real> a = v[i], b = v[i + 2];
    v[i] = pick(a, b, exchanged<2, false>(All())), v[i + 2] = pick(a, b, exchanged<2, true>(All()));
  }
  for (int i = 0; i < 4; i += 2) {
    const Lanes<real> a = v[i], b = v[i + 1];
    v[i] = pick(a, b, exchanged<1, false>(All())), v[i + 1] = pick(a, b, exchanged<1, true>(All()));
  }
}

// Row r stands in vector r / (W / 4), fours r % (W / 4): its number comes to lane r, and back.
template <int W, int... J>
constexpr auto spread_rows(std::integer_sequence<int, J...>) {
  return std::integer_sequence<int, (J % (W / 4) * 4 + J / (W / 4))...>();
}
template <int W, int... J>
constexpr auto gathered_rows(std::integer_sequence<int, J...>) {
  return std::integer_sequence<int, (J % 4 * (W / 4) + J / 4)...>();
}

// x, y, z of W rows of four numbers.
template <class real>
inline void columns_of(const real *rows, Lanes<real> &x, Lanes<real> &y, Lanes<real> &z) {
  constexpr int W = LANES<real>;
  if constexpr (W == 2) {
    const Lanes<real> a = load(rows), b = load(rows + 4);
    x = pick(a, b, std::integer_sequence<int, 0, 2>()), y = pick(a, b, std::integer_sequence<int, 1, 3>());
    z = pick(load(rows + 2), load(rows + 6), std::integer_sequence<int, 0, 2>());
  } else {
    Lanes<real> v[4];
    MDISTILL_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = load(rows + i * W);
    four_by_four<real>(v);
    const auto order = spread_rows<W>(std::make_integer_sequence<int, W>());
    x = pick(v[0], v[0], order), y = pick(v[1], v[1], order), z = pick(v[2], v[2], order);
  }
}

// W rows of four numbers from x, y, z; the last number is 0.
template <class real>
inline void store_rows(real *rows, Lanes<real> x, Lanes<real> y, Lanes<real> z) {
  constexpr int W = LANES<real>;
  const Lanes<real> zero = every<real>(0);
  if constexpr (W == 2) {
    using Low = std::integer_sequence<int, 0, 2>;
    using High = std::integer_sequence<int, 1, 3>;
    store<real>(rows, pick(x, y, Low())), store<real>(rows + 2, pick(z, zero, Low()));
    store<real>(rows + 4, pick(x, y, High())), store<real>(rows + 6, pick(z, zero, High()));
  } else {
    const auto order = gathered_rows<W>(std::make_integer_sequence<int, W>());
    Lanes<real> v[4] = {pick(x, x, order), pick(y, y, order), pick(z, z, order), zero};
    four_by_four<real>(v);
    MDISTILL_UNROLL
    for (int i = 0; i < 4; ++i) store<real>(rows + i * W, v[i]);
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
