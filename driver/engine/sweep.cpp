#include "driver/engine/sweep.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/view_as_real.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>

#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

std::optional<at::Tensor> converted(const std::optional<at::Tensor>& tensor,
                                    const at::Device& device, at::ScalarType type) {
  if (!tensor) return std::nullopt;
  return tensor->to(device, type).contiguous();
}

Rectangle around(const Rectangle& a, const Rectangle& b) {
  const std::int64_t row = std::min(a.row, b.row), column = std::min(a.column, b.column);
  return {row, column, std::max(a.row + a.rows, b.row + b.rows) - row,
          std::max(a.column + a.columns, b.column + b.columns) - column};
}

// A real plane among those that lie, two in one, behind `slices` complex ones.
at::Tensor real_plane(const at::Tensor& planes, std::int64_t slices, std::int64_t number) {
  return at::view_as_real(planes.select(0, slices + number / 2)).select(-1, number % 2);
}

// Complex planes of the object that are exchanged: of its gradient, and two of the illumination in
// each of the others.
std::int64_t exchanged_planes(std::int64_t slices, std::size_t tiles, const Needs& needs) {
  return slices + (needs.illumination && tiles > 1 ? (slices + 1) / 2 : 0);
}

}  // namespace

Sweep::Sweep(const Config& config, const Problem& problem, const Decomposition& decomposition,
             const Ranks& ranks, const at::Device& device, const Workplace& workplace,
             const Batches& batches, const Needs& needs)
    : problem_(problem),
      cut_(decomposition),
      ranks_(ranks),
      workplace_(workplace),
      tiles_(workplace.tiles),
      batches_(batches),
      device_(device),
      type_(complex_type(config)),
      likelihood_(likelihood_named(config.reconstruct.likelihood).value()),
      every_(config.tiles.exchange_every),
      feed_(problem, device),
      propagator_(converted(problem.propagator, device, type_)),
      detector_(converted(problem.detector, device, type_)),
      exchange_(make_exchange(decomposition, ranks)),
      losses_(tiles_.size()),
      squared_errors_(tiles_.size()) {
  const double pixels = static_cast<double>(problem.window[0] * problem.window[1]);
  unmasked_pixels_ =
      pixels * static_cast<double>(positions()) - static_cast<double>(problem.masked_pixels);
  const at::TensorOptions options = at::TensorOptions().dtype(type_).device(device_);
  const std::int64_t slices = problem.object_shape[0];
  for (const Tile& tile : tiles_) {
    const auto zeros = [&](std::int64_t planes, at::ScalarType type) {
      return at::zeros({planes, tile.frame.rows, tile.frame.columns}, options.dtype(type));
    };
    if (needs.probe) probe_gradients_.push_back(at::zeros(problem.probe.sizes(), options));
    if (!needs.object) continue;
    exchanged_.push_back(zeros(exchanged_planes(slices, cut_.tiles.size(), needs), type_));
    gradients_.push_back(exchanged_.back().narrow(0, 0, slices));
    if (needs.illumination) illuminations_.push_back(zeros(slices, at::toRealValueType(type_)));
  }
  plan();
}

