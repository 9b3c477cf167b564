#include "ops/halo/exchange.h"

#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include <ATen/Parallel.h>
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

// Rows of an area of a tile's tensor [slices, rows, columns] whose corner lies at `corner`.
struct Rows {
  std::byte* first;
  std::int64_t slice_bytes, row_bytes;
  std::byte* at(std::int64_t slice, std::int64_t row) const {
    return first + slice * slice_bytes + row * row_bytes;
  }
};

Rows rows_of(const at::Tensor& tensor, const Rectangle& frame, const Rectangle& area) {
  const auto size = static_cast<std::int64_t>(tensor.element_size());
  auto* data = static_cast<std::byte*>(const_cast<void*>(tensor.const_data_ptr()));
  const std::int64_t row_bytes = tensor.stride(1) * size;
  return {data + (area.row - frame.row) * row_bytes + (area.column - frame.column) * size,
          tensor.stride(0) * size, row_bytes};
}

void copy_rows(const Rows& from, const Rows& to, std::int64_t slices, std::int64_t rows,
               std::int64_t bytes) {
  for (std::int64_t s = 0; s < slices; ++s) {
    for (std::int64_t y = 0; y < rows; ++y) {
      std::memcpy(to.at(s, y), from.at(s, y), static_cast<std::size_t>(bytes));
    }
  }
}

template <typename T>
void add_rows(const Rows& from, const Rows& to, std::int64_t slices, std::int64_t rows,
              std::int64_t numbers) {
  for (std::int64_t s = 0; s < slices; ++s) {
    for (std::int64_t y = 0; y < rows; ++y) {
      const T* in = reinterpret_cast<const T*>(from.at(s, y));
      T* out = reinterpret_cast<T*>(to.at(s, y));
      for (std::int64_t x = 0; x < numbers; ++x) out[x] += in[x];
    }
  }
}

// A complex number is two real ones.
void add_area(const at::Tensor& like, const Rows& from, const Rows& to, std::int64_t slices,
              const Rectangle& area) {
  const std::int64_t numbers = area.columns * (like.is_complex() ? 2 : 1);
  if (at::toRealValueType(like.scalar_type()) == at::kFloat) {
    add_rows<float>(from, to, slices, area.rows, numbers);
  } else {
    add_rows<double>(from, to, slices, area.rows, numbers);
  }
}

// A piece within a message: contiguous.
Rows packed(std::byte* message, const Rectangle& area, std::int64_t element_bytes) {
  const std::int64_t row_bytes = area.columns * element_bytes;
  return {message, area.rows * row_bytes, row_bytes};
}

}  // namespace

HaloExchange::HaloExchange(TileGrid grid, std::vector<std::int64_t> owners, std::int64_t rank,
                           c10::intrusive_ptr<c10d::ProcessGroup> group)
    : grid_(std::move(grid)), owners_(std::move(owners)), rank_(rank), group_(std::move(group)) {
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
    TORCH_INTERNAL_ASSERT(tensor.size(2) <= 1 || tensor.stride(2) == 1);
    TORCH_INTERNAL_ASSERT(tensor.device().is_cpu());
  }
}

std::int64_t HaloExchange::elements(const std::vector<Piece>& pieces, std::int64_t slices) {
  std::int64_t count = 0;
  for (const Piece& piece : pieces) count += slices * piece.area.pixels();
  return count;
}

// Receives first, then sends: neither blocks.
void HaloExchange::post(bool adding, const std::vector<at::Tensor>& from, int tag) {
  TORCH_INTERNAL_ASSERT(phase_ == Phase::kIdle);
  check(from, adding);
  phase_ = adding ? Phase::kAdding : Phase::kInserting;
  sources_ = from;
  if (tiles_.empty() || peers_.empty()) return;
  const std::int64_t slices = from.front().size(0);
  const at::TensorOptions options = from.front().options();
  const auto element_bytes = static_cast<std::int64_t>(from.front().element_size());
  const auto sized = [&options](at::Tensor& buffer, std::int64_t count) {
    if (!buffer.defined() || buffer.numel() != count ||
        buffer.scalar_type() != c10::typeMetaToScalarType(options.dtype())) {
      buffer = at::empty({count}, options);
    }
  };
  const auto as_real = [](const at::Tensor& buffer) {
    return buffer.is_complex() ? at::view_as_real(buffer).flatten() : buffer;
  };
  for (auto& [peer, shared] : peers_) {
    at::Tensor& buffer = adding ? shared.lent_buffer : shared.borrowed_buffer;
    const std::int64_t count = elements(adding ? shared.lent : shared.borrowed, slices);
    if (count == 0) continue;
    sized(buffer, count);
    std::vector<at::Tensor> message{as_real(buffer)};
    receives_.emplace_back(peer, group_->recv(message, static_cast<int>(peer), tag));
  }
  for (auto& [peer, shared] : peers_) {
    const std::vector<Piece>& pieces = adding ? shared.borrowed : shared.lent;
    at::Tensor& buffer = adding ? shared.borrowed_buffer : shared.lent_buffer;
    const std::int64_t count = elements(pieces, slices);
    if (count == 0) continue;
    sized(buffer, count);
    {
      const Stopwatch packing(pack_seconds_);
      auto* to = static_cast<std::byte*>(buffer.data_ptr());
      for (const Piece& piece : pieces) {
        const std::int64_t tile = adding ? piece.borrower : piece.owner;
        const Rectangle frame = adding ? grid_.extended(tile) : grid_.owned(tile);
        copy_rows(rows_of(from[local(tile)], frame, piece.area),
                  packed(to, piece.area, element_bytes), slices, piece.area.rows,
                  piece.area.columns * element_bytes);
        to += slices * piece.area.pixels() * element_bytes;
      }
    }
    std::vector<at::Tensor> message{as_real(buffer)};
    sends_.emplace_back(peer, group_->send(message, static_cast<int>(peer), tag));
    ++messages_sent_;
    bytes_sent_ += count * element_bytes;
  }
}

