#include "driver/tiles/exchange.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "ops/halo/exchange.h"

namespace ptyle::driver {
namespace {

// What `direct` and `voxels` share: halos of owners' pixels.
class Halos : public Exchange {
 public:
  Halos(const Decomposition& cut, const Ranks& ranks)
      : cut_(cut), halos_(cut.grid, cut.owners, ranks.rank(), ranks.group()) {}

  void begin_objects(const std::vector<at::Tensor>& objects) override {
    halos_.begin_insert(owned(objects), next_tag());
  }
  void finish_objects(const std::vector<at::Tensor>& objects) override {
    halos_.finish_insert(objects);
  }
  Traffic traffic() const override {
    return {halos_.messages_sent(), halos_.bytes_sent(), halos_.pack_seconds(),
            halos_.wait_seconds()};
  }

 protected:
  std::vector<at::Tensor> owned(const std::vector<at::Tensor>& frames) const {
    std::vector<at::Tensor> parts;
    for (std::size_t k = 0; k < frames.size(); ++k) {
      const Tile& tile = cut_.tiles[static_cast<std::size_t>(halos_.tiles()[k])];
      parts.push_back(cut_out(frames[k], tile.frame, tile.owned));
    }
    return parts;
  }
  int next_tag() {
    calls_ = (calls_ + 1) & 0xffffff;
    return Ranks::kHaloTag + calls_;
  }

  const Decomposition& cut_;
  HaloExchange halos_;
  int calls_ = 0;
};

// Halo gradients to their owners, who add them; updated voxels back.
class Direct final : public Halos {
 public:
  using Halos::Halos;
  bool overlaps() const override { return true; }
  void begin_gradients(const std::vector<at::Tensor>& gradients) override {
    halos_.begin_add(gradients, next_tag());
  }
  void finish_gradients(const std::vector<at::Tensor>& gradients) override {
    halos_.finish_add(owned(gradients));
  }
};

// Halo voxel exchange: a tile follows its own gradient, on all of its frame, and takes its
// neighbours' voxels for its halos.
class Voxels final : public Halos {
 public:
  using Halos::Halos;
  bool overlaps() const override { return false; }
  void begin_gradients(const std::vector<at::Tensor>&) override {}
  void finish_gradients(const std::vector<at::Tensor>&) override {}
};

// The other form of halo voxel exchange (Nashed et al. 2014, Opt. Express 22, 32082): where frames
// overlap, a tile's voxels become the mean of its own and each neighbour's in turn, by ascending
// tile, as they were before any was averaged.
class AveragedVoxels final : public Exchange {
 public:
  AveragedVoxels(const Decomposition& cut, const Ranks& ranks)
      : cut_(cut), ranks_(ranks), mine_(cut.tiles_of_rank(ranks.rank())) {
    for (std::size_t k = 0; k < mine_.size(); ++k) {
      const std::int64_t here = mine_[k];
      for (const std::int64_t there : overlapping(here)) {
        const std::int64_t peer = cut_.owners[static_cast<std::size_t>(there)];
        to_[peer].push_back({k, here, there});
        from_[peer].push_back({k, there, here});
      }
    }
    // Both sides of a message list it by who sends, then by who receives.
    for (auto* lists : {&to_, &from_}) {
      for (auto& [peer, list] : *lists) {
        std::sort(list.begin(), list.end(), [](const Part& a, const Part& b) {
          return std::pair(a.sender, a.receiver) < std::pair(b.sender, b.receiver);
        });
      }
    }
  }

  bool overlaps() const override { return false; }
  void begin_gradients(const std::vector<at::Tensor>&) override {}
  void finish_gradients(const std::vector<at::Tensor>&) override {}

  void begin_objects(const std::vector<at::Tensor>& objects) override {
    const std::int64_t slices = objects.front().size(0);
    const int tag = Ranks::kHaloTag + (call_ = (call_ + 1) & 0xffffff);
    for (const auto& [peer, list] : from_) {
      std::int64_t count = 0;
      for (const Part& part : list) count += slices * area(part).pixels();
      received_[peer] = at::empty({count}, objects.front().options());
      if (peer == ranks_.rank()) continue;
      std::vector<at::Tensor> message{as_real(received_[peer])};
      works_.emplace_back(peer, ranks_.group()->recv(message, static_cast<int>(peer), tag));
    }
    for (const auto& [peer, list] : to_) {
      std::vector<at::Tensor> parts;
      for (const Part& one : list) {
        parts.push_back(cut_out(objects[one.local], tile(one.sender).frame, area(one)).flatten());
      }
      at::Tensor packed = at::cat(parts);
      if (peer == ranks_.rank()) {
        received_[peer] = packed;
        continue;
      }
      std::vector<at::Tensor> message{as_real(packed)};
      works_.emplace_back(peer, ranks_.group()->send(message, static_cast<int>(peer), tag));
      traffic_.bytes += static_cast<std::int64_t>(packed.nbytes());
      ++traffic_.messages;
      sent_.push_back(std::move(packed));
    }
  }

