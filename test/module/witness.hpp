// Counts objects that are alive: what tells a destructor that ran from one that was jumped over.
#pragma once

#include <string>

namespace test {

class Witness {
 public:
  Witness() { ++alive_; }
  Witness(const Witness&) = delete;
  Witness& operator=(const Witness&) = delete;
  ~Witness() {
    --alive_;
    ++destroyed_;
  }

  static int alive() { return alive_; }
  static int destroyed() { return destroyed_; }

 private:
  inline static int alive_ = 0;
  inline static int destroyed_ = 0;
  // Something on the heap too, which a skipped destructor would leak.
  std::string text_ = std::string(200, 'w');
};

}  // namespace test
