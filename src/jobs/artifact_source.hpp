// An export that is to be read: a file in the database's folder, a path (for those who may read the
// server's files), or an object of a blob store, which is fetched into a spool file first.
#pragma once

#include "pg/postgres.hpp"

#include "core/artifact_folder.hpp"
#include "core/artifact_reader.hpp"
#include "core/artifact_writer.hpp"
#include "core/manifest.hpp"
#include "providers/blob_store.hpp"

#include <memory>
#include <optional>
#include <string>

namespace jobs {

// The text of a manifest, as far as parse_manifest() needs it to refuse one that is too long.
std::string read_manifest(const core::ArtifactFolder& folder, const std::string& name);
std::string read_manifest(providers::BlobStore& store, const std::string& name);

class ArtifactSource {
 public:
  // Finds the source and checks its manifest. Fetches an object, whose bytes are counted against
  // the manifest while they arrive.
  ArtifactSource(const std::string& source, const std::string& request_id);
  ArtifactSource(const ArtifactSource&) = delete;
  ArtifactSource& operator=(const ArtifactSource&) = delete;

  const core::Manifest& manifest() const { return manifest_; }
  // As it was given.
  const std::string& name() const { return source_; }

  // From the start; as often as wanted.
  core::ArtifactReader read() const;

  // What does not agree with the manifest, or nothing; reads all of it, and checks that each line
  // is a JSON object. Notices cancels.
  std::optional<std::string> find_problem() const;
  // The same as an error (22P04).
  void require_sound() const;

  // What `reader`, at its end, has read differs from the manifest in; or nothing.
  std::optional<std::string> difference(const core::ArtifactReader& reader) const;

 private:
  void open_file(const std::string& path);
  void fetch(const std::string& server, const std::string& object, const std::string& request_id);

  std::string source_;
  std::string path_;  // for the texts of errors
  core::Manifest manifest_;
  std::unique_ptr<core::ArtifactFolder> folder_;
  std::unique_ptr<core::ArtifactWriter> spool_;
  core::Descriptor file_;
};

}  // namespace jobs