// Which positions of which batch a tile works on, and when.
void Sweep::plan() {
  const double* p = problem_.positions.const_data_ptr<double>();
  std::vector<std::int64_t> row_of(static_cast<std::size_t>(positions()), -1);
  for (std::size_t k = 0; k < problem_.held.size(); ++k) {
    row_of[static_cast<std::size_t>(problem_.held[k])] = static_cast<std::int64_t>(k);
  }
  // What a position sees of the object.
  const auto window_of = [&](std::int64_t n) {
    const std::int64_t reach = problem_.reach;
    return Rectangle{static_cast<std::int64_t>(std::floor(p[2 * n])) - reach,
                     static_cast<std::int64_t>(std::floor(p[2 * n + 1])) - reach,
                     problem_.window[0] + 2 * reach, problem_.window[1] + 2 * reach};
  };
  const std::int64_t pattern_bytes =
      problem_.window[0] * problem_.window[1] *
      static_cast<std::int64_t>(c10::elementSize(problem_.source->type()));
  const std::int64_t patch_bytes =
      problem_.moves_object() ? problem_.object_shape[0] * problem_.window[0] * problem_.window[1] *
                                    static_cast<std::int64_t>(c10::elementSize(type_))
                              : 0;
  const std::int64_t block = block_positions(pattern_bytes, patch_bytes);
  const auto positions_of = [&](const std::vector<std::int64_t>& members) {
    return problem_.positions.index_select(0, as_tensor(members)).to(device_);
  };
  const auto part_of = [&](const std::vector<std::int64_t>& members) {
    std::vector<std::int64_t> rows;
    for (const std::int64_t n : members) rows.push_back(row_of[static_cast<std::size_t>(n)]);
    Part part{positions_of(members), {}};
    const at::Tensor all = as_tensor(rows);
    for (std::int64_t first = 0; first < all.numel(); first += block) {
      const std::int64_t count = std::min(block, all.numel() - first);
      Rectangle reached = window_of(members[static_cast<std::size_t>(first)]);
      for (std::int64_t k = first + 1; k < first + count; ++k) {
        reached = around(reached, window_of(members[static_cast<std::size_t>(k)]));
      }
      part.blocks.push_back(
          {part.positions.narrow(0, first, count), all.narrow(0, first, count), reached});
    }
    return part;
  };
  std::vector<std::vector<bool>> works_on;
  for (const Tile& tile : tiles_) {
    works_on.emplace_back(static_cast<std::size_t>(positions()), false);
    for (const std::int64_t n : cut_.positions_of_tile(tile.number, problem_.positions)) {
      works_on.back()[static_cast<std::size_t>(n)] = true;
    }
  }
  for (std::int64_t batch = 0; batch <= batches_.count(); ++batch) {
    const at::Tensor& all_members = members(batch);
    const std::int64_t* member = all_members.const_data_ptr<std::int64_t>();
    plan_.emplace_back();
    for (std::size_t k = 0; k < tiles_.size(); ++k) {
      const Tile& tile = tiles_[k];
      std::vector<std::int64_t> inside, boundary, extra;
      for (std::int64_t i = 0; i < all_members.numel(); ++i) {
        const std::int64_t n = member[i];
        const Rectangle window = window_of(n);
        const bool works = works_on[k][static_cast<std::size_t>(n)];
        // `voxels` knows of its own positions alone.
        if (!works) continue;
        if (cut_.tile_of[static_cast<std::size_t>(n)] != tile.number) {
          extra.push_back(n);
          continue;
        }
        const bool needs_no_halo =
            exchange_->overlaps() && contains(tile.owned, intersection(window, cut_.grid.object()));
        (needs_no_halo ? inside : boundary).push_back(n);
      }
      // A single tile has nothing to wait for.
      const auto half =
          static_cast<std::ptrdiff_t>(cut_.tiles.size() == 1 ? inside.size() : inside.size() / 2);
      TileBatch one;
      one.before = part_of({inside.begin(), inside.begin() + half});
      one.boundary = part_of(boundary);
      one.after = part_of({inside.begin() + half, inside.end()});
      one.extra = part_of(extra);
      plan_.back().push_back(std::move(one));
    }
  }
}

double Sweep::bytes(const Config& config, const Problem& problem, const Decomposition& cut,
                    std::int64_t rank, const Needs& needs) {
  const auto unit = static_cast<double>(c10::elementSize(complex_type(config)));
  const std::int64_t slices = problem.object_shape[0];
  const std::int64_t planes = exchanged_planes(slices, cut.tiles.size(), needs);
  const bool later = config.tiles.exchange_every > 1 && cut.exchange.sums_later;
  double numbers = 0.0;  // may be more than an int64 holds
  for (const std::int64_t number : cut.tiles_of_rank(rank)) {
    const auto pixels =
        static_cast<double>(cut.tiles[static_cast<std::size_t>(number)].frame.pixels());
    if (needs.object) {
      numbers += pixels * static_cast<double>(later ? 2 * planes : planes);  // and sums since then
      if (needs.illumination) numbers += pixels * static_cast<double>(slices) / 2;
    }
    // the probe's gradient, and what divides it
    numbers += static_cast<double>(problem.probe.numel() * (needs.probe_illumination ? 2 : 1));
  }
  return unit * (numbers + static_cast<double>(planes * exchange_pixels(cut, rank)));
}

