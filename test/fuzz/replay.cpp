// Runs a fuzz target on files instead of what libFuzzer finds: replay DIRECTORY …
// So the unit tests know that what the kept corpora hold is still handled well, with any compiler.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int count, char** directories) {
  int files = 0;
  for (int i = 1; i < count; ++i) {
    std::set<std::filesystem::path> sorted;
    for (const auto& entry : std::filesystem::directory_iterator(directories[i])) {
      sorted.insert(entry.path());
    }
    for (const auto& path : sorted) {
      // An input that ends the process is the last one named.
      std::printf("%s\n", path.c_str());
      std::fflush(stdout);
      std::ifstream stream(path, std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
      LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
      ++files;
    }
  }
  if (files == 0) {
    std::fputs("no files to replay\n", stderr);
  }
  return files > 0 ? 0 : 1;
}
