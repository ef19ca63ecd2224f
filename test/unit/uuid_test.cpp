// core::Uuid holds the 16 bytes as Postgres stores them and prints them as uuid_out does.
#include "core/uuid.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>

namespace {

using Bytes = std::array<unsigned char, 16>;

core::Uuid from(const Bytes& bytes) { return core::Uuid::from_bytes(bytes.data()); }

TEST(Uuid, PrintsItsBytesInTheirOrderWithHyphensInLowerCase) {
  const Bytes bytes{0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF,
                    0xFE, 0xDC, 0xBA, 0x98, 0x76, 0x54, 0x32, 0x10};
  EXPECT_EQ(core::to_string(from(bytes)), "01234567-89ab-cdef-fedc-ba9876543210");
}

TEST(Uuid, PrintsTheSmallestAndTheLargest) {
  Bytes bytes{};
  EXPECT_EQ(core::to_string(from(bytes)), "00000000-0000-0000-0000-000000000000");
  EXPECT_EQ(core::to_string(core::Uuid{}), "00000000-0000-0000-0000-000000000000");
  bytes.fill(0xFF);
  EXPECT_EQ(core::to_string(from(bytes)), "ffffffff-ffff-ffff-ffff-ffffffffffff");
}

TEST(Uuid, ReadsBytesAtAnyAddress) {
  // In a tuple a uuid is aligned to one byte.
  const Bytes bytes{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  for (std::size_t offset = 0; offset < 8; ++offset) {
    std::array<unsigned char, 24> buffer{};
    std::copy(bytes.begin(), bytes.end(), buffer.begin() + static_cast<std::ptrdiff_t>(offset));
    EXPECT_EQ(core::Uuid::from_bytes(buffer.data() + offset), from(bytes)) << offset;
  }
}

TEST(Uuid, DiffersWhereAnyByteDiffers) {
  const Bytes bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    Bytes other = bytes;
    other[i] = 1;
    EXPECT_NE(from(bytes), from(other)) << "byte " << i;
    EXPECT_NE(core::to_string(from(bytes)), core::to_string(from(other))) << "byte " << i;
  }
}

}  // namespace
