#include "ops/halo/exchange.h"

#include <chrono>
#include <utility>

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

namespace ptyle {
namespace {

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), begin_(Clock::now()) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  double& seconds_;
  Clock::time_point begin_;
};

// A piece within a message, [slices, rows, columns].
at::Tensor piece_of(const at::Tensor& message, std::int64_t at, std::int64_t slices,
                    const Rectangle& area) {
  return message.narrow(0, at, slices * area.pixels()).view({slices, area.rows, area.columns});
}

}  // namespace

HaloExchange::HaloExchange(TileGrid grid, std::vector<std::int64_t> owners, std::int64_t rank,
                           c10::intrusive_ptr<c10d::ProcessGroup> group)
    : grid_(std::move(grid)), owners_(std::move(owners)), rank_(rank), messages_(std::move(group)) {
  TORCH_INTERNAL_ASSERT(static_cast<std::int64_t>(owners_.size()) == grid_.tiles());
  local_.resize(owners_.size());
  for (std::int64_t tile = 0; tile < grid_.tiles(); ++tile) {
    if (owners_[static_cast<std::size_t>(tile)] != rank_) continue;
    local_[static_cast<std::size_t>(tile)] = tiles_.size();
    tiles_.push_back(tile);
    borrowed_.push_back(borrowed_by(grid_, tile));
    lent_.push_back(lent_by(grid_, tile));
    for (const Piece& piece : borrowed_.back()) {
      const std::int64_t peer = owners_[static_cast<std::size_t>(piece.owner)];
      if (peer != rank_) peers_[peer].borrowed.push_back(piece);
    }
    for (const Piece& piece : lent_.back()) {
      const std::int64_t peer = owners_[static_cast<std::size_t>(piece.borrower)];
      if (peer != rank_) peers_[peer].lent.push_back(piece);
    }
  }
  // Both sides of a message list its pieces by owner, then by borrower.
  for (auto& [peer, shared] : peers_) {
    for (std::vector<Piece>* pieces : {&shared.borrowed, &shared.lent}) {
      std::sort(pieces->begin(), pieces->end(), [](const Piece& a, const Piece& b) {
        return std::pair(a.owner, a.borrower) < std::pair(b.owner, b.borrower);
      });
    }
  }
}

void HaloExchange::check(const std::vector<at::Tensor>& tensors, bool extended) const {
  TORCH_INTERNAL_ASSERT(tensors.size() == tiles_.size());
  for (std::size_t k = 0; k < tensors.size(); ++k) {
    const Rectangle frame = extended ? grid_.extended(tiles_[k]) : grid_.owned(tiles_[k]);
    const at::Tensor& tensor = tensors[k];
    TORCH_INTERNAL_ASSERT(tensor.dim() == 3 && tensor.size(1) == frame.rows &&
                          tensor.size(2) == frame.columns);
  }
}

std::int64_t HaloExchange::elements(const std::vector<Piece>& pieces, std::int64_t slices) {
  std::int64_t count = 0;
  for (const Piece& piece : pieces) count += slices * piece.area.pixels();
  return count;
}

