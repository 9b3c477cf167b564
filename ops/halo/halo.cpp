// halo_insert and halo_add: the differentiable exchange between tiles, and its adjoint.
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <ATen/DeviceGuard.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/library.h>

#include "ops/autograd/guards.h"
#include "ops/dispatch.h"
#include "ops/gradients.h"
#include "ops/halo/agreement.h"
#include "ops/halo/exchange.h"

namespace ptyle {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The arguments that both operators share.
struct Arguments {
  at::IntArrayRef row_cuts, column_cuts, halo, owners;
  std::string_view group;
};

void check_cuts(const char* name, const char* argument, at::IntArrayRef cuts) {
  TORCH_CHECK_VALUE(cuts.size() >= 2 && cuts.front() == 0, "ptyle::", name, ": ", argument,
                    " must begin with 0 and end with the object's size, got ", cuts);
  for (size_t k = 1; k < cuts.size(); ++k) {
    TORCH_CHECK_VALUE(cuts[k] >= cuts[k - 1], "ptyle::", name, ": ", argument,
                      " must not descend, got ", cuts);
  }
}

c10::intrusive_ptr<c10d::ProcessGroup> group_of(const char* name, const Arguments& tiling) {
  if (tiling.group.empty()) return {};
  const std::string group(tiling.group);
  try {
    return c10d::resolve_process_group(group);
  } catch (const c10::Error&) {
    TORCH_CHECK_VALUE(false, "ptyle::", name, ": group must be the name of a process group, got \"",
                      group, "\"");
  }
}

// The grid, checked; `tensors` are those of the rank's tiles, extended or owned.
std::pair<TileGrid, std::vector<int64_t>> checked(const char* name, const char* argument,
                                                  at::TensorList tensors, bool extended,
                                                  const Arguments& tiling, int64_t rank,
                                                  int64_t size) {
  check_cuts(name, "row_cuts", tiling.row_cuts);
  check_cuts(name, "column_cuts", tiling.column_cuts);
  TORCH_CHECK_VALUE(tiling.halo.size() == 2 && tiling.halo[0] >= 0 && tiling.halo[1] >= 0,
                    "ptyle::", name, ": halo must be two integers that are not negative, got ",
                    tiling.halo);
  const TileGrid grid(tiling.row_cuts.vec(), tiling.column_cuts.vec(),
                      {tiling.halo[0], tiling.halo[1]});
  TORCH_CHECK_VALUE(static_cast<int64_t>(tiling.owners.size()) == grid.tiles(), "ptyle::", name,
                    ": owners must have one rank for each of the ", grid.tiles(), " tiles, got ",
                    tiling.owners.size());
  std::vector<int64_t> tiles;
  for (int64_t tile = 0; tile < grid.tiles(); ++tile) {
    const int64_t owner = tiling.owners[static_cast<size_t>(tile)];
    TORCH_CHECK_VALUE(owner >= 0 && owner < size, "ptyle::", name, ": owners must be ranks below ",
                      size, size == 1 ? " (no group is given)" : "", ", got ", owner, " for tile ",
                      tile);
    if (owner == rank) tiles.push_back(tile);
  }
  TORCH_CHECK_VALUE(tensors.size() == tiles.size(), "ptyle::", name, ": ", argument,
                    " must have one tensor for each of the ", tiles.size(), " tiles of rank ", rank,
                    ", got ", tensors.size());
  for (size_t k = 0; k < tensors.size(); ++k) {
    const at::Tensor& tensor = tensors[k];
    const Rectangle frame = extended ? grid.extended(tiles[k]) : grid.owned(tiles[k]);
    TORCH_CHECK_VALUE(tensor.dim() == 3 && tensor.sym_size(1) == frame.rows &&
                          tensor.sym_size(2) == frame.columns,
                      "ptyle::", name, ": ", argument, "[", k, "] must have shape [slices, ",
                      frame.rows, ", ", frame.columns, "] (tile ", tiles[k], "), got ",
                      tensor.sym_sizes());
    TORCH_CHECK_TYPE(at::isFloatingType(at::toRealValueType(tensor.scalar_type())) &&
                         at::toRealValueType(tensor.scalar_type()) != at::kHalf &&
                         at::toRealValueType(tensor.scalar_type()) != at::kBFloat16,
                     "ptyle::", name, ": ", argument,
                     " must be float32, float64, complex64 or complex128, got ",
                     tensor.scalar_type());
    TORCH_CHECK_VALUE(tensor.sym_size(0) == tensors[0].sym_size(0) &&
                          tensor.scalar_type() == tensors[0].scalar_type() &&
                          tensor.device() == tensors[0].device(),
                      "ptyle::", name, ": ", argument,
                      " must have the slices, the type and the device of ", argument,
                      "[0], got another in ", argument, "[", k, "]");
  }
  return {grid, tiles};
}

// Calls on a group are numbered: messages of different calls never meet. All ranks make the same
// calls in the same order, forward and backward. A group that takes another's name counts anew.
int next_tag(const c10::intrusive_ptr<c10d::ProcessGroup>& group) {
  struct Count {
    c10::weak_intrusive_ptr<c10d::ProcessGroup> of;
    int calls = 0;
  };
  static std::mutex mutex;
  static std::map<c10d::ProcessGroup*, Count> counts;
  if (!group) return 0;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = counts.find(group.get());
  if (found == counts.end() || found->second.of.expired()) {
    std::erase_if(counts, [](const auto& entry) { return entry.second.of.expired(); });
    found =
        counts.insert({group.get(), {c10::weak_intrusive_ptr<c10d::ProcessGroup>(group), 0}}).first;
  }
  found->second.calls = (found->second.calls + 1) & 0xffffff;
  return found->second.calls;
}

std::vector<at::Tensor> views_of_owned(const TileGrid& grid, const std::vector<int64_t>& tiles,
                                       const std::vector<at::Tensor>& extended) {
  std::vector<at::Tensor> views;
  for (size_t k = 0; k < tiles.size(); ++k) {
    const Rectangle outer = grid.extended(tiles[k]), inner = grid.owned(tiles[k]);
    views.push_back(extended[k]
                        .narrow(1, inner.row - outer.row, inner.rows)
                        .narrow(2, inner.column - outer.column, inner.columns));
  }
  return views;
}

// Whether the call on this thread is recorded for a gradient: all ranks' are, or none, because
// backward communicates too.
thread_local bool is_recorded = false;

struct Recording {
  Recording() : before(std::exchange(is_recorded, true)) {}
  ~Recording() { is_recorded = before; }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  const bool before;
};

void agree(const char* name, const char* argument, at::TensorList tensors, const Arguments& tiling,
           const c10::intrusive_ptr<c10d::ProcessGroup>& group) {
  check_agreement({name, argument, tiling.row_cuts, tiling.column_cuts, tiling.halo, tiling.owners,
                   tensors, is_recorded},
                  group);
}

std::vector<at::Tensor> insert(at::TensorList owned, at::IntArrayRef row_cuts,
                               at::IntArrayRef column_cuts, at::IntArrayRef halo,
                               at::IntArrayRef owners, std::string_view group) {
  const Arguments tiling{row_cuts, column_cuts, halo, owners, group};
  const auto process_group = group_of("halo_insert", tiling);
  const int64_t rank = process_group ? process_group->getRank() : 0;
  const auto [grid, tiles] = checked("halo_insert", "owned", owned, false, tiling, rank,
                                     process_group ? process_group->getSize() : 1);
  agree("halo_insert", "owned", owned, tiling, process_group);
  const c10::OptionalDeviceGuard device(at::device_of(owned));
  HaloExchange exchange(grid, owners.vec(), rank, process_group);
  std::vector<at::Tensor> from, to;
  for (size_t k = 0; k < tiles.size(); ++k) {
    from.push_back(plain(owned[k]));
    const Rectangle frame = grid.extended(tiles[k]);
    to.push_back(at::empty({owned[k].size(0), frame.rows, frame.columns}, from.back().options()));
  }
  exchange.begin_insert(from, next_tag(process_group));
  const std::vector<at::Tensor> own_parts = views_of_owned(grid, tiles, to);
  for (size_t k = 0; k < tiles.size(); ++k) own_parts[k].copy_(from[k]);
  exchange.finish_insert(to);
  return to;
}

std::vector<at::Tensor> add(at::TensorList extended, at::IntArrayRef row_cuts,
                            at::IntArrayRef column_cuts, at::IntArrayRef halo,
                            at::IntArrayRef owners, std::string_view group) {
  const Arguments tiling{row_cuts, column_cuts, halo, owners, group};
  const auto process_group = group_of("halo_add", tiling);
  const int64_t rank = process_group ? process_group->getRank() : 0;
  const auto [grid, tiles] = checked("halo_add", "extended", extended, true, tiling, rank,
                                     process_group ? process_group->getSize() : 1);
  agree("halo_add", "extended", extended, tiling, process_group);
  const c10::OptionalDeviceGuard device(at::device_of(extended));
  HaloExchange exchange(grid, owners.vec(), rank, process_group);
  std::vector<at::Tensor> from, to;
  for (const at::Tensor& tensor : extended) from.push_back(plain(tensor));
  exchange.begin_add(from, next_tag(process_group));
  for (const at::Tensor& own_part : views_of_owned(grid, tiles, from)) {
    to.push_back(own_part.clone(at::MemoryFormat::Contiguous));
  }
  exchange.finish_add(to);
  return to;
}

template <bool insert>
std::vector<at::Tensor> shapes(at::TensorList tensors, at::IntArrayRef row_cuts,
                               at::IntArrayRef column_cuts, at::IntArrayRef halo,
                               at::IntArrayRef owners, std::string_view group) {
  const char* name = insert ? "halo_insert" : "halo_add";
  const Arguments tiling{row_cuts, column_cuts, halo, owners, group};
  const auto process_group = group_of(name, tiling);
  const auto [grid, tiles] = checked(name, insert ? "owned" : "extended", tensors, !insert, tiling,
                                     process_group ? process_group->getRank() : 0,
                                     process_group ? process_group->getSize() : 1);
  std::vector<at::Tensor> results;
  for (size_t k = 0; k < tiles.size(); ++k) {
    const Rectangle frame = insert ? grid.extended(tiles[k]) : grid.owned(tiles[k]);
    results.push_back(at::empty_symint({tensors[k].sym_size(0), frame.rows, frame.columns},
                                       tensors[k].options()));
  }
  return results;
}

// Each is the other's derivative, to any order. Backward communicates on the ranks on which forward
// was recorded: on all of them, or on none.
template <bool insert>
struct Halo : torch::autograd::Function<Halo<insert>> {
  static constexpr bool is_traceable = true;