// Tells the feed which patterns a batch will ask for, once.
void Sweep::expect(std::int64_t batch) {
  if (expected_ == batch) return;
  feed_.forget();
  expected_ = batch;
  if (batch < 0) return;
  std::vector<at::Tensor> next;
  for (const Part TileBatch::*part :
       {&TileBatch::before, &TileBatch::boundary, &TileBatch::extra, &TileBatch::after}) {
    for (const TileBatch& tile : plan_[static_cast<std::size_t>(batch)]) {
      for (const Block& block : (tile.*part).blocks) next.push_back(block.rows);
    }
  }
  feed_.expect(next);
}

Sweep::Windows Sweep::windows(const at::Tensor& object, const Tile& tile,
                              const at::Tensor& positions) const {
  const std::array<std::int64_t, 2> corner = {tile.frame.row, tile.frame.column};
  if (!problem_.moves_object()) return {object, positions, corner};
  const auto [h, w] = problem_.window;
  const at::Tensor patches = extract_patches(object, positions, {h, w}, corner, /*outside=*/1.0);
  const std::int64_t count = patches.size(0), slices = patches.size(1);
  at::Tensor corners = at::zeros_like(positions);
  corners.select(1, 0).copy_(at::arange(count, corners.options()).mul_(static_cast<double>(h)));
  return {patches.transpose(0, 1).reshape({slices, count * h, w}), corners, {0, 0}};
}

at::Tensor Sweep::zeros_of_block(const Block& block) const {
  return at::zeros({block.rows.numel()}, at::TensorOptions().dtype(at::kDouble).device(device_));
}

void Sweep::accumulate(const State& state, std::size_t tile, const Block& block,
                       const PatternBlock& measured, Likelihood likelihood,
                       const GradientBuffers& buffers, const at::Tensor& losses) const {
  const Rectangle& frame = tiles_[tile].frame;
  const Windows seen = windows(state.object(tile), tiles_[tile], block.positions);
  LossOptions options;
  options.mask = measured.mask;
  options.likelihood = name_of(likelihood);
  options.detector = detector_;
  options.origin = seen.origin;
  const Rectangle reached = intersection(block.reached, frame);
  const bool gives_back = problem_.moves_object() && buffers.object;
  GradientBuffers inner = buffers;
  if (gives_back) {
    inner.object = at::zeros_like(seen.object);
    if (buffers.illumination) {
      inner.illumination =
          at::zeros(seen.object.sizes(), seen.object.options().dtype(at::toRealValueType(type_)));
    }
  }
  diffraction_loss_accumulate_(seen.object, state.probe(), seen.positions, propagator_,
                               measured.patterns, inner, losses, options);
  if (!gives_back || reached.empty()) return;
  const auto [h, w] = problem_.window;
  const std::int64_t slices = problem_.object_shape[0];
  const auto give_back = [&, h = h, w = w](const at::Tensor& stack, const at::Tensor& to,
                                           const at::Tensor& positions) {
    const at::Tensor patches = stack.reshape({slices, positions.size(0), h, w}).transpose(0, 1);
    cut_out(to, frame, reached)
        .add_(add_patches(patches, positions, {reached.rows, reached.columns},
                          {reached.row, reached.column}));
  };
  give_back(*inner.object, *buffers.object, block.positions);
  if (buffers.illumination) {  // at whole pixels: interpolated it could be negative
    give_back(*inner.illumination, *buffers.illumination, block.positions.floor());
  }
}

void Sweep::add(const State& state, std::size_t tile, const Block& block, const Needs& needs,
                bool counts) {
  const PatternBlock measured = feed_.take(block.rows);
  GradientBuffers buffers;
  if (needs.object) buffers.object = gradients_[tile];
  if (needs.object && needs.illumination) buffers.illumination = illuminations_[tile];
  if (needs.probe && counts) buffers.probe = probe_gradients_[tile];
  const at::Tensor loss = zeros_of_block(block);
  at::Tensor squared_error = loss;
  if (counts && likelihood_ != Likelihood::kAmplitude) {
    buffers.amplitude_errors = squared_error = zeros_of_block(block);
  }
  accumulate(state, tile, block, measured, likelihood_, buffers, loss);
  if (!counts) return;
  losses_[tile].push_back(loss);
  squared_errors_[tile].push_back(squared_error);
}

