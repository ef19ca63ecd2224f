#include "core/artifact_reader.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/error.hpp"
#include "core/ndjson.hpp"

namespace core {
namespace {

constexpr std::size_t kPiece = std::size_t{256} << 10;

}  // namespace

ArtifactReader::ArtifactReader(Descriptor file, std::string path, Compression compression,
                               std::uint64_t max_bytes)
    : file_(std::move(file)),
      path_(std::move(path)),
      decompressor_(make_decompressor(compression)),
      max_bytes_(max_bytes) {
  ::posix_fadvise(file_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
}

bool ArtifactReader::next_line(std::string_view& line) {
  for (;;) {
    const std::string_view text = text_.view();
    const std::size_t end = text.find('\n', searched_);
    if (end != std::string_view::npos) {
      line = text.substr(line_start_, end - line_start_);
      line_start_ = searched_ = end + 1;
      ++lines_;
      return true;
    }
    searched_ = text.size();
    if (searched_ - line_start_ > ndjson::kMaxLineBytes) {
      throw Error(sqlstate::kProgramLimitExceeded,
                  "line " + std::to_string(lines_ + 1) + " of \"" + path_ + "\" is longer than " +
                      std::to_string(ndjson::kMaxLineBytes >> 20) + " MB",
                  "That is the limit for one line of an export.");
    }
    if (!fill()) {
      // A last line without a newline is a line all the same.
      line = text_.view().substr(line_start_);
      line_start_ = searched_ = text_.size();
      lines_ += line.empty() ? 0 : 1;
      return !line.empty();
    }
  }
}

// Adds to text_; false when nothing is left.
bool ArtifactReader::fill() {
  if (line_start_ > 0) {
    // What is left is less than a line.
    const std::string_view rest = text_.view().substr(line_start_);
    std::memmove(text_.mutable_data(), rest.data(), rest.size());
    text_.truncate(rest.size());
    searched_ -= line_start_;
    line_start_ = 0;
  }
  while (!ended_) {
    if (unread_.empty() && !file_ended_) {
      input_.clear();
      const ssize_t got = ::read(file_.get(), input_.reserve(kPiece), kPiece);
      if (got < 0) {
        if (errno == EINTR) {
          continue;
        }
        fail_io(errno, "read file", path_);
      }
      input_.commit(static_cast<std::size_t>(got));
      bytes_ += static_cast<std::uint64_t>(got);
      file_ended_ = got == 0;
      unread_ = input_.view();
      hash_.update(unread_);
    }
    const std::size_t made = decompressor_->read(unread_, text_.reserve(kPiece), kPiece);
    text_.commit(made);
    ndjson_bytes_ += made;
    if (ndjson_bytes_ > max_bytes_) {
      throw Error(sqlstate::kProgramLimitExceeded,
                  "\"" + path_ + "\" expands to more than " + std::to_string(max_bytes_) + " bytes",
                  "That is the size that its manifest states.",
                  "The file was altered: take another copy of it.");
    }
    if (made > 0) {
      return true;
    }
    if (file_ended_ && unread_.empty()) {
      decompressor_->finish();
      ended_ = true;
    }
  }
  return false;
}

}  // namespace core
