// How an object is cut into the parts of a multipart upload while its file still grows, and its
// final size is not known.
//
// The first thousand parts have the base size, each further thousand twice the size of those
// before: small objects have small parts, stores that want all parts equal get them up to a
// thousand, and ten thousand parts still reach the largest object there is.
#pragma once

#include <cstdint>
#include <optional>

namespace core {

struct Part {
  unsigned number = 1;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

class PartPlan {
 public:
  static constexpr std::uint64_t kSmallestPart = std::uint64_t{5} << 20;
  static constexpr std::uint64_t kLargestPart = std::uint64_t{5} << 30;
  static constexpr std::uint64_t kLargestObject = std::uint64_t{5} << 40;
  static constexpr unsigned kMaxParts = 10'000;

  // `base` is brought into the range that stores accept.
  explicit PartPlan(std::uint64_t base) noexcept;

  // The next part, where the file's first `bytes` bytes are final: a whole one, or, where the file
  // is `complete` with them, what is left. Nothing where there is none; throws 54000 where the
  // object becomes larger than a store can hold.
  std::optional<Part> next(std::uint64_t bytes, bool complete);

  std::uint64_t base() const noexcept { return base_; }
  unsigned count() const noexcept { return number_ - 1; }  // parts so far
  std::uint64_t size_of(unsigned number) const noexcept;
  // The largest object with this base size.
  std::uint64_t capacity() const noexcept;

 private:
  std::uint64_t base_;
  unsigned number_ = 1;
  std::uint64_t offset_ = 0;
};

}  // namespace core
