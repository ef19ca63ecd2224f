// An export: a table as NDJSON in one snapshot, in a file with a manifest, and in a blob store.
//
// The file is what everything else reads: the upload takes its parts from it while it grows, so the
// network never holds up the snapshot, and memory does not depend on the size of anything.
#pragma once

#include "pg/postgres.hpp"

#include "core/artifact_folder.hpp"
#include "core/artifact_writer.hpp"
#include "core/compression.hpp"
#include "core/json.hpp"
#include "core/manifest.hpp"
#include "jobs/http_metrics.hpp"
#include "pg/extension.hpp"
#include "providers/blob_store.hpp"

#include <memory>
#include <optional>
#include <string>

namespace jobs {

// What to export, and where to.
struct ExportRequest {
  Oid relation = InvalidOid;
  std::string name;                  // in the file's name: dr_export_<name>_…
  std::string id_column;             // '' where there is none
  std::string space_column;          // the namespace; '' where there is none
  std::optional<std::string> space;  // only this one
  core::Compression compression = core::Compression::kNone;
  std::optional<std::string> file_name;
  std::optional<std::string> destination;  // a server of bacmr_blob_store
};

// The attached chunks. Errors as Sources::require().
ExportRequest export_of_chunks(const pg::Extension& extension);
ExportRequest export_of_table(Oid relation);
// "none", "gzip", "zstd"; 22023 for anything else.
core::Compression checked_compression(const std::optional<std::string>& name);

// The folder of this database's artifacts, created where it is missing.
core::ArtifactFolder database_folder();
// Where the folder's files lie in a blob store, with a slash at the end.
std::string object_prefix();

class Export {
 public:
  Export(const ExportRequest& request, const std::string& request_id);
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  // Opens the store of the destination; nothing without one. Before write(), parts are sent while
  // the table is read.
  void open_store();
  // Reads the table under the active snapshot, and publishes file and manifest. Needs an SPI
  // connection. That the store fails does not stop it.
  void write();
  // Sends what is not there yet, and the manifest; waits. Reads no table. After an error it may be
  // called again, and begins anew.
  void upload();

  const core::Manifest& manifest() const { return manifest_; }
  const std::string& file() const { return file_; }
  const core::ArtifactFolder& folder() const { return folder_; }
  std::string path() const { return folder_.path_of(file_); }
  bool uploads() const { return request_.destination.has_value(); }
  // "<server>/<object>", as bacmr_import_chunks() takes it, and where the object lies; '' without a
  // destination.
  std::string remote_source() const;
  std::string url() const;
  // The figures of each step, as JSON.
  const std::string& write_figures() const { return write_figures_; }
  const std::string& upload_figures() const { return upload_figures_; }
  // As ArtifactSource takes it.
  std::string local_source() const;
  // Not in one that file_name names.
  bool in_database_folder() const;
  // nullptr while none is open.
  providers::BlobStore* store() const { return store_.get(); }
  // What the book-keeping says of the export.
  void describe(core::JsonObject& detail) const;

 private:
  void choose_file();
  void describe_server();
  void publish();
  void advance_upload();

  ExportRequest request_;
  std::string request_id_;
  HttpMetrics http_;
  core::ArtifactFolder folder_;
  std::string file_;
  core::Manifest manifest_;
  std::unique_ptr<core::ArtifactWriter> writer_;
  std::unique_ptr<providers::BlobStore> store_;
  std::unique_ptr<providers::Upload> upload_;  // ends before the writer whose file it reads
  std::string write_figures_;
  std::string upload_figures_;
};

}  // namespace jobs
