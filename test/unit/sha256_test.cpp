// core/sha256: the sums that FIPS 180-4's examples give, whichever way the bytes arrive.
#include "core/sha256.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>

#include "core/sigv4.hpp"

namespace {

constexpr const char* kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr const char* kTwoBlocks =
    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
constexpr const char* kMillionTimesA =
    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Sha256, GivesThePublishedSums) {
  EXPECT_EQ(core::sha256_hex(""), core::kEmptySha256);
  EXPECT_EQ(core::sha256_hex("abc"), kAbc);
  EXPECT_EQ(core::sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            kTwoBlocks);
  EXPECT_EQ(core::sha256_hex(std::string(1'000'000, 'a')), kMillionTimesA);
}

TEST(Sha256, DoesNotCareHowTheBytesAreCut) {
  for (const std::size_t piece : {1U, 7U, 63U, 64U, 65U, 4096U, 999'999U}) {
    core::Sha256 sum;
    const std::string bytes(piece, 'a');
    std::size_t left = 1'000'000;
    while (left > 0) {
      const std::size_t length = std::min(piece, left);
      sum.update(bytes.data(), length);
      left -= length;
    }
    EXPECT_EQ(sum.hex(), kMillionTimesA) << piece;
  }
}

TEST(Sha256, CanBeAskedOnTheWay) {
  core::Sha256 sum;
  EXPECT_EQ(sum.hex(), core::kEmptySha256);
  sum.update("a");
  sum.update("");
  sum.update(nullptr, 0);
  EXPECT_EQ(sum.hex(), core::sha256_hex("a"));
  EXPECT_EQ(sum.hex(), core::sha256_hex("a"));
  sum.update("bc");
  EXPECT_EQ(sum.hex(), kAbc);
}

TEST(Sha256, HashesAnyBytes) {
  const std::string bytes("\0\xFF\n", 3);
  EXPECT_EQ(core::sha256_hex(bytes).size(), 64U);
  EXPECT_NE(core::sha256_hex(bytes), core::sha256_hex(std::string("\0\xFF", 2)));
  EXPECT_NE(core::sha256_hex(std::string("a\0b", 3)), core::sha256_hex(std::string("a\0c", 3)));
}

TEST(Sha256, CanBeMovedInTheMiddle) {
  static_assert(std::is_nothrow_move_constructible_v<core::Sha256>);
  static_assert(!std::is_copy_constructible_v<core::Sha256>);
  core::Sha256 first;
  first.update("a");
  core::Sha256 second(std::move(first));
  second.update("b");
  first = core::Sha256();
  first.update("other");
  core::Sha256 third;
  third.update("lost");
  third = std::move(second);
  third.update("c");
  EXPECT_EQ(third.hex(), kAbc);
  EXPECT_EQ(first.hex(), core::sha256_hex("other"));
}

TEST(ToHex, WritesTwoLowerCaseDigitsAByte) {
  static constexpr std::array<unsigned char, 4> kBytes{0x00, 0x0A, 0xF0, 0xFF};
  EXPECT_EQ(core::to_hex(kBytes.data(), kBytes.size()), "000af0ff");
  EXPECT_EQ(core::to_hex(kBytes.data(), 0), "");
}

}  // namespace
