#include "pg/line_source.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "pg/compat.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "pg/table_tree.hpp"

extern "C" {
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
}

namespace pg {
namespace {

// A batch ends where its text is this long.
constexpr std::size_t kBatchBytes = std::size_t{1} << 20;
// Rows that a cursor fetches at once: they are all in memory.
constexpr long kFetch = 64;

int index_of(const std::vector<LineColumn>& columns, const std::string& name) {
  const auto found = std::ranges::find(columns, name, &LineColumn::name);
  return name.empty() || found == columns.end() ? -1 : static_cast<int>(found - columns.begin());
}

// Values that are printed live for one batch.
class BatchMemory {
 public:
  BatchMemory()
      : context_(call([] {
          return AllocSetContextCreateInternal(CurrentMemoryContext, "bacmr_ops lines",
                                               ALLOCSET_DEFAULT_SIZES);
        })) {}
  BatchMemory(const BatchMemory&) = delete;
  BatchMemory& operator=(const BatchMemory&) = delete;
  ~BatchMemory() { MemoryContextDelete(context_); }
  MemoryContext get() const { return context_; }

 private:
  MemoryContext context_;
};

bool is_full(const LineBatch& batch) {
  return batch.count >= LineBatch::kCapacity || batch.text.size() >= kBatchBytes;
}

void clear(LineBatch& batch) {
  batch.count = 0;
  batch.text.clear();
  batch.json_nulls.clear();
}

void encode_slot(RowEncoder& encoder, TupleTableSlot* slot, LineBatch& batch) {
  const int row = batch.count;
  encoder.encode(slot, batch.text, batch.marks[row], static_cast<std::uint32_t>(row),
                 batch.json_nulls);
  ++batch.count;
}

class TableLines : public LineSource, private Scope {
 public:
  TableLines(std::vector<Oid> tables, const std::vector<LineColumn>& columns, int id, int space)
      : tables_(std::move(tables)), columns_(columns), id_(id), space_(space) {}
  ~TableLines() override {
    if (!unwinding() && relation_ != nullptr) {
      cleanup([this] { close(); });
    }
  }

  bool next(LineBatch& batch) override {
    clear(batch);
    while (batch.count == 0) {
      if (relation_ == nullptr && !open_next()) {
        return false;
      }
      call([&] {
        CHECK_FOR_INTERRUPTS();
        MemoryContextReset(memory_.get());
        const MemoryContext outer = MemoryContextSwitchTo(memory_.get());
        while (!is_full(batch)) {
          if (!table_scan_getnextslot(scan_, ForwardScanDirection, slot_)) {
            close();
            break;
          }
          encode_slot(*encoder_, slot_, batch);
        }
        MemoryContextSwitchTo(outer);
      });
    }
    return true;
  }
  const char* method() const override { return "scan"; }

 private:
  bool open_next() {
    if (next_ == tables_.size()) {
      return false;
    }
    const Oid table = tables_[next_++];
    std::vector<JsonColumn> columns;
    for (const LineColumn& column : columns_) {
      const AttrNumber number = call([&] { return get_attnum(table, column.name.c_str()); });
      if (number <= 0) {
        throw core::Error("42703", "the column \"" + column.name + "\" is gone", {},
                          "The table was altered meanwhile: export it again.");
      }
      columns.push_back({column.name, number});
    }
    call([&] {
      relation_ = table_open(table, AccessShareLock);
      slot_ = table_slot_create(relation_, nullptr);
      // Not a synchronised scan, which may begin anywhere: two exports of the same rows are the
      // same.
      scan_ = table_beginscan_strat(relation_, GetActiveSnapshot(), 0, nullptr, true, false);
    });
    encoder_.emplace(RelationGetDescr(relation_), columns, id_, space_);
    return true;
  }
  void close() {
    table_endscan(scan_);
    ExecDropSingleTupleTableSlot(slot_);
    table_close(relation_, NoLock);
    relation_ = nullptr;
  }

