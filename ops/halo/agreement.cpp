#include "ops/halo/agreement.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

namespace ptyle {
namespace {

// The words of the message that every rank sends.
enum Word : std::size_t {
  kAdds,
  kRowCuts,  // the lists by their length and their hash
  kColumnCuts = kRowCuts + 2,
  kOwners = kColumnCuts + 2,
  kHaloRows = kOwners + 2,
  kHaloColumns,
  kHasTensors,  // without, the rest says nothing
  kSlices,
  kType,
  kDevice,
  kRecorded,
  kWords
};
using Words = std::array<std::int64_t, kWords>;

std::int64_t hash_of(at::IntArrayRef numbers) {  // FNV-1a, the same in every process
  std::uint64_t hash = 14695981039346656037u;
  for (const std::int64_t number : numbers) {
    hash = (hash ^ static_cast<std::uint64_t>(number)) * 1099511628211u;
  }
  return static_cast<std::int64_t>(hash);
}

Words words_of(const HaloCall& call) {
  Words words{};
  words[kAdds] = std::strcmp(call.name, "halo_add") == 0 ? 1 : 0;
  for (const auto& [at, list] :
       {std::pair(kRowCuts, call.row_cuts), std::pair(kColumnCuts, call.column_cuts),
        std::pair(kOwners, call.owners)}) {
    words[at] = static_cast<std::int64_t>(list.size());
    words[at + 1] = hash_of(list);
  }
  words[kHaloRows] = call.halo[0];
  words[kHaloColumns] = call.halo[1];
  if (!call.tensors.empty()) {
    const at::Tensor& first = call.tensors.front();
    words[kHasTensors] = 1;
    words[kSlices] = first.size(0);
    words[kType] = static_cast<std::int64_t>(first.scalar_type());
    words[kDevice] = static_cast<std::int64_t>(first.device().type());
    words[kRecorded] = call.recorded ? 1 : 0;
  }
  return words;
}

// Everybody's numbers, by rank.
std::vector<at::Tensor> gather(const char* name, at::IntArrayRef numbers,
                               const c10::intrusive_ptr<c10d::ProcessGroup>& group) {
  const auto count = static_cast<std::int64_t>(numbers.size());
  at::Tensor here = at::empty({count}, at::kLong);
  std::copy(numbers.begin(), numbers.end(), here.data_ptr<std::int64_t>());
  // A group of GPUs alone has no backend for the CPU.
  const std::vector<c10::Device> devices = group->getDeviceTypes();
  const bool has_cpu = std::any_of(devices.begin(), devices.end(),
                                   [](const c10::Device& device) { return device.is_cpu(); });
  const c10::DeviceType type = has_cpu || devices.empty() ? at::kCPU : devices.front().type();
  std::vector<at::Tensor> mine{here.to(type)};
  std::vector<std::vector<at::Tensor>> all(1);
  for (int rank = 0; rank < group->getSize(); ++rank) all[0].push_back(at::empty_like(mine[0]));
  try {
    group->getBackend(type)->allgather(all, mine)->wait();
  } catch (const std::exception& error) {
    C10_THROW_ERROR(
        DistBackendError,
        std::string("ptyle::") + name + ": the ranks cannot compare their calls: " + error.what());
  }
  for (at::Tensor& one : all[0]) one = one.cpu();
  return all[0];
}

class Comparison {
 public:
  Comparison(const HaloCall& call, const c10::intrusive_ptr<c10d::ProcessGroup>& group)
      : call_(call), group_(group) {
    for (const at::Tensor& one : gather(call.name, words_of(call), group)) {
      Words& words = words_.emplace_back();
      std::copy_n(one.const_data_ptr<std::int64_t>(), kWords, words.begin());
    }
  }