void HaloExchange::wait() {
  const Stopwatch waiting(wait_seconds_);
  for (auto* works : {&receives_, &sends_}) {
    for (const auto& [peer, work] : *works) {
      try {
        work->wait();
      } catch (const std::exception& error) {
        C10_THROW_ERROR(DistBackendError, "the exchange with rank " + std::to_string(peer) +
                                              " failed: " + error.what());
      }
    }
    works->clear();
  }
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
  wait();
  const Stopwatch adding(pack_seconds_);
  // Where each lent piece lies in its borrower's message, by (owner, borrower).
  std::map<std::pair<std::int64_t, std::int64_t>, std::byte*> arrived;
  for (auto& [peer, shared] : peers_) {
    if (shared.lent.empty()) continue;
    auto* from = static_cast<std::byte*>(shared.lent_buffer.data_ptr());
    for (const Piece& piece : shared.lent) {
      arrived[{piece.owner, piece.borrower}] = from;
      from += owned.front().size(0) * piece.area.pixels() *
              static_cast<std::int64_t>(shared.lent_buffer.element_size());
    }
  }
  at::parallel_for(
      0, static_cast<std::int64_t>(tiles_.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
          const at::Tensor& sum = owned[k];
          const std::int64_t slices = sum.size(0);
          for (const Piece& piece : lent_[k]) {
            const bool here = owners_[static_cast<std::size_t>(piece.borrower)] == rank_;
            const Rows from = here ? rows_of(sources_[local(piece.borrower)],
                                             grid_.extended(piece.borrower), piece.area)
                                   : packed(arrived.at({piece.owner, piece.borrower}), piece.area,
                                            static_cast<std::int64_t>(sum.element_size()));
            add_area(sum, from, rows_of(sum, grid_.owned(piece.owner), piece.area), slices,
                     piece.area);
          }
        }
      });
  sources_.clear();
  phase_ = Phase::kIdle;
}

void HaloExchange::finish_insert(const std::vector<at::Tensor>& extended) {
  TORCH_INTERNAL_ASSERT(phase_ == Phase::kInserting);
  check(extended, true);
  wait();
  const Stopwatch inserting(pack_seconds_);
  for (auto& [peer, shared] : peers_) {
    if (shared.borrowed.empty()) continue;
    auto* from = static_cast<std::byte*>(shared.borrowed_buffer.data_ptr());
    for (const Piece& piece : shared.borrowed) {
      const at::Tensor& tensor = extended[local(piece.borrower)];
      const auto size = static_cast<std::int64_t>(tensor.element_size());
      const std::int64_t slices = tensor.size(0);
      copy_rows(packed(from, piece.area, size),
                rows_of(tensor, grid_.extended(piece.borrower), piece.area), slices,
                piece.area.rows, piece.area.columns * size);
      from += slices * piece.area.pixels() * size;
    }
  }
  at::parallel_for(
      0, static_cast<std::int64_t>(tiles_.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
          const at::Tensor& tensor = extended[k];
          for (const Piece& piece : borrowed_[k]) {
            if (owners_[static_cast<std::size_t>(piece.owner)] != rank_) continue;
            copy_rows(rows_of(sources_[local(piece.owner)], grid_.owned(piece.owner), piece.area),
                      rows_of(tensor, grid_.extended(piece.borrower), piece.area), tensor.size(0),
                      piece.area.rows,
                      piece.area.columns * static_cast<std::int64_t>(tensor.element_size()));
          }
        }
      });
  sources_.clear();
  phase_ = Phase::kIdle;
}

}  // namespace ptyle
