// A c10d backend with groups, as NCCL has them: it keeps what was posted, matches the messages of
// two ranks by their order alone, and takes memory as a device does, at any time between the post
// and the wait. Gloo carries the messages.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace ptyle::tests {

struct RecordedMessage {
  bool sends = false;
  int peer = 0;  // kEverybody: a sum or a copy that all ranks enter
  std::int64_t bytes = 0;
};
constexpr int kEverybody = -1;
using RecordedGroup = std::vector<RecordedMessage>;

// What a rank posted, and what NCCL would not have borne.
struct Record {
  std::vector<RecordedGroup> groups;
  std::vector<std::string> faults;
};

class RecordingBackend : public c10d::Backend {
 public:
  RecordingBackend(c10::intrusive_ptr<c10d::Backend> gloo, Record& record)
      : c10d::Backend(gloo->getRank(), gloo->getSize()), gloo_(std::move(gloo)), record_(record) {}

  const std::string getBackendName() const override { return "recording"; }
  bool supportsCoalescing() const override { return true; }

  void startCoalescing() override {
    if (open_) fault("a group within a group");
    open_ = true;
    record_.groups.emplace_back();
  }
  c10::intrusive_ptr<c10d::Work> endCoalescing() override {
    open_ = false;
    return c10::make_intrusive<GroupWork>(*this, std::exchange(posted_, {}));
  }
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& tensors, int to, int) override {
    post(tensors, to, true);
    return {};
  }
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& tensors, int from, int) override {
    post(tensors, from, false);
    return {};
  }

  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override {
    meet(tensors);
    return gloo_->allreduce(tensors, options);
  }
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& options) override {
    meet(tensors);
    return gloo_->broadcast(tensors, options);
  }
  // How ranks compare their calls before the first of a kind: over the CPU's backend, beside NCCL.
  c10::intrusive_ptr<c10d::Work> allgather(std::vector<std::vector<at::Tensor>>& all,
                                           std::vector<at::Tensor>& mine,
                                           const c10d::AllgatherOptions& options) override {
    return gloo_->allgather(all, mine, options);
  }
  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions& options) override {
    return gloo_->barrier(options);
  }

 private:
  struct Posted {
    bool sends;
    c10::intrusive_ptr<c10d::Work> work;
    at::Tensor carried;  // Gloo's own copy
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    void* memory;
  };

  class GroupWork final : public c10d::Work {
   public:
    GroupWork(RecordingBackend& backend, std::vector<Posted> posted)
        : backend_(backend), posted_(std::move(posted)) {}
    bool wait(std::chrono::milliseconds timeout) override {
      for (Posted& one : posted_) {
        one.work->wait(timeout);
        const auto storage = one.storage.lock();
        if (!storage) {
          backend_.fault("memory that was freed before the wait");
        } else if (one.sends) {
          if (std::memcmp(one.memory, one.carried.const_data_ptr(), one.carried.nbytes()) != 0) {
            backend_.fault("a message that was written to before the wait");
          }
        } else {
          std::memcpy(one.memory, one.carried.const_data_ptr(), one.carried.nbytes());
        }
      }
      posted_.clear();
      return true;
    }

   private:
    RecordingBackend& backend_;
    std::vector<Posted> posted_;
  };

  void meet(const std::vector<at::Tensor>& tensors) {
    if (open_) fault("a sum within a group");
    record_.groups.push_back({{true, kEverybody, static_cast<std::int64_t>(tensors[0].nbytes())}});
  }

  void fault(const std::string& what) { record_.faults.push_back(what); }

  void post(std::vector<at::Tensor>& tensors, int peer, bool sends) {
    if (!open_) fault("a message outside a group");
    if (tensors.size() != 1) fault("not one tensor a message");
    at::Tensor& tensor = tensors[0];
    if (tensor.is_complex()) fault("a complex tensor");
    if (!tensor.is_contiguous()) fault("a tensor with gaps");
    if (tensor.numel() == 0) fault("an empty message");
    record_.groups.back().push_back({sends, peer, static_cast<std::int64_t>(tensor.nbytes())});
    // The n-th message to a peer is the n-th that it receives from here, whatever its tag.
    int& number = numbers_[{peer, sends}];
    Posted one{sends, {}, tensor.clone(), tensor.storage().getWeakStorageImpl(), tensor.data_ptr()};
    std::vector<at::Tensor> carried{one.carried};
    one.work = sends ? gloo_->send(carried, peer, number) : gloo_->recv(carried, peer, number);
    ++number;
    posted_.push_back(std::move(one));
  }

  c10::intrusive_ptr<c10d::Backend> gloo_;
  Record& record_;
  bool open_ = false;
  std::vector<Posted> posted_;
  std::map<std::pair<int, bool>, int> numbers_;
};

