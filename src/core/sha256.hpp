// SHA-256 in the hexadecimal form that manifests and S3 signatures use: of a text at once, or of
// a stream piece by piece. OpenSSL does the work, with whatever the processor offers for it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

// OpenSSL's EVP_MD_CTX; its header stays out of those who include this one.
struct evp_md_ctx_st;

namespace core {

// 64 lower-case digits.
std::string sha256_hex(std::string_view bytes);

// Can be moved; the one that was moved from can only be destroyed or assigned to. Throws
// core::Error where the library refuses the algorithm.
class Sha256 {
 public:
  Sha256();
  Sha256(Sha256&&) noexcept = default;
  Sha256& operator=(Sha256&&) noexcept = default;
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  ~Sha256() = default;

  void update(const void* data, std::size_t length);
  void update(std::string_view bytes) { update(bytes.data(), bytes.size()); }

  // The sum of what has come so far; more may follow.
  std::string hex() const;

 private:
  struct Release {
    void operator()(evp_md_ctx_st* context) const noexcept;
  };
  using Context = std::unique_ptr<evp_md_ctx_st, Release>;

  static Context make_context();

  Context context_;
};

// Two lower-case digits a byte.
std::string to_hex(const unsigned char* bytes, std::size_t length);

}  // namespace core
