// SPDX-License-Identifier: GPL-2.0-or-later
// The pair style `mdistill` of LAMMPS: a student of mdistill on LAMMPS's own neighbour list and ghost atoms; and the plugin, with the
// fix `mdistill/stride` (lammps_stride.hpp).
//
// This file and lammps_*.hpp include headers of LAMMPS, which is under the GNU General Public License, version 2, and so are they. The rest of
// mdistill is not: the student's code is a library of its own, opened here by name. This file is shipped as source and compiled
// where it is used. MDISTILL_LAMMPS is the version of LAMMPS (20250722) whose headers it is compiled with, MDISTILL_KERNEL the
// first digits of the sha256 of the student's source.
#include "atom.h"
#include "force.h"
#include "lammps_model.hpp"
#include "library.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"

namespace {

class PairMdistill : public Pair {
 public:
  explicit PairMdistill(LAMMPS *lmp) : Pair(lmp) {
    restartinfo = single_enable = respa_enable = writedata = 0;
    one_coeff = manybody_flag = no_virial_fdotr_compute = 1;
    centroidstressflag = CENTROID_AVAIL;
  }

  ~PairMdistill() override {
    if (domain) kernel.domain_free(domain);
    if (net) kernel.net_free(net);
    if (allocated) memory->destroy(setflag), memory->destroy(cutsq);
  }

  // [masses any]: types may have masses that are not those of their elements.
  void settings(int narg, char **arg) override {
    const bool any = narg == 2 && std::string(arg[0]) == "masses" && std::string(arg[1]) == "any";
    if (narg != 0 && !any) error->all(FLERR, "pair_style mdistill takes no arguments, or: masses any");
    any_mass = any;
  }

  // * * FILE ELEMENT …: one element, or NULL, for each type.
  void coeff(int narg, char **arg) override {
    const int types = atom->ntypes;
    if (narg != 3 + types) error->all(FLERR, "pair_coeff needs * * FILE and an element (or NULL) for each of the {} types", types);
    if (!allocated) {
      memory->create(setflag, types + 1, types + 1, "pair:setflag");
      memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
      for (int i = 1; i <= types; ++i)
        for (int j = 1; j <= types; ++j) setflag[i][j] = 0;
      map = new int[types + 1];
      allocated = 1;
    }
    map_element2type(narg - 3, arg + 3);
    const Model model = model_of(lmp, arg[2], Model::STUDENT);
    names = model.elements, masses = model.masses, digest = model.digest;
    std::string known;
    for (const auto &name : names) known += " " + name;
    species_of.assign(types + 1, -1);
    for (int i = 1; i <= types; ++i) {
      if (map[i] < 0) continue;
      for (size_t s = 0; s < names.size(); ++s)
        if (names[s] == elements[map[i]]) species_of[i] = static_cast<int32_t>(s);
      if (species_of[i] < 0) error->all(FLERR, "type {}: {} does not know {}; it knows{}", i, arg[2], elements[map[i]], known);
    }
    if (domain) kernel.domain_free(domain);
    if (net) kernel.net_free(net);
    domain = net = nullptr;
    const std::string problem = kernel.open(model.kernel);
    stop_if_any(lmp, problem.empty() ? "" : "no kernel: " + problem);
    cutoff = model.cutoff;
    net = kernel.net(static_cast<int32_t>(names.size()), model.weights.data());
    domain = kernel.domain(net);
  }

  void init_style() override {
    if (std::string(update->unit_style) != "metal") error->all(FLERR, "pair_style mdistill needs units metal");
    if (!force->newton_pair) error->all(FLERR, "pair_style mdistill needs newton on");
    for (int k = 1; k < 4 && atom->molecular != Atom::ATOMIC; ++k)
      if (force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0)
        error->all(FLERR, "bonded neighbours are excluded; pair_style mdistill needs: special_bonds lj/coul 1 1 1");
    if (!any_mass) check_masses();
    neighbor->add_request(this, NeighConst::REQ_FULL);
    fresh = asleep = false;
  }

  double init_one(int i, int j) override {
    if (setflag[i][j] == 0) error->all(FLERR, "types {} and {} have no pair_coeff", i, j);
    return cutoff;
  }

  void compute(int eflag, int vflag) override {
    ev_init(eflag, vflag);
    const int64_t all = atom->nlocal + atom->nghost;
    awake = !asleep || eflag || vflag, flags = {eflag, vflag};
    if (!awake) return all ? std::fill(atom->f[0], atom->f[0] + 3 * all, NAN) : void();
    mdistill::RankAnswers out{};
    out.forces = all ? atom->f[0] : nullptr;
    out.atomic = eflag_atom ? eatom : nullptr;
    if (vflag_atom) halves.assign(9 * all, 0.0), out.halves = halves.data();
    if (cvflag_atom) senders.assign(9 * all, 0.0), out.senders = senders.data();
    energy = answer(out);
    if (eflag_global) eng_vdwl += out.energy;
    if (vflag_global) subtract_symmetric(out.virial, virial);
    for (int64_t i = 0; vflag_atom && i < all; ++i) subtract_symmetric(&halves[9 * i], vatom[i]);
    for (int64_t i = 0; cvflag_atom && i < all; ++i)
      for (int c = 0; c < 9; ++c) cvatom[i][c] -= senders[9 * i + NINE[c]];
  }

  // Adds this rank's part to the answers, and gives its energy.
  double answer(mdistill::RankAnswers &out) {
    const int64_t all = atom->nlocal + atom->nghost;
    species.resize(all);
    for (int64_t i = 0; i < all; ++i) species[i] = species_of[atom->type[i]];
    if (!fresh || neighbor->ago == 0 || neighbor->ncalls != calls || !kernel.knows(domain, all, species.data())) follow(all);
    kernel.evaluate(domain, all ? atom->x[0] : nullptr, &out);
    return out.energy;
  }

