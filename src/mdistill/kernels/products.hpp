// Small matrices times the columns of a block of atoms, in blocks that fill the registers.
#pragma once

#include "lanes.hpp"

namespace mdistill {

constexpr int COLUMNS = REGISTER_BYTES == 64 ? 1 : REGISTER_BYTES == 32 ? 2 : 4;  // vectors of atoms in a block
template <class real>
constexpr int BLOCK = COLUMNS * LANES<real>;  // atoms worked on together

// How many of `rows`, of `columns` vectors each, are worked on together: as even shares as the registers allow.
constexpr int rows_at_once(int rows, int columns) {
  const int most = std::min(std::max((REGISTERS - columns - 2) / columns, 1), 12), parts = (rows + most - 1) / most;
  return (rows + parts - 1) / parts;
}

// y[row] (+)= Σ_k w[row][k] x[k], where x and y hold a block of atoms for each k and row.
template <class real, int ROWS>
struct Product {
  using V = Lanes<real>;
  static constexpr int TILE = rows_at_once(ROWS, COLUMNS), WIDE = BLOCK<real>;

  // Where w[row][k] of `depth` k stands in the order in which it is read.
  static size_t place(int row, int k, int depth) {
    const int from = row / TILE * TILE, tall = std::min(TILE, ROWS - from);
    return static_cast<size_t>(from) * depth + static_cast<size_t>(k) * tall + (row - from);
  }

  enum Start { ZERO, ADD, BIAS };

  template <Start START>
  static void run(const real *w, int depth, const real *x, real *y, const real *bias = nullptr) {
    int row = 0;
    for (; row + TILE <= ROWS; row += TILE) tile<START, TILE>(w + static_cast<size_t>(row) * depth, depth, x, y + row * WIDE, bias + row);
    constexpr int rest = ROWS % TILE;
    if constexpr (rest > 0) tile<START, rest>(w + static_cast<size_t>(row) * depth, depth, x, y + row * WIDE, bias + row);
  }

 private:
  template <Start START, int TALL>
  static void tile(const real *w, int depth, const real *x, real *y, const real *bias) {
    V total[TALL][COLUMNS];
    MDISTILL_UNROLL
    for (int r = 0; r < TALL; ++r) {
      MDISTILL_UNROLL
      for (int c = 0; c < COLUMNS; ++c) {
        if constexpr (START == ZERO) total[r][c] = every<real>(0);
        if constexpr (START == ADD) total[r][c] = load(y + r * WIDE + c * LANES<real>);
        if constexpr (START == BIAS) total[r][c] = every<real>(bias[r]);
      }
    }
    for (int k = 0; k < depth; ++k, w += TALL, x += WIDE) {
      V column[COLUMNS];
      MDISTILL_UNROLL
      for (int c = 0; c < COLUMNS; ++c) column[c] = load(x + c * LANES<real>);
      MDISTILL_UNROLL
      for (int r = 0; r < TALL; ++r) {
        const V weight = every<real>(w[r]);
        MDISTILL_UNROLL
        for (int c = 0; c < COLUMNS; ++c) total[r][c] += weight * column[c];
      }
    }
    MDISTILL_UNROLL
    for (int r = 0; r < TALL; ++r) {
      MDISTILL_UNROLL
      for (int c = 0; c < COLUMNS; ++c) store<real>(y + r * WIDE + c * LANES<real>, total[r][c]);
    }
  }
};

}  // namespace mdistill
