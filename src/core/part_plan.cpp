#include "core/part_plan.hpp"

#include <algorithm>
#include <string>

#include "core/error.hpp"

namespace core {
namespace {

constexpr unsigned kStep = 1000;

}  // namespace

PartPlan::PartPlan(std::uint64_t base) noexcept
    : base_(std::clamp(base, kSmallestPart, kLargestPart)) {}

std::uint64_t PartPlan::size_of(unsigned number) const noexcept {
  // At most nine doublings of 5 GiB: no overflow.
  return std::min(base_ << ((number - 1) / kStep), kLargestPart);
}

std::uint64_t PartPlan::capacity() const noexcept {
  std::uint64_t sum = 0;
  for (unsigned first = 1; first <= kMaxParts; first += kStep) {
    sum += size_of(first) * kStep;
  }
  return std::min(sum, kLargestObject);
}

std::optional<Part> PartPlan::next(std::uint64_t bytes, bool complete) {
  if (bytes > capacity()) {
    throw Error("54000",
                "an object of " + std::to_string(bytes) + " bytes is too large for a blob store",
                "With parts of " + std::to_string(base_) + " bytes it may have " +
                    std::to_string(capacity()) + ".",
                base_ < 2 * kSmallestPart ? "Raise the server's option part_size."
                                          : "Split what is exported.");
  }
  const std::uint64_t left = bytes > offset_ ? bytes - offset_ : 0;
  std::uint64_t length = size_of(number_);
  if (left < length) {
    if (!complete || left == 0) {
      return std::nullopt;
    }
    length = left;
  }
  const Part part{number_, offset_, length};
  ++number_;
  offset_ += length;
  return part;
}

}  // namespace core
