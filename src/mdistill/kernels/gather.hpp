// Blocks of atoms of one species, their edges from a neighbour list, and the way of the derivatives back to the atoms. How a
// sender's position is moved (by a lattice vector, or not at all where it is a ghost atom) is the caller's business.
#pragma once

#include <cstdint>
#include <vector>

namespace mdistill {

template <class Net>
struct Block {
  int species, count;
  int32_t atoms[Net::WIDE];
};

// Blocks of those of `count` atoms that have a species of the net: `atom(k)` is the k-th of them.
template <class Net, class Atom>
std::vector<Block<Net>> blocks_of(const Net &net, int64_t count, const Atom &atom, const int32_t *species) {
  std::vector<Block<Net>> blocks;
  for (int s = 0; s < net.species; ++s) {
    std::vector<int32_t> mine;
    for (int64_t k = 0; k < count; ++k)
      if (species[atom(k)] == s) mine.push_back(atom(k));
    for (size_t b = 0; b < mine.size(); b += Net::WIDE) {
      Block<Net> block{s, 0, {}};
      for (; block.count < Net::WIDE && b + block.count < mine.size(); ++block.count) block.atoms[block.count] = mine[b + block.count];
      blocks.push_back(block);
    }
  }
  return blocks;
}

// The edges of a block: of each species of neighbours in turn those of each atom, in the order of the list. Senders of receiver i
// are in slots first[i] … first[i + 1], sorted by species. `move(m, d)` moves the vector d to the sender in slot m.
template <class Net, class Move>
void gather(const Net &net, const Block<Net> &block, const int64_t *first, const int32_t *sender, const int32_t *species,
            const double *r, const Move &move, typename Net::Edges &e) {
  using real = typename Net::real;
  constexpr int WIDE = Net::WIDE;
  int64_t next[WIDE], most = 0;
  for (int b = 0; b < block.count; ++b) next[b] = first[block.atoms[b]], most += first[block.atoms[b] + 1] - next[b];
  e.reserve(static_cast<int>(most), net.species);
  e.atoms = block.count, e.range[0] = 0;
  const double square_cutoff = net.cutoff * net.cutoff;
  for (int t = 0; t < net.species; ++t) {
    int count = e.range[t];
    for (int b = 0; b < block.count; ++b) {
      const int32_t i = block.atoms[b];
      const double x = r[3 * i], y = r[3 * i + 1], z = r[3 * i + 2];
      const int64_t to = first[i + 1];
      int64_t m = next[b];
      e.begin[t * WIDE + b] = count;
      for (; m < to && species[sender[m]] == t; ++m) {
        const int32_t j = sender[m];
        double d[3] = {r[3 * j] - x, r[3 * j + 1] - y, r[3 * j + 2] - z};
        move(m, d);
        e.x[count] = real(d[0]), e.y[count] = real(d[1]), e.z[count] = real(d[2]), e.sender[count] = j;
        count += d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < square_cutoff;
      }
      next[b] = m;
      e.end[t * WIDE + b] = count;
    }
    e.fill(t, count - e.range[t], net.cutoff);
  }
}

// Adds the derivatives of a block's edges to the forces of their atoms; gives the number of edges.
template <class Net, class Number>
int64_t scatter(const Net &net, const Block<Net> &block, const typename Net::Edges &e, Number *forces) {
  int64_t edges = 0;
  for (int b = 0; b < block.count; ++b) {
    Number force[3] = {0, 0, 0};
    for (int t = 0; t < net.species; ++t) {
      const int from = e.begin[t * Net::WIDE + b], to = e.end[t * Net::WIDE + b];
      edges += to - from;
      for (int m = from; m < to; ++m) {
        Number *other = &forces[3 * size_t(e.sender[m])];
        const Number g[3] = {Number(e.gx[m]), Number(e.gy[m]), Number(e.gz[m])};
        for (int c = 0; c < 3; ++c) force[c] += g[c], other[c] -= g[c];
      }
    }
    for (int c = 0; c < 3; ++c) forces[3 * size_t(block.atoms[b]) + c] += force[c];
  }
  return edges;
}

}  // namespace mdistill