  std::vector<Oid> tables_;
  std::vector<LineColumn> columns_;
  int id_;
  int space_;
  BatchMemory memory_;
  std::size_t next_ = 0;
  Relation relation_ = nullptr;
  TableScanDesc scan_ = nullptr;
  TupleTableSlot* slot_ = nullptr;
  std::optional<RowEncoder> encoder_;
};

class CursorLines : public LineSource, private Scope {
 public:
  CursorLines(const std::string& sql, const std::optional<std::string>& value,
              const std::vector<LineColumn>& columns, int id, int space) {
    const Param param = Param::text(value);
    call([&] {
      Oid type = param.type;
      Datum datum = param.value;
      portal_ = SPI_cursor_open_with_args(nullptr, sql.c_str(), value ? 1 : 0, &type, &datum,
                                          nullptr, true, CURSOR_OPT_NO_SCROLL);
      slot_ = MakeSingleTupleTableSlot(portal_->tupDesc, &TTSOpsHeapTuple);
    });
    std::vector<JsonColumn> numbered;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      numbered.push_back({columns[i].name, static_cast<AttrNumber>(i + 1)});
    }
    encoder_.emplace(portal_->tupDesc, numbered, id, space);
  }
  ~CursorLines() override {
    if (!unwinding()) {
      cleanup([this] {
        ExecDropSingleTupleTableSlot(slot_);
        SPI_cursor_close(portal_);
      });
    }
  }

  bool next(LineBatch& batch) override {
    clear(batch);
    call([&] {
      MemoryContextReset(memory_.get());
      while (!is_full(batch) && LineBatch::kCapacity - batch.count >= kFetch) {
        CHECK_FOR_INTERRUPTS();
        SPI_cursor_fetch(portal_, true, kFetch);
        SPITupleTable* fetched = SPI_tuptable;
        const std::uint64_t rows = SPI_processed;
        const MemoryContext outer = MemoryContextSwitchTo(memory_.get());
        for (std::uint64_t i = 0; i < rows; ++i) {
          ExecStoreHeapTuple(fetched->vals[i], slot_, false);
          encode_slot(*encoder_, slot_, batch);
        }
        ExecClearTuple(slot_);
        MemoryContextSwitchTo(outer);
        SPI_freetuptable(fetched);
        if (rows == 0) {
          break;
        }
      }
    });
    return batch.count > 0;
  }
  const char* method() const override { return "cursor"; }

 private:
  BatchMemory memory_;
  Portal portal_ = nullptr;
  TupleTableSlot* slot_ = nullptr;
  std::optional<RowEncoder> encoder_;
};

void require_read_access(Oid relation) {
  Spi spi;
  const Rows rows = spi.query(
      "SELECT has_schema_privilege(relnamespace, 'USAGE')"
      "   AND (has_table_privilege(oid, 'SELECT') OR NOT EXISTS (SELECT FROM pg_attribute a"
      "    WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped"
      "    AND NOT has_column_privilege(c.oid, attnum, 'SELECT'))), oid::regclass::text"
      " FROM pg_class c WHERE oid = $1",
      {Param::oid(relation)});
  if (!rows.empty() && !rows.boolean(0, 0)) {
    throw core::Error(core::sqlstate::kInsufficientPrivilege,
                      "permission denied for table " + rows.text(0, 1), {},
                      "GRANT SELECT on it (and USAGE on its schema) to the role that exports.");
  }
  // With row_security = off this raises where a policy would hide rows from the caller.
  call([relation] { check_enable_rls(relation, InvalidOid, false); });
}

// The executor computes what is not stored.
bool has_virtual_columns(Oid table, const std::vector<LineColumn>& columns) {
  return std::ranges::any_of(columns, [&](const LineColumn& column) {
    return call([&] { return is_virtual_column(table, get_attnum(table, column.name.c_str())); });
  });
}

std::string quoted_name(Oid relation) {
  return call([&] {
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
                                      get_rel_name(relation));
  });
}

}  // namespace

std::vector<LineColumn> columns_of(Oid relation) {
  Spi spi;
  const Rows rows = spi.query(
      "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
      " WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
      {Param::oid(relation)});
  std::vector<LineColumn> columns;
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    columns.push_back({rows.text(i, 0), rows.text(i, 1)});
  }
  return columns;
}

std::unique_ptr<LineSource> read_lines(Oid relation, const std::vector<LineColumn>& columns,
                                       const std::string& id, const std::string& space,
                                       const std::optional<std::string>& value) {
  require_read_access(relation);
  const int id_index = index_of(columns, id);
  const int space_index = index_of(columns, space);
  const std::optional<std::vector<Oid>> tables = plain_tables(relation);
  if (tables && !value && std::ranges::none_of(*tables, [&](Oid table) {
        return has_virtual_columns(table, columns);
      })) {
    return std::make_unique<TableLines>(*tables, columns, id_index, space_index);
  }
  std::string list;
  for (const LineColumn& column : columns) {
    list.append(list.empty() ? "" : ", ").append(quote_identifier(column.name));
  }
  std::string sql = "SELECT " + list + " FROM " + quoted_name(relation);
  if (value) {
    sql += " WHERE " + quote_identifier(space) + " = $1";
  }
  return std::make_unique<CursorLines>(sql, value, columns, id_index, space_index);
}

}  // namespace pg
