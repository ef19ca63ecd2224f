// The values of a series' labels, in the order of its family's label names, packed into one string
// of bytes: each value behind its length. Two series are the same if these bytes are.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace core {

// Builds the bytes in place, without allocating: it stands in the path of every recording.
class LabelValues {
 public:
  static constexpr std::size_t kMaxBytes = 448;

  // False, and nothing added, where the values together would be too long.
  [[nodiscard]] bool add(std::string_view value) noexcept {
    if (size_ + sizeof(std::uint16_t) + value.size() > kMaxBytes) {
      return false;
    }
    const auto length = static_cast<std::uint16_t>(value.size());
    std::memcpy(bytes_ + size_, &length, sizeof length);
    value.copy(bytes_ + size_ + sizeof length, value.size());
    size_ += sizeof length + value.size();
    return true;
  }
  std::string_view bytes() const noexcept { return {bytes_, size_}; }

 private:
  std::size_t size_ = 0;
  char bytes_[kMaxBytes];
};

// The values that such bytes hold; views into them. Fewer than were meant where the bytes are
// damaged.
inline std::vector<std::string_view> unpack_label_values(std::string_view bytes) {
  std::vector<std::string_view> values;
  std::uint16_t length = 0;
  while (bytes.size() >= sizeof length) {
    std::memcpy(&length, bytes.data(), sizeof length);
    bytes.remove_prefix(sizeof length);
    if (length > bytes.size()) {
      break;
    }
    values.push_back(bytes.substr(0, length));
    bytes.remove_prefix(length);
  }
  return values;
}

}  // namespace core
