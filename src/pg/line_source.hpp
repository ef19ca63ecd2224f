// The rows of a relation or of a query as lines of NDJSON, a batch at a time, under the active
// snapshot. A plain table is read through its access method, without the executor; anything else by
// a cursor.
#pragma once

#include "core/byte_buffer.hpp"
#include "pg/row_json.hpp"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pg {

struct LineBatch {
  static constexpr int kCapacity = 1024;
  int count = 0;
  core::ByteBuffer text;
  LineMark marks[kCapacity];
  // Pairs of four-byte numbers: the column, and the line's index in the batch.
  core::ByteBuffer json_nulls;
};

struct LineColumn {
  std::string name;
  std::string type;  // as format_type() prints it
};

class LineSource {
 public:
  LineSource() = default;
  LineSource(const LineSource&) = delete;
  LineSource& operator=(const LineSource&) = delete;
  virtual ~LineSource() = default;

  // Fills the batch; false when no row is left. Notices cancels.
  virtual bool next(LineBatch& batch) = 0;
  // "scan" or "cursor".
  virtual const char* method() const = 0;
};

// The columns of a relation, in their order. Checks nothing.
std::vector<LineColumn> columns_of(Oid relation);

// `id` and `space`: names of the columns whose places in a line are wanted, '' for none. Where
// `value` is given, only rows whose column `space` equals it. Needs an SPI connection; checks the
// caller's rights to read, and row-level security.
std::unique_ptr<LineSource> read_lines(Oid relation, const std::vector<LineColumn>& columns,
                                       const std::string& id, const std::string& space,
                                       const std::optional<std::string>& value);

}  // namespace pg
