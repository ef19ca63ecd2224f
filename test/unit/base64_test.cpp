// core/base64: the RFC's vectors, every length, and everything that is not base64.
#include "core/base64.hpp"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <optional>
#include <random>
#include <string>
#include <string_view>

namespace {

std::optional<std::string> decode(std::string_view text) {
  const auto size = core::base64_decoded_size(text);
  if (!size) {
    return std::nullopt;
  }
  // Of its own size, so that a sanitizer sees a byte too many.
  std::string out(*size, '\0');
  if (!core::base64_decode(text, reinterpret_cast<unsigned char*>(out.data()))) {
    return std::nullopt;
  }
  return out;
}

std::string encode(const std::string& bytes) {
  std::string out(bytes.size() / 3 * 4 + 5, '\0');
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                     reinterpret_cast<const unsigned char*>(bytes.data()),
                                     static_cast<int>(bytes.size()));
  out.resize(static_cast<std::size_t>(length));
  return out;
}

TEST(Base64, VectorsOfTheRfc) {
  EXPECT_EQ(decode(""), "");
  EXPECT_EQ(decode("Zg=="), "f");
  EXPECT_EQ(decode("Zm8="), "fo");
  EXPECT_EQ(decode("Zm9v"), "foo");
  EXPECT_EQ(decode("Zm9vYg=="), "foob");
  EXPECT_EQ(decode("Zm9vYmE="), "fooba");
  EXPECT_EQ(decode("Zm9vYmFy"), "foobar");
  EXPECT_EQ(decode("+/+/"), "\xfb\xff\xbf");
}

TEST(Base64, EveryLength) {
  std::mt19937 random(1);
  for (std::size_t length = 0; length < 300; ++length) {
    std::string bytes(length, '\0');
    for (char& byte : bytes) {
      byte = static_cast<char>(random());
    }
    ASSERT_EQ(decode(encode(bytes)), bytes);
  }
}

TEST(Base64, WhatIsNone) {
  for (const std::string_view text :
       {"Z",    "Zg",    "Zg=",  "Zm9",     "=",     "==",       "===",
        "====", "A===",  "Zg=a", "Z=g=",    "Zm9v=", "Zm9v====", "Zg==Zg==",
        "Zm 9", "Zm9\n", "-_-_", "Zm9\xff", "Zh==",  "Zm9=",     "Zm8=\n"}) {
    EXPECT_EQ(decode(text), std::nullopt) << text;
  }
  EXPECT_EQ(decode(std::string_view("Zm9\0", 4)), std::nullopt);
}

}  // namespace
