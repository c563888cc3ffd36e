// Where in the source something happened, from debug information; only on the way to an error.
#include <c10/util/Type.h>
#include <dlfcn.h>
#include <execinfo.h>

#include <array>
#include <cstdio>
#include <sstream>

#include "engine/engine.h"

namespace emulation {
namespace {

// The lines of addr2line: function, then file:line, for each function inlined into the next.
std::vector<std::string> resolve(const void* address) {
  Dl_info info;
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  std::ostringstream command;
  command << "addr2line -C -f -i -e '" << info.dli_fname << "' " << std::hex << "0x"
          << reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(info.dli_fbase)
          << " 2>/dev/null";
  std::vector<std::string> lines;
  if (FILE* const output = popen(command.str().c_str(), "r")) {
    std::array<char, 4096> line;
    while (std::fgets(line.data(), line.size(), output) != nullptr) {
      lines.emplace_back(line.data());
      while (!lines.back().empty() && lines.back().back() == '\n') lines.back().pop_back();
    }
    pclose(output);
  }
  return lines;
}

// Not of the functions that make an access for kernels.
bool is_kernel_code(const std::string& place) {
  const bool kernels = place.find("/csrc/cuda/") != std::string::npos ||
                       place.find("planted.cu") != std::string::npos;
  return kernels && place.find("/memory.cuh") == std::string::npos &&
         place.find("/launch.h") == std::string::npos;
}

}  // namespace

std::string call_site() {
  std::array<void*, 64> frames;
  const int count = backtrace(frames.data(), frames.size());
  for (int i = 0; i < count; ++i) {
    // Frames say where a call returns to, one beyond it.
    const auto lines = resolve(static_cast<const char*>(frames[i]) - 1);
    for (size_t line = 1; line < lines.size(); line += 2) {
      if (!is_kernel_code(lines[line])) continue;
      const size_t name = lines[line].find_last_of('/');
      return "at " + lines[line].substr(name + 1);
    }
  }
  return "at an unknown line";
}

std::string name_of(const void* function) {
  static std::map<const void*, std::string> names;
  std::string& name = names[function];
  if (name.empty()) {
    const auto lines = resolve(function);
    name = lines.empty() ? "a kernel" : lines[0];
    // Without its parameters, of which only those after template arguments can be told apart.
    const size_t end = name.find(">(");
    name = end == std::string::npos ? name.substr(0, name.find('(')) : name.substr(0, end + 1);
  }
  return name;
}

}  // namespace emulation