  void finish_objects(const std::vector<at::Tensor>& objects) override {
    for (const auto& [peer, work] : works_) ranks_.wait_for(work, peer);
    const std::int64_t slices = objects.front().size(0);
    std::map<std::pair<std::int64_t, std::int64_t>, at::Tensor> arrived;  // by receiver, sender
    for (const auto& [peer, list] : from_) {
      std::int64_t at = 0;
      for (const Part& one : list) {
        const Rectangle where = area(one);
        const std::int64_t count = slices * where.pixels();
        arrived[{one.receiver, one.sender}] =
            received_[peer].narrow(0, at, count).view({slices, where.rows, where.columns});
        at += count;
      }
    }
    for (auto& [key, values] : arrived) {
      const auto& [receiver, sender] = key;
      const auto found = std::find(mine_.begin(), mine_.end(), receiver);
      const auto k = static_cast<std::size_t>(found - mine_.begin());
      cut_out(objects[k], tile(receiver).frame,
              intersection(tile(receiver).frame, tile(sender).frame))
          .add_(values)
          .mul_(0.5);
    }
    works_.clear();
    sent_.clear();
    received_.clear();
  }
  Traffic traffic() const override { return traffic_; }

 private:
  struct Part {
    std::size_t local = 0;  // of the tile that is here
    std::int64_t sender = 0, receiver = 0;
  };
  const Tile& tile(std::int64_t number) const {
    return cut_.tiles[static_cast<std::size_t>(number)];
  }
  Rectangle area(const Part& one) const {
    return intersection(tile(one.sender).frame, tile(one.receiver).frame);
  }
  std::vector<std::int64_t> overlapping(std::int64_t here) const {
    std::vector<std::int64_t> others;
    for (const Tile& other : cut_.tiles) {
      if (other.number != here && !intersection(other.frame, tile(here).frame).empty()) {
        others.push_back(other.number);
      }
    }
    return others;
  }
  const Decomposition& cut_;
  const Ranks& ranks_;
  std::vector<std::int64_t> mine_;
  std::map<std::int64_t, std::vector<Part>> to_, from_;  // by rank, this one too
  std::map<std::int64_t, at::Tensor> received_;
  std::vector<at::Tensor> sent_;
  std::vector<std::pair<std::int64_t, c10::intrusive_ptr<c10d::Work>>> works_;
  int call_ = 0;
  Traffic traffic_;
};

// Every rank holds the whole object; gradients are summed over ranks.
class Allreduce final : public Exchange {
 public:
  explicit Allreduce(const Ranks& ranks) : ranks_(ranks) {}
  bool overlaps() const override { return false; }
  void begin_gradients(const std::vector<at::Tensor>&) override {}
  void finish_gradients(const std::vector<at::Tensor>& gradients) override {
    if (ranks_.size() == 1) return;
    for (const at::Tensor& gradient : gradients) {
      ranks_.sum(gradient);  // which counts its bytes and its waiting
      ++traffic_.messages;
    }
  }
  void begin_objects(const std::vector<at::Tensor>&) override {}
  void finish_objects(const std::vector<at::Tensor>&) override {}
  Traffic traffic() const override { return traffic_; }

 private:
  const Ranks& ranks_;
  Traffic traffic_;
};

// The passes of Wang et al. (SC22): along columns of tiles forward, adding, and backward,
// replacing; then along rows. Only direct neighbours speak, and afterwards every frame holds the
// whole sum, also where tiles are narrower than their halos: overlaps of frames shrink with the
// distance of tiles.
//
// Each chunk of slices is a chain of its own. Sends never block; receives are posted before the
// first of a pass, and waited for in the order chunk by chunk, tile by tile, so that the first
// chunk is tiles ahead of the last.
class Passes final : public Exchange {
 public:
  Passes(const Decomposition& cut, const Ranks& ranks)
      : cut_(cut), ranks_(ranks), mine_(cut.tiles_of_rank(ranks.rank())) {
    for (std::size_t k = 0; k < mine_.size(); ++k) local_[mine_[k]] = k;
  }

  bool overlaps() const override { return false; }
  void begin_gradients(const std::vector<at::Tensor>&) override {}
  void finish_gradients(const std::vector<at::Tensor>& gradients) override {
    for (const bool vertical : {true, false}) {
      for (const bool forward : {true, false}) pass(gradients, vertical, forward);
    }
  }
  // Every frame was updated from the same sums: its halos are what their owners have.
  void begin_objects(const std::vector<at::Tensor>&) override {}
  void finish_objects(const std::vector<at::Tensor>&) override {}
  Traffic traffic() const override { return traffic_; }

 private:
  static constexpr std::int64_t kChunks = 4;

  struct Message {
    at::Tensor buffer;
    c10::intrusive_ptr<c10d::Work> work;
  };

  // The neighbour towards which (or from which) a pass goes; -1 at the edge.
  std::int64_t neighbour(std::int64_t tile, bool vertical, bool further) const {
    const std::int64_t columns = cut_.grid.columns();
    const std::int64_t along = vertical ? tile / columns : tile % columns;
    const std::int64_t count = vertical ? cut_.grid.rows() : columns;
    const std::int64_t next = along + (further ? 1 : -1);
    if (next < 0 || next >= count) return -1;
    return tile + (further ? 1 : -1) * (vertical ? columns : 1);
  }