void HaloExchange::post(bool adding, const std::vector<at::Tensor>& from, int tag) {
  TORCH_INTERNAL_ASSERT(phase_ == Phase::kIdle);
  check(from, adding);
  phase_ = adding ? Phase::kAdding : Phase::kInserting;
  sources_ = from;
  if (tiles_.empty() || peers_.empty()) return;
  const std::int64_t slices = from.front().size(0);
  const at::TensorOptions options = from.front().options();
  const auto sized = [&](at::Tensor& buffer, std::int64_t count) {
    if (!buffer.defined() || buffer.numel() != count ||
        buffer.scalar_type() != from.front().scalar_type() ||
        buffer.device() != from.front().device()) {
      buffer = at::empty({count}, options);
    }
  };
  Pieces& pack = packed_[adding ? 0 : 1];
  for (auto& [peer, shared] : peers_) {
    at::Tensor& arriving = adding ? shared.lent_buffer : shared.borrowed_buffer;
    if (const std::int64_t count = elements(adding ? shared.lent : shared.borrowed, slices)) {
      sized(arriving, count);
      messages_.receive(arriving, peer, tag);
    }
    const std::vector<Piece>& pieces = adding ? shared.borrowed : shared.lent;
    at::Tensor& leaving = adding ? shared.borrowed_buffer : shared.lent_buffer;
    if (const std::int64_t count = elements(pieces, slices)) {
      sized(leaving, count);
      std::int64_t at = 0;
      for (const Piece& piece : pieces) {
        const std::int64_t tile = adding ? piece.borrower : piece.owner;
        pack.add(from[local(tile)], adding ? grid_.extended(tile) : grid_.owned(tile),
                 piece_of(leaving, at, slices, piece.area), piece.area, piece.area);
        at += slices * piece.area.pixels();
      }
      messages_.send(leaving, peer, tag);
    }
  }
  {
    const Stopwatch packing(pack_seconds_);
    pack.copy();
  }
  messages_.post();
}

void HaloExchange::begin_add(const std::vector<at::Tensor>& extended, int tag) {
  post(true, extended, tag);
}

void HaloExchange::begin_insert(const std::vector<at::Tensor>& owned, int tag) {
  post(false, owned, tag);
}

void HaloExchange::finish_add(const std::vector<at::Tensor>& owned) {
  TORCH_INTERNAL_ASSERT(phase_ == Phase::kAdding);
  check(owned, false);
  messages_.wait(clock_);
  const Stopwatch adding(pack_seconds_);
  // Where each lent piece lies in its borrower's message, by (owner, borrower).
  std::map<std::pair<std::int64_t, std::int64_t>, at::Tensor> arrived;
  for (const auto& [peer, shared] : peers_) {
    std::int64_t at = 0;
    for (const Piece& piece : shared.lent) {
      const std::int64_t slices = owned.front().size(0);
      arrived[{piece.owner, piece.borrower}] = piece_of(shared.lent_buffer, at, slices, piece.area);
      at += slices * piece.area.pixels();
    }
  }
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    for (const Piece& piece : lent_[k]) {
      const bool here = owners_[static_cast<std::size_t>(piece.borrower)] == rank_;
      added_.add(here ? sources_[local(piece.borrower)] : arrived.at({piece.owner, piece.borrower}),
                 here ? grid_.extended(piece.borrower) : piece.area, owned[k],
                 grid_.owned(piece.owner), piece.area);
    }
  }
  added_.sum();
  sources_.clear();
  phase_ = Phase::kIdle;
}

void HaloExchange::finish_insert(const std::vector<at::Tensor>& extended) {
  TORCH_INTERNAL_ASSERT(phase_ == Phase::kInserting);
  check(extended, true);
  messages_.wait(clock_);
  const Stopwatch inserting(pack_seconds_);
  for (const auto& [peer, shared] : peers_) {
    std::int64_t at = 0;
    for (const Piece& piece : shared.borrowed) {
      const at::Tensor& tensor = extended[local(piece.borrower)];
      inserted_.add(piece_of(shared.borrowed_buffer, at, tensor.size(0), piece.area), piece.area,
                    tensor, grid_.extended(piece.borrower), piece.area);
      at += tensor.size(0) * piece.area.pixels();
    }
  }
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    for (const Piece& piece : borrowed_[k]) {
      if (owners_[static_cast<std::size_t>(piece.owner)] != rank_) continue;
      inserted_.add(sources_[local(piece.owner)], grid_.owned(piece.owner), extended[k],
                    grid_.extended(piece.borrower), piece.area);
    }
  }
  inserted_.copy();
  sources_.clear();
  phase_ = Phase::kIdle;
}

}  // namespace ptyle