// Plays all ranks' groups as NCCL does: a rank's groups run one after the other, and a group is
// over when the peers have reached the matching message of each of its messages. "" or what is
// wrong.
inline std::string play(const std::vector<Record>& ranks) {
  struct Place {
    std::size_t group = 0;
    std::int64_t bytes = 0;
  };
  // matches[{from, to}][n]: the n-th message, as its sender and as its receiver posted it
  std::map<std::pair<int, int>, std::vector<Place>> sent, received;
  std::vector<std::vector<Place>> meetings(ranks.size());  // of all ranks
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    for (const std::string& fault : ranks[r].faults) {
      return "rank " + std::to_string(r) + ": " + fault;
    }
    for (std::size_t g = 0; g < ranks[r].groups.size(); ++g) {
      for (const RecordedMessage& message : ranks[r].groups[g]) {
        const auto here = static_cast<int>(r);
        if (message.peer == kEverybody) {
          meetings[r].push_back({g, message.bytes});
        } else if (message.sends) {
          sent[{here, message.peer}].push_back({g, message.bytes});
        } else {
          received[{message.peer, here}].push_back({g, message.bytes});
        }
      }
    }
  }
  // For every rank and group: what groups of others it must meet.
  std::vector<std::vector<std::vector<std::pair<std::size_t, std::size_t>>>> meets(ranks.size());
  for (std::size_t r = 0; r < ranks.size(); ++r) meets[r].resize(ranks[r].groups.size());
  for (const auto& [pair, messages] : sent) {
    const auto& other = received[pair];
    const std::string name =
        "from rank " + std::to_string(pair.first) + " to " + std::to_string(pair.second);
    if (messages.size() != other.size()) return "messages without a match " + name;
    for (std::size_t n = 0; n < messages.size(); ++n) {
      if (messages[n].bytes != other[n].bytes) return "messages of different sizes " + name;
      const auto from = static_cast<std::size_t>(pair.first);
      const auto to = static_cast<std::size_t>(pair.second);
      meets[from][messages[n].group].emplace_back(to, other[n].group);
      meets[to][other[n].group].emplace_back(from, messages[n].group);
    }
  }
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (meetings[r].size() != meetings[0].size()) return "a sum that not all ranks enter";
    for (std::size_t n = 0; n < meetings[r].size(); ++n) {
      if (meetings[r][n].bytes != meetings[0][n].bytes) return "a sum of different sizes";
      for (std::size_t other = 0; other < ranks.size(); ++other) {
        if (other != r)
          meets[r][meetings[r][n].group].emplace_back(other, meetings[other][n].group);
      }
    }
  }
  for (const auto& [pair, messages] : received) {
    if (sent[pair].size() != messages.size()) return "a receive that nobody sends";
  }
  std::vector<std::size_t> at(ranks.size(), 0);  // the group that a rank is in
  while (true) {
    bool moved = false, over = true;
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      if (at[r] == ranks[r].groups.size()) continue;
      over = false;
      bool met = true;
      for (const auto& [peer, group] : meets[r][at[r]]) met = met && at[peer] >= group;
      if (met) {
        ++at[r];
        moved = true;
      }
    }
    if (over) return "";
    if (!moved) return "all ranks wait for one another";
  }
}

}  // namespace ptyle::tests