  // a TensorList: torch does not look for tensors in a std::vector
  static variable_list forward(AutogradContext* context, at::TensorList tensors,
                               const std::vector<int64_t>& row_cuts,
                               const std::vector<int64_t>& column_cuts,
                               const std::vector<int64_t>& halo, const std::vector<int64_t>& owners,
                               const std::string& group) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->saved_data["row_cuts"] = row_cuts;
    context->saved_data["column_cuts"] = column_cuts;
    context->saved_data["halo"] = halo;
    context->saved_data["owners"] = owners;
    context->saved_data["group"] = group;
    const auto call = insert ? &dispatch::halo_insert : &dispatch::halo_add;
    const Recording recorded;
    return call(tensors, row_cuts, column_cuts, halo, owners, group);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    auto& saved = context->saved_data;
    const auto call = insert ? &dispatch::halo_add : &dispatch::halo_insert;
    variable_list result = call(gradients, saved["row_cuts"].toIntVector(),
                                saved["column_cuts"].toIntVector(), saved["halo"].toIntVector(),
                                saved["owners"].toIntVector(), saved["group"].toStringRef());
    result.resize(result.size() + 5);  // the grid has no gradient
    return result;
  }
};

template <bool insert>
std::vector<at::Tensor> differentiable(at::TensorList tensors, at::IntArrayRef row_cuts,
                                       at::IntArrayRef column_cuts, at::IntArrayRef halo,
                                       at::IntArrayRef owners, std::string_view group) {
  const char* name = insert ? "halo_insert" : "halo_add";
  bool wanted = false;
  for (const at::Tensor& tensor : tensors) {
    autograd::forbid_tangent(name, insert ? "owned" : "extended", tensor);
    wanted = wanted || autograd::wants_gradient(tensor);
  }
  if (wanted) {
    autograd::forbid_functorch(name);
    return Halo<insert>::apply(tensors, row_cuts.vec(), column_cuts.vec(), halo.vec(), owners.vec(),
                               std::string(group));
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const auto call = insert ? &dispatch::halo_insert : &dispatch::halo_add;
  return call(tensors, row_cuts, column_cuts, halo, owners, group);
}

}  // namespace
}  // namespace ptyle

TORCH_LIBRARY_IMPL(ptyle, CPU, library) {
  library.impl("halo_insert", &ptyle::insert);
  library.impl("halo_add", &ptyle::add);
}
TORCH_LIBRARY_IMPL(ptyle, CUDA, library) {  // the kernel that moves pieces is the CUDA library's
  library.impl("halo_insert", &ptyle::insert);
  library.impl("halo_add", &ptyle::add);
}
TORCH_LIBRARY_IMPL(ptyle, Meta, library) {
  library.impl("halo_insert", &ptyle::shapes<true>);
  library.impl("halo_add", &ptyle::shapes<false>);
}
TORCH_LIBRARY_IMPL(ptyle, Autograd, library) {
  library.impl("halo_insert", &ptyle::differentiable<true>);
  library.impl("halo_add", &ptyle::differentiable<false>);
}
