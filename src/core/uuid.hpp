// A uuid as the 16 bytes that Postgres stores, and its text form.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>

namespace core {

struct Uuid {
  std::uint64_t high = 0;
  std::uint64_t low = 0;

  static Uuid from_bytes(const unsigned char* bytes) noexcept {
    Uuid value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  friend bool operator==(const Uuid&, const Uuid&) = default;
};
static_assert(sizeof(Uuid) == 16);

// Lower-case with hyphens, as uuid_out prints it.
std::string to_string(const Uuid& value);

}  // namespace core
