// The folder that holds one database's artifacts. It is opened once, and everything in it is
// reached through that descriptor and without following symbolic links, so no name leads elsewhere.
//
// An artifact on its way has a hidden name, ".<name>.<pid>.tmp", and its writer holds a lock on it
// (flock). A hidden name without a lock is what a process that died has left.
#pragma once

#include "core/file.hpp"

#include <string>
#include <vector>

namespace core {

// The name of a database (or another text) as the name of a folder: what a file system could take
// for more than a name is written as %XX.
std::string folder_name(const std::string& text);

// A name that leaves room for a prefix, a time and a suffix: what is too long is cut, and told
// apart by a part of its SHA-256.
std::string short_name(const std::string& name);

// Whether `name` is a plain, visible file name: no '/', no leading dot, nothing that a terminal
// would act upon, at most 200 bytes, and not the name of a manifest.
bool is_plain_file_name(const std::string& name);

class ArtifactFolder {
 public:
  // `root` is created where it is missing (mode 0700, parents too), and `name` inside it.
  ArtifactFolder(const std::string& root, const std::string& name);
  // Any directory that exists.
  explicit ArtifactFolder(const std::string& path);
  // One that is open already; `path` is for the texts of errors.
  ArtifactFolder(std::string path, Descriptor fd);

  const std::string& path() const { return path_; }
  std::string path_of(const std::string& name) const { return path_ + "/" + name; }
  int fd() const { return fd_.get(); }

  bool exists(const std::string& name) const;
  // For reading; a regular file only. An error where there is none.
  Descriptor open(const std::string& name) const;
  void remove(const std::string& name) const;  // one that is not there is no error
  void sync() const;
  // Visible names, sorted.
  std::vector<std::string> list() const;

  // Removes what died before it was complete: hidden files that nobody holds, and the file that
  // such a one had been published as where its manifest is still missing. Returns how many.
  int sweep() const;

 private:
  std::vector<std::string> all_names() const;

  std::string path_;
  Descriptor fd_;
};

}  // namespace core