void Sweep::add_all(const State& state, std::int64_t batch, Part TileBatch::*part,
                    const Needs& needs, bool counts) {
  const std::vector<TileBatch>& tiles = plan_[static_cast<std::size_t>(batch)];
  const auto count = static_cast<std::int64_t>(tiles.size());
  const auto add_tile = [&](std::size_t k) {
    for (const Block& block : (tiles[k].*part).blocks) add(state, k, block, needs, counts);
  };
  // Many tiles: a thread works on tiles of its own. Few: threads share a tile's positions.
  if (device_.is_cpu() && count >= 2 * at::get_num_threads()) {
    at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
      const c10::InferenceMode no_autograd;
      for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
        add_tile(k);
      }
    });
  } else {
    for (std::size_t k = 0; k < tiles.size(); ++k) add_tile(k);
  }
}

// The sum of each tile's blocks, each of them summed in order; of all lists with one wait for the
// device.
std::vector<std::vector<double>> Sweep::sums_by_tile(
    const std::vector<const Blocks*>& lists) const {
  std::vector<at::Tensor> all;
  for (const auto* list : lists) {
    for (const auto& tile : *list) all.insert(all.end(), tile.begin(), tile.end());
  }
  const at::Tensor here = all.empty() ? at::Tensor() : at::cat(all).cpu();
  std::vector<std::vector<double>> sums;
  std::int64_t at = 0;
  for (const auto* list : lists) {
    sums.emplace_back(list->size(), 0.0);
    for (std::size_t k = 0; k < list->size(); ++k) {
      for (const at::Tensor& block : (*list)[k]) {
        sums.back()[k] += total(here.narrow(0, at, block.numel()));
        at += block.numel();
      }
    }
  }
  return sums;
}

KernelGradients Sweep::gradients(const State& state, std::int64_t batch, const Needs& needs,
                                 std::int64_t next) {
  expect(batch);
  if (halos_ == Halos::kStale) send(state);
  for (const at::Tensor& sum : exchanged_) sum.zero_();
  for (const at::Tensor& sum : illuminations_) sum.zero_();
  for (const at::Tensor& sum : probe_gradients_) sum.zero_();
  for (Blocks* blocks : {&losses_, &squared_errors_}) {
    for (std::vector<at::Tensor>& tile : *blocks) tile.clear();
  }
  {
    const Trace::Box box(trace_, "positions that need no halo");
    add_all(state, batch, &TileBatch::before, needs);
  }
  wait(state);
  {
    const Trace::Box box(trace_, "boundary positions");
    add_all(state, batch, &TileBatch::boundary, needs);
    add_all(state, batch, &TileBatch::extra, needs, false);
  }
  const bool exchanged = needs.object && !sums_later();
  if (exchanged) {
    const Trace::Box box(trace_, "send gradients");
    pack_illuminations();
    exchange_->begin_gradients(exchanged_);
  }
  {
    const Trace::Box box(trace_, "positions that need no halo");
    add_all(state, batch, &TileBatch::after, needs);
  }
  expected_ = -1;  // all of it is taken
  if (next >= 0) expect(next);

  KernelGradients found;
  if (needs.probe) {
    const Trace::Box box(trace_, "sum the probe's gradient");
    if (needs.probe_illumination) {
      const std::vector<TileBatch>& tiles = plan_[static_cast<std::size_t>(batch)];
      std::vector<at::Tensor> lit(tiles.size());
      for (std::size_t k = 0; k < tiles.size(); ++k) {
        for (const Part* part : {&tiles[k].before, &tiles[k].boundary, &tiles[k].after}) {
          const at::Tensor one =
              windowed_power(state.object(k).select(0, 0), part->positions, problem_.window[0],
                             problem_.window[1], {tiles_[k].frame.row, tiles_[k].frame.column});
          lit[k] = lit[k].defined() ? lit[k].add_(one) : one;
        }
      }
      found.probe_illumination = ranks_.sum_over_tiles(std::move(lit), cut_.owners);
    }
    found.probe = ranks_.sum_over_tiles(probe_gradients_, cut_.owners);
  }
  if (needs.object) {
    const Trace::Box box(trace_, "wait for gradients, add");
    if (exchanged) {
      exchange_->finish_gradients(exchanged_);
      unpack_illuminations();
    }
    found.object = gradients_;
    found.illumination = illuminations_;
  }
  return found;
}

