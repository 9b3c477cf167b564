// The kinds of optimiser and of exchange: one table each, which the config's rules, the engine,
// memory prediction and messages read. (Those of likelihoods: csrc/likelihood.h.)
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ptyle::driver {

struct OptimizerKind {
  std::string_view name;
  bool illuminated;  // asks how strongly a batch constrains each element
  bool one_batch;    // asks for the same batch again, at points along a line
  bool every_batch;  // what it remembers is of every batch
  std::int64_t fixed, by_history;
  // Tensors of an unknown's size that it remembers or works with; history: reconstruct.history.
  std::int64_t remembered(std::int64_t history) const { return fixed + by_history * history; }
};
inline constexpr OptimizerKind kOptimizers[] = {
    {"descent", true, false, false, 3, 0},  // two points, and two sums of illumination, real
    {"adam", false, false, true, 2, 0},
    {"lbfgs", true, true, true, 5, 2},
};

struct ExchangeKind {
  std::string_view name;
  bool updates_frames;  // a tile updates all of its frame, not only what it owns
  bool whole_object;    // every rank has all of the object
  bool copies_voxels;   // tiles follow their own gradients and take others' voxels
  bool sums_later;      // tiles may follow their own gradients until those of others arrive
  bool hides;           // messages travel while positions are worked on
};
inline constexpr ExchangeKind kExchanges[] = {
    {"direct", false, false, false, false, true},
    {"passes", true, false, false, true, false},
    {"allreduce", true, true, false, false, false},
    {"voxels", true, false, true, false, false},
};

struct NamedKind {
  std::string_view name;
};
inline constexpr NamedKind kConstraints[] = {{"pure_phase"}};
inline constexpr NamedKind kRegularisers[] = {{"tikhonov"}};

template <typename Kind, std::size_t kCount>
std::vector<std::string> names_of(const Kind (&table)[kCount]) {
  std::vector<std::string> names;
  for (const Kind& kind : table) names.emplace_back(kind.name);
  return names;
}

// The row of that name; the first one where there is none.
template <typename Kind, std::size_t kCount>
const Kind& named(const Kind (&table)[kCount], std::string_view name) {
  for (const Kind& kind : table) {
    if (kind.name == name) return kind;
  }
  return table[0];
}
inline const OptimizerKind& optimizer_kind(std::string_view name) {
  return named(kOptimizers, name);
}
inline const ExchangeKind& exchange_kind(std::string_view name) { return named(kExchanges, name); }

}  // namespace ptyle::driver
