// Blocks of atoms of one species, their edges from a neighbour list, and the way of the derivatives back to the atoms.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "lanes.hpp"
#include "neighbours.hpp"

namespace mdistill {

template <class Net>
struct Block {
  int species, count;
  int32_t atoms[Net::WIDE];
};

// Wide blocks, and narrow ones where a wide one were no more than half full, of those of `count` atoms that have a species of the net: `atom(k)` is the k-th of them.
template <class Net, class Atom>
std::vector<Block<Net>> blocks_of(const Net &net, int64_t count, const Atom &atom, const int32_t *species) {
  std::vector<Block<Net>> blocks;
  for (int s = 0; s < net.species; ++s) {
    std::vector<int32_t> mine;
    for (int64_t k = 0; k < count; ++k)
      if (species[atom(k)] == s) mine.push_back(atom(k));
    for (size_t b = 0; b < mine.size(); b += blocks.back().count) {
      const size_t left = mine.size() - b, most = left > Net::WIDE / 2 ? Net::WIDE : Net::LEAST;
      blocks.push_back({s, static_cast<int>(std::min(left, most)), {}});
      std::copy_n(mine.begin() + b, blocks.back().count, blocks.back().atoms);
    }
  }
  return blocks;
}

// Positions in the form in which they are subtracted from each other: whole numbers that wrap around, of 2^-25 Å in single
// precision and 2^-55 Å in double precision (for cutoffs up to 8 Å). So a difference is exact however far the atoms drifted, and
// the same from whatever image of them. Two listed atoms are never 8 cutoffs apart.
template <class real>
struct Spots {
  using Whole = std::conditional_t<sizeof(real) == 4, uint32_t, uint64_t>;
  using Spot = typename Vectors<real>::Spot;
  Array<Spot> spots, shifts;

  explicit Spots(double cutoff) {
    while (range < 16.0 * cutoff) range *= 2.0;
    scale = std::ldexp(1.0, sizeof(real) == 4 ? 32 : 62) / range, unit = real(range / std::ldexp(1.0, 8 * sizeof(real)));
  }

  // Of a position or vector, Å.
  Spot of(const double *r) const {
    Spot spot{};
    for (int c = 0; c < 3; ++c) spot[c] = whole(r[c]);
    return spot;
  }

  // In Å.
  typename Vectors<real>::Row vector(const Spot &difference) const {
    return numbers_of<real>(difference) * unit;
  }

 private:
  double range = 128.0, scale;  // Å; units of a position in single precision, quarter units in double precision
  real unit;

  Whole whole(double x) const {
    if constexpr (sizeof(real) == 4) return static_cast<Whole>(std::llrint(x * scale));
    const double turns = std::floor(x / range);
    return static_cast<Whole>(std::llrint((x - turns * range) * scale)) * 4;
  }
};

// The edges of a block: of each species of neighbours in turn those of each atom, in the order of the list.
template <class Net>
void gather(const Net &net, const Block<Net> &block, const Candidates &list, const Spots<typename Net::real> &spots, typename Net::Edges &e) {
  using real = typename Net::real;
  const int64_t kinds = net.species, *first = list.first.data();
  int64_t most = 0;
  for (int b = 0; b < block.count; ++b) most += first[(block.atoms[b] + 1) * kinds] - first[block.atoms[b] * kinds];
  e.reserve(static_cast<int>(most), net.species);
  e.atoms = block.count, e.range[0] = 0;
  const real square_cutoff = real(net.cutoff * net.cutoff);
  const Candidate *const pairs = list.pairs.data();
  const auto *const places = spots.spots.begin(), *const shifts = spots.shifts.begin();
  real *const vector = e.vector.begin();
  int32_t *const sender = e.sender.data();
  for (int t = 0; t < net.species; ++t) {
    int count = e.range[t];
    for (int b = 0; b < block.count; ++b) {
      const int64_t i = block.atoms[b], to = first[i * kinds + t + 1];
      const auto here = places[i];
      e.begin[t * Net::WIDE + b] = count;
      for (int64_t m = first[i * kinds + t]; m < to; ++m) {
        const auto [j, shift] = pairs[m];
        const auto d = spots.vector(places[j] + shifts[shift] - here), square = d * d;
        std::memcpy(vector + 4 * size_t(count), &d, sizeof d);
        sender[count] = j;
        count += square[0] + square[1] + square[2] < square_cutoff;
      }
      e.end[t * Net::WIDE + b] = count;
    }
    e.fill(t, count - e.range[t], net.cutoff);
  }
}

// Adds the derivatives of a block's edges to the forces of their atoms, of STRIDE numbers each (4: as wide as the net's); gives the
// number of edges.
template <int STRIDE, class Net, class Number>
int64_t scatter(const Net &net, const Block<Net> &block, const typename Net::Edges &e, Number *forces) {
  using Row = typename Vectors<typename Net::real>::Row;
  const auto add = [](Number *to, const Row &change) {
    if constexpr (STRIDE == 4) {
      Row total;
      std::memcpy(&total, to, sizeof total);
      total += change;
      std::memcpy(to, &total, sizeof total);
    } else {
      for (int c = 0; c < 3; ++c) to[c] += Number(change[c]);
    }
  };
  int64_t edges = 0;
  for (int b = 0; b < block.count; ++b) {
    Row force{};
    for (int t = 0; t < net.species; ++t) {
      const int from = e.begin[t * Net::WIDE + b], to = e.end[t * Net::WIDE + b];
      edges += to - from;
      for (int m = from; m < to; ++m) {
        Row g;
        std::memcpy(&g, &e.vector[4 * size_t(m)], sizeof g);
        force += g;
        add(&forces[STRIDE * size_t(e.sender[m])], -g);
      }
    }
    add(&forces[STRIDE * size_t(block.atoms[b])], force);
  }
  return edges;
}

}  // namespace mdistill
