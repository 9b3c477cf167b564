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
      : cut_(cut), ranks_(ranks), mine_(cut.tiles_of_rank(ranks.rank())), messages_(ranks.group()) {
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
      if (peer != ranks_.rank()) messages_.receive(received_[peer], peer, tag);
    }
    for (const auto& [peer, list] : to_) {
      std::vector<at::Tensor> parts;
      for (const Part& one : list) {
        parts.push_back(cut_out(objects[one.local], tile(one.sender).frame, area(one)).flatten());
      }
      at::Tensor packed = at::cat(parts);
      if (peer == ranks_.rank()) {
        received_[peer] = packed;
      } else {
        messages_.send(packed, peer, tag);
      }
    }
    messages_.post();
  }

  void finish_objects(const std::vector<at::Tensor>& objects) override {
    messages_.wait(clock_);
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
    received_.clear();
  }
  Traffic traffic() const override {
    return {messages_.sent(), messages_.bytes_sent(), 0.0, clock_.seconds()};
  }

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
  Messages messages_;
  WaitClock clock_;
  int call_ = 0;
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
// A pass goes from line to line of tiles, in chunks of slices that follow one another: wave w
// brings chunk c to line w - c, so that all lines but the first few have something to do. The
// messages of a wave are posted together; a rank that none of them concerns goes on.
class Passes final : public Exchange {
 public:
  Passes(const Decomposition& cut, const Ranks& ranks)
      : cut_(cut), ranks_(ranks), mine_(cut.tiles_of_rank(ranks.rank())), messages_(ranks.group()) {
    for (std::size_t k = 0; k < mine_.size(); ++k) local_[mine_[k]] = k;
  }

  bool overlaps() const override { return false; }
  void begin_gradients(const std::vector<at::Tensor>&) override {}
  void finish_gradients(const std::vector<at::Tensor>& gradients) override {
    if (mine_.empty()) return;
    for (const bool vertical : {true, false}) {
      for (const bool forward : {true, false}) pass(gradients, vertical, forward);
    }
    ++call_;
  }
  // Every frame was updated from the same sums: its halos are what their owners have.
  void begin_objects(const std::vector<at::Tensor>&) override {}
  void finish_objects(const std::vector<at::Tensor>&) override {}
  Traffic traffic() const override {
    return {messages_.sent(), messages_.bytes_sent(), pack_seconds_, clock_.seconds()};
  }

 private:
  static constexpr std::int64_t kChunks = 4;

  // What goes to a tile from the one before it in a pass.
  struct Step {
    std::int64_t from, to, chunk;
    Rectangle area;
    at::Tensor buffer;  // on its way between ranks; undefined within one
  };

  const Tile& tile(std::int64_t number) const {
    return cut_.tiles[static_cast<std::size_t>(number)];
  }
  std::int64_t owner(std::int64_t number) const {
    return cut_.owners[static_cast<std::size_t>(number)];
  }

  void pass(const std::vector<at::Tensor>& gradients, bool vertical, bool forward) {
    const std::int64_t slices = gradients.front().size(0);
    const std::int64_t chunks = std::max<std::int64_t>(1, std::min(kChunks, slices));
    const std::int64_t lines = vertical ? cut_.grid.rows() : cut_.grid.columns();
    const std::int64_t across = vertical ? cut_.grid.columns() : cut_.grid.rows();
    const auto chunk_of = [&](std::int64_t number, std::int64_t chunk) {
      const std::int64_t begin = slices * chunk / chunks, end = slices * (chunk + 1) / chunks;
      return gradients[local_.at(number)].narrow(0, begin, end - begin);
    };
    // Tile k of a line, lines counted in the pass's direction.
    const auto tile_at = [&](std::int64_t line, std::int64_t k) {
      const std::int64_t along = forward ? line : lines - 1 - line;
      return vertical ? along * cut_.grid.columns() + k : k * cut_.grid.columns() + along;
    };
    std::vector<Step> coming;
    const auto arrive = [&] {
      messages_.wait(clock_);
      for (const Step& step : coming) {
        const at::Tensor arrived =
            step.buffer.defined()
                ? step.buffer
                : cut_out(chunk_of(step.from, step.chunk), tile(step.from).frame, step.area);
        at::Tensor there = cut_out(chunk_of(step.to, step.chunk), tile(step.to).frame, step.area);
        if (forward) {
          there.add_(arrived);
        } else {
          there.copy_(arrived);
        }
      }
      coming.clear();
    };
    for (std::int64_t wave = 1; wave < lines + chunks - 1; ++wave) {
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        const std::int64_t line = wave - chunk;
        if (line < 1 || line >= lines) continue;
        for (std::int64_t k = 0; k < across; ++k) {
          Step step{tile_at(line - 1, k), tile_at(line, k), chunk, {}, {}};
          step.area = intersection(tile(step.from).frame, tile(step.to).frame);
          if (step.area.empty()) continue;
          const bool sends = owner(step.from) == ranks_.rank();
          const bool receives = owner(step.to) == ranks_.rank();
          const std::int64_t number =
              ((call_ * 4 + (vertical ? 2 : 0) + (forward ? 1 : 0)) * cut_.grid.tiles() + step.to) *
                  chunks +
              chunk;
          const int tag = Ranks::kPassTag + static_cast<int>(number & 0x7ffffff);
          if (sends && !receives) {
            const auto begin = std::chrono::steady_clock::now();
            step.buffer = cut_out(chunk_of(step.from, chunk), tile(step.from).frame, step.area)
                              .clone(at::MemoryFormat::Contiguous);
            pack_seconds_ +=
                std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
            messages_.send(step.buffer, owner(step.to), tag);
          } else if (receives) {
            if (!sends) {
              const at::Tensor like = chunk_of(step.to, chunk);
              step.buffer =
                  at::empty({like.size(0), step.area.rows, step.area.columns}, like.options());
              messages_.receive(step.buffer, owner(step.from), tag);
            }
            coming.push_back(step);
          }
        }
      }
      messages_.post();
      arrive();
    }
  }

  const Decomposition& cut_;
  const Ranks& ranks_;
  std::vector<std::int64_t> mine_;
  std::map<std::int64_t, std::size_t> local_;
  Messages messages_;
  WaitClock clock_;
  std::int64_t call_ = 0;
  double pack_seconds_ = 0.0;
};

}  // namespace

std::unique_ptr<Exchange> make_exchange(const Decomposition& cut, const Ranks& ranks) {
  if (cut.exchange.whole_object) return std::make_unique<Allreduce>(ranks);
  if (cut.exchange.copies_voxels && cut.averages) {
    return std::make_unique<AveragedVoxels>(cut, ranks);
  }
  if (cut.exchange.copies_voxels) return std::make_unique<Voxels>(cut, ranks);
  if (cut.exchange.sums_later) return std::make_unique<Passes>(cut, ranks);
  return std::make_unique<Direct>(cut, ranks);
}

std::int64_t exchange_pixels(const Decomposition& cut, std::int64_t rank) {
  if (cut.exchange.whole_object || cut.exchange.sums_later) return 0;
  std::int64_t pixels = 0;
  const auto count = [&](std::int64_t other, const Rectangle& area) {
    if (cut.owners[static_cast<std::size_t>(other)] != rank) pixels += area.pixels();
  };
  for (const std::int64_t tile : cut.tiles_of_rank(rank)) {
    for (const Piece& piece : borrowed_by(cut.grid, tile)) count(piece.owner, piece.area);
    for (const Piece& piece : lent_by(cut.grid, tile)) count(piece.borrower, piece.area);
  }
  return pixels;
}

}  // namespace ptyle::driver
