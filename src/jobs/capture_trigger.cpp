// bacmr_capture_change(): the trigger on the chunks. It must never make the application's statement
// fail for a reason of ours, and says too much rather than too little.
#include "pg/postgres.hpp"

#include <optional>
#include <string>

#include "core/error.hpp"
#include "pg/entry.hpp"
#include "pg/extension.hpp"
#include "pg/guard.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "commands/trigger.h"
#include "executor/spi.h"
}

namespace jobs {
namespace {

bool has_columns(const TriggerData& data) {
  return pg::call([&data] {
    return SPI_fnumber(data.tg_relation->rd_att, data.tg_trigger->tgargs[0]) > 0 &&
           SPI_fnumber(data.tg_relation->rd_att, data.tg_trigger->tgargs[1]) > 0;
  });
}

// What the trigger's two arguments name.
std::optional<std::string> value_of(const TriggerData& data, HeapTuple tuple, int argument) {
  TupleDesc shape = data.tg_relation->rd_att;
  const char* name = data.tg_trigger->tgargs[argument];
  const char* value = pg::call([&]() -> const char* {
    const int number = SPI_fnumber(shape, name);
    return number > 0 ? SPI_getvalue(tuple, shape, number) : nullptr;
  });
  return value != nullptr ? std::optional<std::string>(value) : std::nullopt;
}

struct Place {
  std::optional<std::string> space;
  std::optional<std::string> id;
  bool operator==(const Place&) const = default;
};

Place place_of(const TriggerData& data, HeapTuple tuple) {
  return {value_of(data, tuple, 1), value_of(data, tuple, 0)};
}

void note(const pg::Extension& extension, const Place& place) {
  pg::Spi spi;
  spi.query("INSERT INTO " + extension.object("bacmr_chunk_change") +
                " (namespace, chunk_id) VALUES ($1, $2)",
            {pg::Param::text(place.space), pg::Param::text(place.id)});
}

// A chunk of no namespace, or without a key, is no job's.
void note_chunk(const pg::Extension& extension, const Place& place) {
  if (place.space && place.id) {
    note(extension, place);
  }
}

Datum capture_change(pg::Args args) {
  if (!CALLED_AS_TRIGGER(args.fcinfo())) {
    throw core::Error("0A000", "bacmr_capture_change() is called by a trigger only");
  }
  const auto& data = *reinterpret_cast<TriggerData*>(args.fcinfo()->context);
  const pg::Spi spi;
  const std::optional<pg::Extension> extension = pg::find_extension();
  if (!extension) {
    return PointerGetDatum(nullptr);
  }
  const pg::AsExtensionOwner owner(extension->owner);
  if (!TRIGGER_FIRED_FOR_ROW(data.tg_event) || !has_columns(data)) {
    note(*extension, {});
    return PointerGetDatum(nullptr);
  }
  const Place before = place_of(data, data.tg_trigtuple);
  note_chunk(*extension, before);
  if (TRIGGER_FIRED_BY_UPDATE(data.tg_event)) {
    if (const Place after = place_of(data, data.tg_newtuple); after != before) {
      note_chunk(*extension, after);
    }
  }
  return PointerGetDatum(nullptr);
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_capture_change, jobs::capture_change);