std::array<std::vector<double>, 2> Sweep::losses() const {
  std::vector<std::vector<double>> sums = sums_by_tile({&losses_, &squared_errors_});
  return {std::move(sums[0]), std::move(sums[1])};
}

void Sweep::pack_illuminations() {
  const std::int64_t slices = problem_.object_shape[0];
  for (std::size_t k = 0; k < exchanged_.size(); ++k) {
    if (exchanged_[k].size(0) == slices) continue;
    for (std::int64_t s = 0; s < slices; ++s) {
      real_plane(exchanged_[k], slices, s).copy_(illuminations_[k].select(0, s));
    }
    illuminations_[k].zero_();  // positions that are worked on meanwhile add to it
  }
}

void Sweep::unpack_illuminations() {
  const std::int64_t slices = problem_.object_shape[0];
  for (std::size_t k = 0; k < exchanged_.size(); ++k) {
    if (exchanged_[k].size(0) == slices) continue;
    for (std::int64_t s = 0; s < slices; ++s) {
      illuminations_[k].select(0, s).add_(real_plane(exchanged_[k], slices, s));
    }
  }
}

void Sweep::send(const State& state) {
  const Trace::Box box(trace_, "send voxels");
  exchange_->begin_objects(state.objects());
  halos_ = Halos::kOnTheWay;
}

void Sweep::wait(const State& state) {
  if (halos_ != Halos::kOnTheWay) return;
  const Trace::Box box(trace_, "wait for voxels");
  exchange_->finish_objects(state.objects());
  halos_ = Halos::kFresh;
}

void Sweep::refresh(const State& state) {
  exchange_->begin_objects(state.objects());
  exchange_->finish_objects(state.objects());
}

void Sweep::keep_own(State& state) {
  pack_illuminations();
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    Memory& memory = state.unknowns.at("object").memory[k];
    add_scaled(tensor_like(memory, "own_sums", exchanged_[k], type_), 1.0, exchanged_[k]);
  }
}

// Wang et al. (SC22): the tile has moved by its own gradients; the passes bring the sum of all
// since the last exchange, of which the tile's own part must not be used a second time.
KernelGradients Sweep::of_others(State& state) {
  const Trace::Box box(trace_, "passes");
  const auto own = [&](std::size_t k) -> at::Tensor& {
    return state.unknowns.at("object").memory[k].at("own_sums");
  };
  for (std::size_t k = 0; k < tiles_.size(); ++k) exchanged_[k].copy_(own(k));
  exchange_->begin_gradients(exchanged_);
  exchange_->finish_gradients(exchanged_);
  // The sum of several batches takes the step of one large batch: that of all their light.
  unpack_illuminations();
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    add_scaled(gradients_[k], -1.0, own(k).narrow(0, 0, gradients_[k].size(0)));
    own(k).zero_();
  }
  KernelGradients found;
  found.object = gradients_;
  found.illumination = illuminations_;
  return found;
}

double Sweep::error(const State& state, std::int64_t batch, Likelihood likelihood) {
  Blocks blocks(tiles_.size());
  each_block(plan_[static_cast<std::size_t>(batch)], [&](std::size_t k, const Block& block) {
    const at::Tensor losses = zeros_of_block(block);
    accumulate(state, k, block, feed_.take(block.rows), likelihood, {}, losses);
    blocks[k].push_back(losses);
  });
  const double share = static_cast<double>(members(batch).size(0)) /
                       static_cast<double>(std::max<std::int64_t>(1, positions()));
  const double sum = workplace_.sum(sums_by_tile({&blocks})[0]);
  return unmasked_pixels_ > 0 ? sum / (share * unmasked_pixels_) : 0.0;
}

}  // namespace ptyle::driver
