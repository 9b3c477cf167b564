// The exchange of halos between tiles, for the differentiable operators and for the program.
//
// Tiles are independent of ranks: a rank holds any tiles. What is exchanged between two tiles of
// one rank is copied; what goes to another rank is packed into one message a peer and direction.
// Works on strided views (of unit stride in columns) of [slices, rows, columns] tensors, all on one
// device: through the group's backend for it (Gloo on the CPU, NCCL on GPUs), where nothing blocks
// the calling thread on a GPU.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "csrc/tiles.h"
#include "ops/halo/messages.h"
#include "ops/halo/pieces.h"

namespace ptyle {

class HaloExchange {
 public:
  // owners: the rank of every tile. `group` may be null where `rank` owns all of them.
  HaloExchange(TileGrid grid, std::vector<std::int64_t> owners, std::int64_t rank,
               c10::intrusive_ptr<c10d::ProcessGroup> group);

  const TileGrid& grid() const { return grid_; }
  // This rank's tiles, ascending; all lists of tensors below follow them.
  const std::vector<std::int64_t>& tiles() const { return tiles_; }

  // Adds what lies in the halos of `extended` to its owners' `owned` tensors, after what they hold,
  // by ascending borrower: the bits do not depend on the ranks. begin reads the halos and sends
  // them, finish waits and adds; owned parts of `extended` may be written between the two, halos
  // not.
  void begin_add(const std::vector<at::Tensor>& extended, int tag);
  void finish_add(const std::vector<at::Tensor>& owned);

  // Copies owned pixels into the halos of `extended`. begin sends, finish waits and writes halos;
  // `owned` must not be written between the two.
  void begin_insert(const std::vector<at::Tensor>& owned, int tag);
  void finish_insert(const std::vector<at::Tensor>& extended);

  // Since the start, of messages to other ranks.
  std::int64_t messages_sent() const { return messages_.sent(); }
  std::int64_t bytes_sent() const { return messages_.bytes_sent(); }
  // Seconds in packing and adding (on the CPU), and in waiting for messages.
  double pack_seconds() const { return pack_seconds_; }
  double wait_seconds() const { return clock_.seconds(); }

 private:
  // Pieces that two ranks share, in the order in which they lie in a message.
  struct Shared {
    std::vector<Piece> borrowed;              // of the peer's pixels, in halos here
    std::vector<Piece> lent;                  // of pixels here, in the peer's halos
    at::Tensor borrowed_buffer, lent_buffer;  // messages about them, either way
  };
  enum class Phase { kIdle, kAdding, kInserting };

  std::size_t local(std::int64_t tile) const { return local_[static_cast<std::size_t>(tile)]; }
  void check(const std::vector<at::Tensor>& tensors, bool extended) const;
  void post(bool adding, const std::vector<at::Tensor>& from, int tag);
  static std::int64_t elements(const std::vector<Piece>& pieces, std::int64_t slices);

  TileGrid grid_;
  std::vector<std::int64_t> owners_;
  std::int64_t rank_;
  std::vector<std::int64_t> tiles_;
  std::vector<std::size_t> local_;  // index in tiles_ by tile
  std::map<std::int64_t, Shared> peers_;
  std::vector<std::vector<Piece>> borrowed_, lent_;  // by local tile, of any rank

  Phase phase_ = Phase::kIdle;
  std::vector<at::Tensor> sources_;
  Messages messages_;
  WaitClock clock_;
  Pieces packed_[2], added_, inserted_;  // packed: of additions, of insertions
  double pack_seconds_ = 0;
};

}  // namespace ptyle
