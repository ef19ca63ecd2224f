#include "core/sha256.hpp"

#include <openssl/evp.h>

#include <array>

#include "core/error.hpp"

namespace core {

namespace {

[[noreturn]] void fail() {
  throw Error(sqlstate::kInternalError, "could not compute a SHA-256 sum",
              "OpenSSL refused the algorithm or had no memory left.");
}

}  // namespace

std::string to_hex(const unsigned char* bytes, std::size_t length) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(2 * length);
  for (std::size_t i = 0; i < length; ++i) {
    out += kDigits[bytes[i] >> 4];
    out += kDigits[bytes[i] & 0x0F];
  }
  return out;
}

std::string sha256_hex(std::string_view bytes) {
  Sha256 sum;
  sum.update(bytes);
  return sum.hex();
}

void Sha256::Release::operator()(evp_md_ctx_st* context) const noexcept {
  EVP_MD_CTX_free(context);
}

Sha256::Context Sha256::make_context() {
  Context context(EVP_MD_CTX_new());
  if (!context) {
    fail();
  }
  return context;
}

Sha256::Sha256() : context_(make_context()) {
  if (EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
    fail();
  }
}

void Sha256::update(const void* data, std::size_t length) {
  if (EVP_DigestUpdate(context_.get(), data, length) != 1) {
    fail();
  }
}

std::string Sha256::hex() const {
  // Finishing ends a context, so a copy is finished.
  const Context copy = make_context();
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int length = 0;
  if (EVP_MD_CTX_copy_ex(copy.get(), context_.get()) != 1 ||
      EVP_DigestFinal_ex(copy.get(), digest.data(), &length) != 1) {
    fail();
  }
  return to_hex(digest.data(), length);
}

}  // namespace core
