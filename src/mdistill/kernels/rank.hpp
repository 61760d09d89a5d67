// The neighbours of one rank of an engine that has its own decomposition, in plain C: the engine's side includes this file alone.
#pragma once

#include <cstdint>

namespace mdistill {

// Atoms of the rank come first, ghost atoms (copies of other ranks' atoms and periodic images) behind them. The list is full: each
// atom names all of its neighbours. Every array is read during the call alone.
struct RankNeighbours {
  int64_t centres, local, all;
  const int32_t *atoms;         // [centres] whose energies are asked for
  const int32_t *count;         // by atom
  const int32_t *const *lists;  // by atom: numbers of its neighbours
  int64_t mask;                 // bits of such a number that name the atom
  const int32_t *species;       // [all] −1: an atom that the student does not see
};

// Answers of a rank are added to these. Any array but `forces` may be null.
struct RankAnswers {
  double energy, virial[9];   // eV; Σ d ⊗ g
  double *forces;             // [all, 3] eV/Å
  double *atomic;             // [local] eV
  double *halves;             // [all, 9] of d ⊗ g one half to either atom of an edge
  double *senders;            // [all, 9] of d ⊗ g all to the sender
};

}  // namespace mdistill