  void check() const {
    check_value("the call", kAdds, 1, false,
                [](const Words& w) { return w[kAdds] != 0 ? "halo_add" : "halo_insert"; });
    check_list("row_cuts", kRowCuts, call_.row_cuts);
    check_list("column_cuts", kColumnCuts, call_.column_cuts);
    check_value("halo", kHaloRows, 2, false, [](const Words& w) {
      return c10::str("(", w[kHaloRows], ", ", w[kHaloColumns], ")");
    });
    check_list("owners", kOwners, call_.owners);
    const std::string tensors = call_.argument;
    check_value("the number of slices of " + tensors, kSlices, 1, true,
                [](const Words& w) { return std::to_string(w[kSlices]); });
    check_value("the type of " + tensors, kType, 1, true, [](const Words& w) {
      return c10::toString(static_cast<at::ScalarType>(w[kType]));
    });
    check_value("the kind of device of " + tensors, kDevice, 1, true, [](const Words& w) {
      return c10::DeviceTypeName(static_cast<c10::DeviceType>(w[kDevice]), true);
    });
    check_value("requires_grad of " + tensors, kRecorded, 1, true,
                [](const Words& w) { return w[kRecorded] != 0 ? "True" : "False"; });
  }

 private:
  // A rank whose words [at, at + count) are not those of the first rank, and that one; equal ranks
  // where there is none.
  std::pair<std::size_t, std::size_t> unlike(std::size_t at, std::size_t count,
                                             bool of_tensors) const {
    const auto counts = [&](std::size_t rank) {
      return !of_tensors || words_[rank][kHasTensors] != 0;
    };
    std::size_t first = 0;
    while (first + 1 < words_.size() && !counts(first)) ++first;
    for (std::size_t rank = first + 1; rank < words_.size(); ++rank) {
      const auto begin = words_[rank].begin() + static_cast<std::ptrdiff_t>(at);
      if (counts(rank) && !std::equal(begin, begin + static_cast<std::ptrdiff_t>(count),
                                      words_[first].begin() + static_cast<std::ptrdiff_t>(at))) {
        return {first, rank};
      }
    }
    return {first, first};
  }

  template <typename Left, typename Right>
  [[noreturn]] void fail(const std::string& what, std::pair<std::size_t, std::size_t> ranks,
                         const Left& left, const Right& right) const {
    TORCH_CHECK_VALUE(false, "ptyle::", call_.name, ": ", what,
                      " must be the same on all ranks, got ", left, " on rank ", ranks.first,
                      " and ", right, " on rank ", ranks.second);
  }

  template <typename InWords>
  void check_value(const std::string& what, std::size_t at, std::size_t count, bool of_tensors,
                   const InWords& in_words) const {
    const auto ranks = unlike(at, count, of_tensors);
    if (ranks.first == ranks.second) return;
    fail(what, ranks, in_words(words_[ranks.first]), in_words(words_[ranks.second]));
  }

  // Where lists differ all ranks know it, and send theirs.
  void check_list(const char* what, std::size_t at, at::IntArrayRef mine) const {
    const auto ranks = unlike(at, 2, false);
    if (ranks.first == ranks.second) return;
    std::int64_t longest = 0;
    for (const Words& words : words_) longest = std::max(longest, words[at]);
    std::vector<std::int64_t> padded = mine.vec();
    padded.resize(static_cast<std::size_t>(longest));
    const std::vector<at::Tensor> all = gather(call_.name, padded, group_);
    const auto list = [&](std::size_t rank) {
      return at::IntArrayRef(all[rank].const_data_ptr<std::int64_t>(),
                             static_cast<std::size_t>(words_[rank][at]));
    };
    fail(what, ranks, list(ranks.first), list(ranks.second));
  }

  const HaloCall& call_;
  const c10::intrusive_ptr<c10d::ProcessGroup>& group_;
  std::vector<Words> words_;
};

}  // namespace

void check_agreement(const HaloCall& call, const c10::intrusive_ptr<c10d::ProcessGroup>& group) {
  if (!group || group->getSize() == 1) return;
  const std::vector<c10::Device> devices = group->getDeviceTypes();
  const bool on_cpu = std::any_of(devices.begin(), devices.end(),
                                  [](const c10::Device& device) { return device.is_cpu(); });
  if (!on_cpu) return;
  Comparison(call, group).check();
}

}  // namespace ptyle
