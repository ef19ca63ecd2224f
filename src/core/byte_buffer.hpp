// Bytes that grow: what rows are encoded into. Unlike std::string it hands out room that is not
// cleared first, and keeps what it has when it is emptied.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>

namespace core {

class ByteBuffer {
 public:
  ByteBuffer() = default;
  ByteBuffer(const ByteBuffer&) = delete;
  ByteBuffer& operator=(const ByteBuffer&) = delete;
  ~ByteBuffer() { std::free(data_); }

  const char* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::string_view view() const { return {data_, size_}; }
  void clear() { size_ = 0; }
  void truncate(std::size_t size) { size_ = size; }

  // Room for `more` bytes at the end; what was written there counts once it is committed.
  char* reserve(std::size_t more) {
    if (capacity_ - size_ < more) {
      grow(more);
    }
    return data_ + size_;
  }
  void commit(std::size_t written) { size_ += written; }

  void append(std::string_view text) {
    if (!text.empty()) {
      std::memcpy(reserve(text.size()), text.data(), text.size());
      size_ += text.size();
    }
  }
  void append(char c) {
    *reserve(1) = c;
    ++size_;
  }
  char* mutable_data() { return data_; }

 private:
  void grow(std::size_t more) {
    const std::size_t wanted = size_ + more;
    std::size_t capacity = capacity_ < 4096 ? 4096 : capacity_ + capacity_ / 2;
    if (capacity < wanted) {
      capacity = wanted;
    }
    void* grown = std::realloc(data_, capacity);
    if (grown == nullptr) {
      throw std::bad_alloc();
    }
    data_ = static_cast<char*>(grown);
    capacity_ = capacity;
  }

  char* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace core
