// The student on one rank of an engine with its own neighbour list and ghost atoms.
#pragma once

#include <algorithm>

#include "gather.hpp"
#include "moment.hpp"
#include "rank.hpp"

namespace mdistill {

template <class Net>
class Domain {
 public:
  explicit Domain(const Net &net) : net(net), work(net) {}

  // Takes the neighbours of the centres, sorted by species; holds until the engine makes its list anew.
  void take(const RankNeighbours &from) {
    species.assign(from.species, from.species + from.all);
    blocks = blocks_of(net, from.centres, [&](int64_t k) { return from.atoms[k]; }, species.data());
    const auto mask = static_cast<int32_t>(from.mask);
    first.assign(from.local + 1, 0), sender.clear();
    std::vector<std::vector<int32_t>> kinds(net.species);
    std::vector<int64_t> place(from.local, -1);
    for (int64_t k = 0; k < from.centres; ++k) place[from.atoms[k]] = k;
    for (int64_t i = 0; i < from.local; ++i) {
      first[i] = static_cast<int64_t>(sender.size());
      if (place[i] < 0) continue;
      for (int32_t m = 0; m < from.count[i]; ++m)
        if (const int32_t j = from.lists[i][m] & mask; species[j] >= 0) kinds[species[j]].push_back(j);
      for (auto &kind : kinds) sender.insert(sender.end(), kind.begin(), kind.end()), kind.clear();
    }
    first[from.local] = static_cast<int64_t>(sender.size());
  }

  // Whether the atoms are still of these species.
  bool knows(int64_t all, const int32_t *now) const {
    return static_cast<int64_t>(species.size()) == all && std::equal(now, now + all, species.begin());
  }

  void evaluate(const double *r, RankAnswers &out) {
    for (const Block<Net> &block : blocks) {
      auto &e = work.edges;
      gather(net, block, first.data(), sender.data(), species.data(), r, [](int64_t, double *) {}, e);
      net.evaluate(block.species, work);
      scatter(net, block, e, out.forces);
      for (int c = 0; c < 9; ++c) out.virial[c] += double(e.virial[c]);
      for (int b = 0; b < block.count; ++b) {
        out.energy += work.energy[b];
        if (out.atomic) out.atomic[block.atoms[b]] += work.energy[b];
      }
      if (out.halves || out.senders) spread(block, out);
    }
  }

 private:
  const Net &net;
  typename Net::Workspace work;
  std::vector<int32_t> species, sender;
  std::vector<int64_t> first;
  std::vector<Block<Net>> blocks;

  // d ⊗ g of every edge to the atoms, as `RankAnswers` says; x, y, z are directions by now.
  void spread(const Block<Net> &block, RankAnswers &out) const {
    const auto &e = work.edges;
    for (int t = 0; t < net.species; ++t)
      for (int b = 0; b < block.count; ++b)
        for (int m = e.begin[t * Net::WIDE + b]; m < e.end[t * Net::WIDE + b]; ++m) {
          const double length = 1.0 / double(e.inverse[m]), d[3] = {length * e.x[m], length * e.y[m], length * e.z[m]};
          const double g[3] = {double(e.gx[m]), double(e.gy[m]), double(e.gz[m])};
          const size_t i = 9 * size_t(block.atoms[b]), j = 9 * size_t(e.sender[m]);
          for (int c = 0; c < 9; ++c) {
            const double part = d[c / 3] * g[c % 3];
            if (out.halves) out.halves[i + c] += 0.5 * part, out.halves[j + c] += 0.5 * part;
            if (out.senders) out.senders[j + c] += part;
          }
        }
  }
};

}  // namespace mdistill