  // For long strides (lammps_stride.hpp): the element of a type, "" for none; sha256 of the student.
  std::string element(int type) const { return species_of[type] < 0 ? "" : names[species_of[type]]; }
  std::string digest;
  bool asleep = false;            // whether only steps that ask for energy or virial are evaluated; forces of others are not numbers
  bool awake = true;              // whether the last one was
  std::array<int, 2> flags{};     // what was asked of it
  double energy = 0;              // of this rank, eV, at the last one that was

  double memory_usage() override {
    return Pair::memory_usage() + 4.0 * double(species.capacity()) + 8.0 * double(halves.capacity() + senders.capacity());
  }

 private:
  static constexpr int SIX[6][2] = {{0, 0}, {4, 4}, {8, 8}, {1, 3}, {2, 6}, {5, 7}};  // xx yy zz xy xz yz, from rows of 9
  static constexpr int NINE[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7};                        // and yx zx zy

  Kernel kernel;
  void *net = nullptr, *domain = nullptr;
  double cutoff = 0;
  bool any_mass = false;
  std::vector<std::string> names;  // of the student's elements
  std::vector<double> masses;      // theirs, u
  bool fresh = false;  // whether the domain holds the present list
  bigint calls = -1;
  std::vector<int32_t> species_of, species;  // by type; by atom
  std::vector<double> halves, senders;

  static void subtract_symmetric(const double *from, double *to) {
    for (int c = 0; c < 6; ++c) to[c] -= 0.5 * (from[SIX[c][0]] + from[SIX[c][1]]);
  }

  // Elements in another order than the types run without an error and are wrong: their masses tell. A mass must be within 2 % of that
  // of its element, and no other element of the student may be nearer.
  void check_masses() {
    for (int i = 1; i <= atom->ntypes && !atom->rmass_flag; ++i)
      if (const std::string problem = atom->mass_setflag[i] ? wrong_mass(i, atom->mass[i]) : ""; !problem.empty())
        error->all(FLERR, problem);  // LAMMPS itself asks for masses that are not set
    std::string problem;
    for (int i = 0; i < atom->nlocal && atom->rmass_flag && problem.empty(); ++i) problem = wrong_mass(atom->type[i], atom->rmass[i]);
    stop_if_any(lmp, problem);
  }

  std::string wrong_mass(int type, double mass) const {
    if (species_of.empty() || species_of[type] < 0) return "";
    const size_t named = species_of[type];
    size_t nearest = named;
    for (size_t s = 0; s < masses.size(); ++s)
      if (std::fabs(masses[s] - mass) < std::fabs(masses[nearest] - mass)) nearest = s;
    const bool close = std::fabs(masses[nearest] - mass) <= 0.02 * masses[nearest];
    if (nearest == named && close) return "";
    return fmt::format(
        "type {} has mass {} and pair_coeff names it {}, whose mass is {}{}. Name the elements in the order of the types, or correct the "
        "mass. Isotopes and other masses on purpose: pair_style mdistill masses any",
        type, mass, names[named], masses[named], close ? "; that is the mass of " + names[nearest] : "");
  }

  void follow(int64_t all) {
    const mdistill::RankNeighbours now{list->inum, atom->nlocal, all, list->ilist, list->numneigh, list->firstneigh, NEIGHMASK, species.data()};
    kernel.take(domain, &now);
    fresh = true, calls = neighbor->ncalls;
  }
};

}  // namespace

#include "lammps_stride.hpp"

namespace {

// How LAMMPS is told of a style of a plugin, as its documentation gives it.
struct Registration {
  const char *version, *style, *name, *info, *author;
  void *create;  // a function: of a pair style (lmp), of a fix (lmp, number of words, words)
  void *handle;
};

void *make_pair(void *lmp) { return new PairMdistill(static_cast<LAMMPS *>(lmp)); }
void *make_fix(void *lmp, int narg, char **arg) { return new FixMdistillStride(static_cast<LAMMPS *>(lmp), narg, arg); }

// Why this plugin cannot be used in a LAMMPS, or "".
std::string refusal(void *lmp) {
  const int version = lammps_version(lmp), built = MDISTILL_LAMMPS;
  if (version != built)
    return "it was built for LAMMPS " + std::to_string(built) + ", and this is " + std::to_string(version);
  if (lammps_extract_setting(lmp, "tagint") != sizeof(tagint) || lammps_extract_setting(lmp, "bigint") != sizeof(bigint))
    return "it was built for another size of integers (smallbig, bigbig)";
  return "";
}

}  // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *regfunc) {
  if (const std::string problem = refusal(lmp); !problem.empty()) {
    const std::string fix = "; build it for this one: mdistill export lammps STUDENT --out FOLDER";
    return lammps_error(lmp, 2, ("the mdistill plugin is not loaded: " + problem + fix).c_str());  // 2: on all ranks
  }
  Kernel::remember_folder();
  const auto add = [&](const char *style, const char *name, const char *info, auto *make) {
    Registration plugin{static_cast<LAMMPS *>(lmp)->version, style, name, info, "mdistill", reinterpret_cast<void *>(make), handle};
    reinterpret_cast<void (*)(Registration *, void *)>(regfunc)(&plugin, lmp);
  };
  add("pair", "mdistill", "a student of mdistill", make_pair);
  add("fix", "mdistill/stride", "a long-stride map of mdistill", make_fix);
}