  const Tile& tile(std::int64_t number) const {
    return cut_.tiles[static_cast<std::size_t>(number)];
  }

  void pass(const std::vector<at::Tensor>& gradients, bool vertical, bool forward) {
    using Clock = std::chrono::steady_clock;
    if (mine_.empty()) return;
    const std::int64_t slices = gradients.front().size(0);
    const std::int64_t chunks = std::max<std::int64_t>(1, std::min(kChunks, slices));
    // Every message of a pass has a number: receiver and chunk.
    const auto tag = [&](std::int64_t to, std::int64_t chunk) {
      return Ranks::kPassTag +
             static_cast<int>(
                 (((call_ * 4 + (vertical ? 2 : 0) + (forward ? 1 : 0)) * cut_.grid.tiles() + to) *
                      chunks +
                  chunk) &
                 0x7ffffff);
    };
    const auto chunk_of = [&](const at::Tensor& gradient, std::int64_t chunk) {
      const std::int64_t begin = slices * chunk / chunks, end = slices * (chunk + 1) / chunks;
      return gradient.narrow(0, begin, end - begin);
    };
    const auto owner = [&](std::int64_t number) {
      return cut_.owners[static_cast<std::size_t>(number)];
    };
    std::map<std::pair<std::int64_t, std::int64_t>, Message> incoming;  // by (tile, chunk)
    std::vector<Message> outgoing;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (const std::int64_t here : mine_) {
        const std::int64_t from = neighbour(here, vertical, !forward);
        if (from < 0 || owner(from) == ranks_.rank()) continue;
        const Rectangle area = intersection(tile(here).frame, tile(from).frame);
        if (area.empty()) continue;
        const at::Tensor part_here = chunk_of(gradients[local_[here]], chunk);
        Message message{
            at::empty({part_here.size(0), area.rows, area.columns}, part_here.options()), {}};
        std::vector<at::Tensor> list{as_real(message.buffer)};
        message.work = ranks_.group()->recv(list, static_cast<int>(owner(from)), tag(here, chunk));
        incoming[{here, chunk}] = std::move(message);
      }
    }
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      // In the direction of the pass: what a local neighbour hands on is complete.
      for (std::size_t k = 0; k < mine_.size(); ++k) {
        const std::int64_t here = forward ? mine_[k] : mine_[mine_.size() - 1 - k];
        const at::Tensor mine = chunk_of(gradients[local_[here]], chunk);
        const std::int64_t from = neighbour(here, vertical, !forward);
        if (from >= 0) {
          const Rectangle area = intersection(tile(here).frame, tile(from).frame);
          if (!area.empty()) {
            at::Tensor arrived;
            if (owner(from) == ranks_.rank()) {
              arrived = cut_out(chunk_of(gradients[local_[from]], chunk), tile(from).frame, area);
            } else {
              Message& message = incoming.at({here, chunk});
              ranks_.wait_for(message.work, owner(from));
              arrived = message.buffer;
            }
            at::Tensor there = cut_out(mine, tile(here).frame, area);
            if (forward) {
              there.add_(arrived);
            } else {
              there.copy_(arrived);
            }
          }
        }
        const std::int64_t to = neighbour(here, vertical, forward);
        if (to < 0 || owner(to) == ranks_.rank()) continue;
        const Rectangle area = intersection(tile(here).frame, tile(to).frame);
        if (area.empty()) continue;
        const auto begin = Clock::now();
        Message message{cut_out(mine, tile(here).frame, area).clone(at::MemoryFormat::Contiguous),
                        {}};
        traffic_.pack_seconds += std::chrono::duration<double>(Clock::now() - begin).count();
        std::vector<at::Tensor> list{as_real(message.buffer)};
        message.work = ranks_.group()->send(list, static_cast<int>(owner(to)), tag(to, chunk));
        ++traffic_.messages;
        traffic_.bytes += static_cast<std::int64_t>(message.buffer.nbytes());
        outgoing.push_back(std::move(message));
      }
    }
    for (Message& message : outgoing) message.work->wait();
    if (!forward && !vertical) ++call_;
  }

  const Decomposition& cut_;
  const Ranks& ranks_;
  std::vector<std::int64_t> mine_;
  std::map<std::int64_t, std::size_t> local_;
  std::int64_t call_ = 0;
  Traffic traffic_;
};

}  // namespace

std::unique_ptr<Exchange> make_exchange(const Decomposition& decomposition, const Ranks& ranks) {
  if (decomposition.exchange == "allreduce") return std::make_unique<Allreduce>(ranks);
  if (decomposition.exchange == "voxels" && decomposition.averages) {
    return std::make_unique<AveragedVoxels>(decomposition, ranks);
  }
  if (decomposition.exchange == "voxels") return std::make_unique<Voxels>(decomposition, ranks);
  if (decomposition.exchange == "passes") return std::make_unique<Passes>(decomposition, ranks);
  return std::make_unique<Direct>(decomposition, ranks);
}

}  // namespace ptyle::driver
