#include "pg/copy_in.hpp"

#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "pg/entry.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "access/table.h"
#include "commands/copy.h"
#include "commands/copyfrom_internal.h"
#include "nodes/makefuncs.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "tcop/utility.h"
#include "utils/rel.h"
#include "utils/rls.h"
}

namespace pg {
namespace {

// COPY's callback has no argument of its own: the innermost load that is under way. (A trigger of
// the table may start another.)
class Feed {
 public:
  explicit Feed(const NextRow& next_row) : next_row_(next_row), outer_(current_) {
    current_ = this;
  }
  Feed(const Feed&) = delete;
  Feed& operator=(const Feed&) = delete;
  ~Feed() { current_ = outer_; }

  static int read(void* out, int /*at_least*/, int at_most) {
    return from_postgres([&] { return current_->take(static_cast<char*>(out), at_most); });
  }

 private:
  int take(char* out, int at_most) {
    if (given_ == row_.size()) {
      row_.clear();
      given_ = 0;
      if (!next_row_(row_)) {
        return 0;
      }
    }
    const std::size_t length = std::min(row_.size() - given_, static_cast<std::size_t>(at_most));
    std::memcpy(out, row_.data() + given_, length);
    given_ += length;
    return static_cast<int>(length);
  }

  static Feed* current_;
  const NextRow& next_row_;
  Feed* outer_;
  core::ByteBuffer row_;
  std::size_t given_ = 0;
};

Feed* Feed::current_ = nullptr;

void require_insert_access(Oid relation, const std::vector<std::string>& columns) {
  Spi spi;
  const Rows rows = spi.query(
      "SELECT has_schema_privilege(relnamespace, 'USAGE')"
      "   AND (has_table_privilege(c.oid, 'INSERT') OR NOT EXISTS (SELECT FROM unnest($2) n"
      "    WHERE NOT has_column_privilege(c.oid, n, 'INSERT'))), oid::regclass::text"
      " FROM pg_class c WHERE oid = $1",
      {Param::oid(relation), Param::text_array(columns)});
  if (!rows.empty() && !rows.boolean(0, 0)) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      "permission denied for table " + rows.text(0, 1), {},
                      "GRANT INSERT on it (and USAGE on its schema) to the role that imports.");
  }
  // With row_security = off this raises where a policy applies: COPY knows none.
  call([relation] { check_enable_rls(relation, InvalidOid, false); });
}

}  // namespace

std::uint64_t copy_rows(Oid relation, const std::vector<std::string>& columns,
                        const NextRow& next_row, std::uint64_t& line) {
  line = 0;
  require_insert_access(relation, columns);
  const MemoryScope memory("bacmr_ops import");
  const Feed feed(next_row);
  CopyFromState state = nullptr;
  try {
    return call([&] {
      List* names = NIL;
      for (const std::string& column : columns) {
        names = lappend(names, makeString(pstrdup(column.c_str())));
      }
      List* options = list_make1(makeDefElem(
          pstrdup("encoding"), reinterpret_cast<Node*>(makeString(pstrdup("UTF8"))), -1));
      Relation table = table_open(relation, RowExclusiveLock);
      if (!table->rd_islocaltemp) {
        PreventCommandIfReadOnly("bacmr_import()");
      }
      ParseState* parse = make_parsestate(nullptr);
      addRangeTableEntryForRelation(parse, table, RowExclusiveLock, nullptr, false, false);
      state = BeginCopyFrom(parse, table, nullptr, nullptr, false, Feed::read, names, options);
      const std::uint64_t inserted = CopyFrom(state);
      EndCopyFrom(state);
      free_parsestate(parse);
      table_close(table, NoLock);
      return inserted;
    });
  } catch (const Error& e) {
    // COPY's own context tells whether it was at a row; the row's number is in its state, which
    // lives as long as `memory`.
    if (state != nullptr && e.data().context != nullptr &&
        strstr(e.data().context, "COPY ") != nullptr) {
      line = state->cur_lineno;
    }
    throw;
  }
}

}  // namespace pg
